//! `publickey` queries without a signature (RFC 4252 section 7) over one connection to sshd.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use russh::client::{self, AuthResult, DisconnectReason, Handle, RemoteDisconnectInfo};
use russh::keys::PublicKeyOrCertificate;
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::{Algorithm, HashAlg, PublicKey};
use russh::{AlgorithmKind, Disconnect, MethodKind, MethodSet, Signer, SshId};
use socket2::Socket;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::super::connect_sshd::{ConnectSshd, Purpose};
use super::greeting::{GreetedStream, greet};
use super::{AskError, ServerIdentity};
use crate::identity::statement::ProvenKey;
use crate::wire::{PeerText, Quoting};

/// The most questions on one connection: sshd's default MaxAuthTries is 6, and it closes the connection at the last.
pub(super) const MAX_QUERIES: usize = 5;

/// sshd's reason when it closes the connection because of MaxAuthTries, which may be lower than [`MAX_QUERIES`].
const TOO_MANY: &str = "Too many authentication failures";

/// sshd's answer about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyAnswer {
    /// `SSH_MSG_USERAUTH_PK_OK`: the key would be accepted once it signs.
    Accepted,
    /// `SSH_MSG_USERAUTH_FAILURE`.
    Refused,
    /// It refused the key and closed the connection.
    RefusedAndClosed,
    /// It accepts no key now: the user's login must begin with one of these methods.
    OtherMethod(MethodSet),
}

/// A connection on which sshd can be asked about keys of one user.
pub(super) struct Query {
    target: SocketAddr,
    asked_from: SocketAddr,
    handle: Handle<Listener>,
    events: Arc<Mutex<ConnectionEvents>>,
    identification: PeerText,
}

/// What russh reports about the connection.
#[derive(Debug, Default)]
struct ConnectionEvents {
    host_key: Option<PublicKey>,
    goodbye: Option<RemoteDisconnectInfo>,
}

impl Query {
    /// Connects for `purpose` and exchanges keys. The connection is closed after `idle` without data.
    pub(super) async fn open(sshd: &dyn ConnectSshd, purpose: Purpose, idle: Duration) -> Result<Self, AskError> {
        let target = sshd.target();
        let GreetedStream {
            stream,
            identification,
            beyond,
        } = greet(sshd, purpose).await?;
        let asked_from = stream.local_addr();
        let asked_from = asked_from.map_err(|source| AskError::UpstreamDown { target, source })?;
        let given_up = ShutdownOnDrop::of(&stream).map_err(|source| AskError::UpstreamDown { target, source })?;
        let (read, write) = stream.into_split();
        let said = [identification.as_bytes(), b"\r\n", &beyond].concat();
        let stream = tokio::io::join(std::io::Cursor::new(said).chain(read), write);
        let config = client::Config {
            client_id: SshId::Standard(concat!("SSH-2.0-bowline_", env!("CARGO_PKG_VERSION")).into()),
            inactivity_timeout: Some(idle),
            ..client::Config::default()
        };
        let events = Arc::new(Mutex::new(ConnectionEvents::default()));
        let connected = client::connect_stream(Arc::new(config), stream, Listener(events.clone())).await;
        let handle = connected.map_err(|error| not_connected(target, error))?;
        given_up.disarm();
        Ok(Self {
            target,
            asked_from,
            handle,
            events,
            identification,
        })
    }

    /// Asks whether `key` would be accepted for `user`, who must be the same each time.
    pub(super) async fn ask(&mut self, user: &str, key: &ProvenKey) -> Result<KeyAnswer, AskError> {
        let hash = self.hash_for(key).await?;
        let result = match &key.certificate {
            None => {
                let key = PublicKey::from(key.key.clone());
                self.handle
                    .authenticate_publickey_with(user, key, hash, &mut NeverSign)
                    .await
            }
            Some(certificate) => {
                let certificate = certificate.as_ref().clone();
                self.handle
                    .authenticate_certificate_with(user, certificate, hash, &mut NeverSign)
                    .await
            }
        };
        match result {
            // Success without a signature would be odd, but we need not be stricter than sshd.
            Err(Stopped::BeforeSigning) | Ok(AuthResult::Success) => Ok(KeyAnswer::Accepted),
            Ok(AuthResult::Failure { remaining_methods, .. }) if remaining_methods.contains(&MethodKind::PublicKey) => {
                Ok(KeyAnswer::Refused)
            }
            Ok(AuthResult::Failure { remaining_methods, .. }) if !remaining_methods.is_empty() => {
                Ok(KeyAnswer::OtherMethod(remaining_methods))
            }
            Ok(AuthResult::Failure { .. }) | Err(Stopped::Closed) => self.closed(),
        }
    }

    /// The server's identity.
    pub(super) fn server(&self) -> ServerIdentity {
        ServerIdentity {
            identification: self.identification.clone(),
            host_key: self.events.lock().host_key.clone(),
        }
    }

    /// The address from which sshd sees the question come.
    pub(super) fn asked_from(&self) -> SocketAddr {
        self.asked_from
    }

    /// Closes the connection like a client that has no more keys.
    pub(super) async fn close(self) {
        // If it is closed already, there is nobody left to tell.
        let _ = self.handle.disconnect(Disconnect::ByApplication, "asked", "").await;
    }

    async fn hash_for(&self, key: &ProvenKey) -> Result<Option<HashAlg>, AskError> {
        if !matches!(key.key.algorithm(), Algorithm::Rsa { .. }) {
            return Ok(None);
        }
        let source_error = |source| AskError::Ssh {
            target: self.target,
            source: Quoting(source),
        };
        let best = self.handle.best_supported_rsa_hash().await.map_err(source_error)?;
        Ok(Some(best.flatten().unwrap_or(HashAlg::Sha512)))
    }

    fn closed(&self) -> Result<KeyAnswer, AskError> {
        let goodbye = self.events.lock().goodbye.take();
        match goodbye {
            Some(goodbye) if goodbye.message.starts_with(TOO_MANY) => Ok(KeyAnswer::RefusedAndClosed),
            goodbye => Err(AskError::HungUp {
                target: self.target,
                said: goodbye.map(|goodbye| goodbye.message.into()).unwrap_or_default(),
            }),
        }
    }
}

/// Closes a connection when dropped, unless disarmed: russh continues a key exchange whose future was dropped.
struct ShutdownOnDrop(Option<Socket>);

impl ShutdownOnDrop {
    fn of(stream: &TcpStream) -> io::Result<ShutdownOnDrop> {
        let socket = stream.as_fd().try_clone_to_owned()?;
        Ok(ShutdownOnDrop(Some(socket.into())))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        // Fails if the connection has ended already.
        let _ = self.0.as_ref().map(|socket| socket.shutdown(Shutdown::Both));
    }
}

/// The error of a failed key exchange.
fn not_connected(target: SocketAddr, error: russh::Error) -> AskError {
    match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => AskError::NoCommonAlgorithm {
            target,
            kind: match kind {
                AlgorithmKind::Kex => "key exchange",
                AlgorithmKind::Key => "host key",
                AlgorithmKind::Cipher => "cipher",
                AlgorithmKind::Compression => "compression",
                AlgorithmKind::Mac => "MAC",
            },
            offered: theirs.join(",").into(),
        },
        source => AskError::Ssh {
            target,
            source: Quoting(source),
        },
    }
}

struct Listener(Arc<Mutex<ConnectionEvents>>);

impl client::Handler for Listener {
    type Error = russh::Error;

    /// Accepts any host key: nothing secret is sent, and whoever answers falsely cannot get a client past the login
    /// inside.
    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let key = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.clone(),
            PublicKeyOrCertificate::Certificate(certificate) => certificate.public_key().clone().into(),
        };
        let mut events = self.0.lock();
        events.host_key = Some(key);
        Ok(true)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(goodbye) => {
                let mut events = self.0.lock();
                events.goodbye = Some(goodbye);
                Ok(())
            }
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

/// Being asked to sign is the answer: it happens only after PK_OK.
struct NeverSign;

enum Stopped {
    BeforeSigning,
    Closed,
}

impl From<russh::SendError> for Stopped {
    fn from(_: russh::SendError) -> Self {
        Self::Closed
    }
}

impl Signer for NeverSign {
    type Error = Stopped;

    async fn auth_sign(&mut self, _: &AgentIdentity, _: Option<HashAlg>, _: Vec<u8>) -> Result<Vec<u8>, Stopped> {
        Err(Stopped::BeforeSigning)
    }
}
