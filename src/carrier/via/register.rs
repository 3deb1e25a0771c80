//! One attempt of a server half to register at a relay: tries all addresses over both transports
//! and returns the first that succeeds.

use super::RelayTransport;
use super::codec::{RelayStreamError, read_message, send_message};
use super::control::ControlConnection;
use super::dial::DialSettings;
use super::dial::{RelayWindow, accepted_key};
use super::stream::ViaStream;
use crate::clock;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::transport::quic::MtuCap;
use crate::transport::{self, ATTEMPT_DELAY, ConnectError};
use crate::wire::{DialToken, KeyDigest, Refusal, RelayMessage, RelayRefusalCode, Statement};
use bytes::BytesMut;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Longest attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Delay before TLS is tried, if QUIC does not fail before: enough for QUIC to retransmit a lost first packet.
const TLS_DELAY: Duration = Duration::from_millis(1200);
/// Most addresses of a relay that are dialled.
const MAX_ADDRESSES: usize = 4;

/// Settings shared by all registrations of a server half.
#[derive(Clone)]
pub struct RegistrationSettings {
    /// bowline's own TLS key, which the statements certify.
    pub key: TlsKey,
    /// One statement per SSH host key, as in the host message.
    pub statements: Vec<Statement>,
    /// Most streams that one relay may open at once. Default 512.
    pub streams: u32,
    /// Window of each stream.
    pub window: RelayWindow,
    /// Most UDP payload.
    pub mtu_cap: MtuCap,
    /// Number of open streams over all relays, shared by all registrations of a server half.
    pub live: Arc<AtomicUsize>,
}

/// A registration attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The relay's name cannot be resolved.
    #[error("cannot resolve its address: {0}")]
    Address(#[source] std::io::Error),
    /// The relay's name resolves to no address.
    #[error("its name has no address")]
    NoAddress,
    /// The relay cannot be dialled.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection to the relay failed, or the relay violated the protocol.
    #[error(transparent)]
    Stream(#[from] RelayStreamError),
    /// The relay refused the registration.
    #[error("the relay refuses: {0}")]
    Refused(Refusal<RelayRefusalCode>),
    /// The relay sent a message that does not answer the request.
    #[error("the relay answered with an unexpected message")]
    UnexpectedMessage,
    /// The relay did not answer in time.
    #[error("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())]
    Timeout,
}

/// Dials and registers at one relay.
pub(super) struct RegistrationDialer {
    pub(super) name: Arc<str>,
    source: Arc<dyn AddressSource>,
    accept: ServerKey,
    settings: RegistrationSettings,
    pub(super) live: Arc<AtomicUsize>,
}

impl RegistrationDialer {
    pub(super) fn new(
        name: Arc<str>,
        source: Arc<dyn AddressSource>,
        relay_key: Option<KeyDigest>,
        settings: RegistrationSettings,
    ) -> RegistrationDialer {
        RegistrationDialer {
            name,
            source,
            accept: accepted_key(relay_key),
            live: Arc::clone(&settings.live),
            settings,
        }
    }

    /// Whether any session runs over any relay.
    pub(super) fn is_needed(&self) -> bool {
        self.live.load(Relaxed) > 0
    }

    pub(super) async fn attempt(self: Arc<Self>, only_quic: bool) -> Result<ControlConnection, RegisterError> {
        let race = Arc::clone(&self).race(only_quic);
        tokio::time::timeout(ATTEMPT_TIMEOUT, race)
            .await
            .unwrap_or(Err(RegisterError::Timeout))
    }

    /// Tries all addresses, QUIC first. Returns the first answer of a relay, or the last error.
    async fn race(self: Arc<Self>, only_quic: bool) -> Result<ControlConnection, RegisterError> {
        let mut addresses = self.source.addresses().await.map_err(RegisterError::Address)?;
        addresses.truncate(MAX_ADDRESSES);
        let quic_delays = ATTEMPT_DELAY * addresses.len().saturating_sub(1) as u32;
        let tls_delay = TLS_DELAY.saturating_sub(quic_delays);
        let mut attempts = Vec::new();
        for (transport, first_delay) in [(RelayTransport::Quic, Duration::ZERO), (RelayTransport::Tls, tls_delay)] {
            if only_quic && transport == RelayTransport::Tls {
                break;
            }
            for (index, address) in addresses.iter().copied().enumerate() {
                let dialer = Arc::clone(&self);
                let attempt = async move {
                    match dialer.register(address, transport).await {
                        // A refusal by the relay says more than the errors of the other attempts.
                        Err(RegisterError::Refused(refusal)) => Ok(Err(RegisterError::Refused(refusal))),
                        answer => answer.map(Ok),
                    }
                };
                attempts.push((if index == 0 { first_delay } else { ATTEMPT_DELAY }, attempt));
            }
        }
        let mut failure = RegisterError::NoAddress;
        let answer = transport::race(attempts, |error| failure = error).await;
        answer.unwrap_or(Err(failure))
    }

    async fn register(
        &self,
        address: SocketAddr,
        transport: RelayTransport,
    ) -> Result<ControlConnection, RegisterError> {
        let mut control = self.dial(address, transport).await?;
        let statements = self.settings.statements.clone();
        let asked = clock::now();
        send_message(&mut control, &RelayMessage::Register { statements })
            .await
            .map_err(RelayStreamError::from)?;
        match read_message(&mut control, &mut BytesMut::new()).await? {
            RelayMessage::Registered { keys } => Ok(ControlConnection {
                control,
                address,
                rtt: clock::now().saturating_duration_since(asked),
                keys,
            }),
            RelayMessage::Refused(refusal) => Err(RegisterError::Refused(refusal)),
            _ => Err(RegisterError::UnexpectedMessage),
        }
    }

    /// Dials back in answer to `Dial`.
    pub(super) async fn answer(&self, address: SocketAddr, token: DialToken) -> Result<ViaStream, RegisterError> {
        let mut stream = self.dial(address, RelayTransport::Tls).await?;
        send_message(&mut stream, &RelayMessage::Answer { token })
            .await
            .map_err(RelayStreamError::from)?;
        Ok(stream)
    }

    async fn dial(&self, address: SocketAddr, transport: RelayTransport) -> Result<ViaStream, ConnectError> {
        let settings = DialSettings {
            key: &self.settings.key,
            accept: &self.accept,
            mtu_cap: self.settings.mtu_cap,
            window: self.settings.window,
            streams: self.settings.streams,
        };
        settings.dial(address, transport).await
    }
}

/// A future of resolved addresses.
pub type ResolveFuture<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// Resolves the addresses of a relay, before every attempt, because they may change while the server
/// half runs.
pub trait AddressSource: Send + Sync {
    /// The relay's addresses, best first. At most four are dialled. TCP uses the same port number
    /// as UDP.
    ///
    /// # Errors
    /// The name cannot be resolved, and no earlier answer is cached.
    fn addresses(&self) -> ResolveFuture<'_, Vec<SocketAddr>>;
}
