//! One attempt of a server half to be listed at a relay: all addresses, both transports, and the first that succeeds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use tokio::task::JoinSet;

use super::RelayTransport;
use super::config::{RelayWindow, accepting};
use super::dial::{self, Caller, DialRelayError};
use super::listing::Listing;
use super::stream::ViaStream;
use super::talk::{TalkError, read_word, send_word};
use super::way::Way;
use crate::carrier::quic::QuicLimits;
use crate::carrier::tls;
use crate::clock;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::wire::{DialToken, KeyDigest, RelayRefusal, RelayWord, Statement};

/// For all of an attempt.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Each further address waits so long for the one before (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// TLS begins when QUIC had time for a lost first packet.
const HEAD_START: Duration = Duration::from_millis(1200);
/// Most addresses of a relay that are dialled.
const MOST_ADDRESSES: usize = 4;

/// What all registrations of a server half have in common.
#[derive(Clone)]
pub struct RegistrationSettings {
    /// bowline's own TLS key, which the statements are about.
    pub key: TlsKey,
    /// By each SSH host key: what the host message says.
    pub statements: Vec<Statement>,
    /// Most streams that one relay may open at once. Default of those who have no other wish: 512.
    pub streams: u32,
    /// Room for each of them.
    pub window: RelayWindow,
    /// Settings of QUIC.
    pub quic: QuicLimits,
    /// How many streams live by way of any relay. One for all registrations of a server half.
    pub live: Arc<AtomicUsize>,
}

/// An attempt to be listed failed.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The name of the relay leads nowhere.
    #[error("cannot find its address: {0}")]
    Address(#[source] std::io::Error),
    /// It cannot be dialled.
    #[error(transparent)]
    Dial(#[from] DialRelayError),
    /// It was lost, or broke the protocol.
    #[error(transparent)]
    Talk(#[from] TalkError),
    /// It says no.
    #[error("the relay refuses: {0}")]
    Refused(RelayRefusal),
    /// It said something that is no answer.
    #[error("the relay gave no answer to the question")]
    OffTopic,
    /// It did not answer in time.
    #[error("no answer within {} s", ATTEMPT.as_secs())]
    Timeout,
}

/// What an attempt needs.
pub(super) struct Registrar {
    pub(super) name: Arc<str>,
    way: Arc<dyn Way>,
    accept: ServerKey,
    settings: RegistrationSettings,
    pub(super) live: Arc<AtomicUsize>,
}

impl Registrar {
    pub(super) fn new(
        name: Arc<str>,
        way: Arc<dyn Way>,
        relay_key: Option<KeyDigest>,
        settings: RegistrationSettings,
    ) -> Registrar {
        Registrar {
            name,
            way,
            accept: accepting(relay_key),
            live: Arc::clone(&settings.live),
            settings,
        }
    }

    /// Whether sessions run by way of any relay.
    pub(super) fn is_needed(&self) -> bool {
        self.live.load(Relaxed) > 0
    }

    pub(super) async fn attempt(self: Arc<Self>, only_quic: bool) -> Result<Listing, RegisterError> {
        let race = Arc::clone(&self).race(only_quic);
        tokio::time::timeout(ATTEMPT, race)
            .await
            .unwrap_or(Err(RegisterError::Timeout))
    }

    /// All addresses, QUIC first. The first to be listed wins; the error is the last one.
    async fn race(self: Arc<Self>, only_quic: bool) -> Result<Listing, RegisterError> {
        let addresses = self.way.addresses().await.map_err(RegisterError::Address)?;
        let mut lanes = JoinSet::new();
        for (at, address) in addresses.into_iter().take(MOST_ADDRESSES).enumerate() {
            let (quic, tls) = (Arc::clone(&self), Arc::clone(&self));
            let wait = STAGGER * at as u32;
            lanes.spawn(async move {
                tokio::time::sleep(wait).await;
                quic.register(address, RelayTransport::Quic).await
            });
            if !only_quic {
                lanes.spawn(async move {
                    tokio::time::sleep(wait + HEAD_START).await;
                    tls.register(address, RelayTransport::Tls).await
                });
            }
        }
        let mut failure = RegisterError::Timeout;
        while let Some(lane) = lanes.join_next().await {
            match lane {
                Ok(Ok(listing)) => return Ok(listing),
                // What the relay itself says is more than what became of the other lanes.
                Ok(Err(RegisterError::Refused(refusal))) => return Err(RegisterError::Refused(refusal)),
                Ok(Err(error)) => failure = error,
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn register(&self, address: SocketAddr, transport: RelayTransport) -> Result<Listing, RegisterError> {
        let mut control = self.dial(address, transport).await?;
        let statements = self.settings.statements.clone();
        let asked = clock::now();
        send_word(&mut control, &RelayWord::Register { statements })
            .await
            .map_err(TalkError::from)?;
        match read_word(&mut control, &mut BytesMut::new()).await? {
            RelayWord::Registered { keys } => Ok(Listing {
                control,
                address,
                rtt: clock::now().saturating_duration_since(asked),
                keys,
            }),
            RelayWord::Refused(refusal) => Err(RegisterError::Refused(refusal)),
            _ => Err(RegisterError::OffTopic),
        }
    }

    /// A stream of its own, in answer to a `Dial`.
    pub(super) async fn answer(&self, address: SocketAddr, token: DialToken) -> Result<ViaStream, RegisterError> {
        let mut stream = self.dial(address, RelayTransport::Tls).await?;
        send_word(&mut stream, &RelayWord::Answer { token })
            .await
            .map_err(TalkError::from)?;
        Ok(stream)
    }

    async fn dial(&self, address: SocketAddr, transport: RelayTransport) -> Result<ViaStream, DialRelayError> {
        let caller = Caller {
            key: &self.settings.key,
            accept: &self.accept,
            quic: self.settings.quic,
            window: self.settings.window,
            streams: self.settings.streams,
        };
        match transport {
            RelayTransport::Quic => dial::dial_quic(caller, address).await,
            RelayTransport::Tls => {
                let stream = tls::connect(address).await.map_err(DialRelayError::Socket)?;
                dial::dial_tls(caller, Box::new(stream), address).await
            }
        }
    }
}
