//! `publickey` queries without a signature (RFC 4252 section 7) over one connection to sshd.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::client::{self, AuthResult, DisconnectReason, Handle, RemoteDisconnectInfo};
use russh::keys::PublicKeyOrCertificate;
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::{Algorithm, HashAlg, PublicKey};
use russh::{AlgorithmKind, Disconnect, MethodKind, MethodSet, Signer, SshId};
use socket2::Socket;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::super::connect_sshd::{ConnectSshd, Purpose};
use super::greeting::{Greeted, greet};
use super::{AskError, Upstream};
use crate::identity::statement::ProvenKey;
use crate::wire::{PeerText, Quoting};

/// Most keys asked about over one connection: sshd's default MaxAuthTries is 6, and it hangs up with the last.
pub(super) const MAX_QUERIES: usize = 5;

/// What sshd says when it hangs up because of MaxAuthTries, which may be set below [`MAX_QUERIES`].
const TOO_MANY: &str = "Too many authentication failures";

/// What sshd answered about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// `SSH_MSG_USERAUTH_PK_OK`: the key would do, once it signs.
    Accepted,
    /// `SSH_MSG_USERAUTH_FAILURE`.
    Refused,
    /// It refused the key and hung up.
    RefusedAndClosed,
    /// It takes no key now: the user's login begins with one of these methods.
    OtherMethod(MethodSet),
}

/// A connection on which sshd can be asked about keys of one user.
pub(super) struct Query {
    target: SocketAddr,
    asked_from: SocketAddr,
    handle: Handle<Listener>,
    heard: Arc<Mutex<Heard>>,
    identification: PeerText,
}

/// What russh tells about the connection.
#[derive(Debug, Default)]
struct Heard {
    host_key: Option<PublicKey>,
    goodbye: Option<RemoteDisconnectInfo>,
}

impl Query {
    /// Connects for `purpose` and exchanges keys. The connection ends by itself once it is silent for `idle`.
    pub(super) async fn open(sshd: &dyn ConnectSshd, purpose: Purpose, idle: Duration) -> Result<Self, AskError> {
        let target = sshd.target();
        let Greeted {
            stream,
            identification,
            beyond,
        } = greet(sshd, purpose).await?;
        let asked_from = stream.local_addr();
        let asked_from = asked_from.map_err(|source| AskError::UpstreamDown { target, source })?;
        let given_up = HangUp::of(&stream).map_err(|source| AskError::UpstreamDown { target, source })?;
        let (read, write) = stream.into_split();
        let said = [identification.as_bytes(), b"\r\n", &beyond].concat();
        let stream = tokio::io::join(std::io::Cursor::new(said).chain(read), write);
        let config = client::Config {
            client_id: SshId::Standard(concat!("SSH-2.0-bowline_", env!("CARGO_PKG_VERSION")).into()),
            inactivity_timeout: Some(idle),
            ..client::Config::default()
        };
        let heard = Arc::new(Mutex::new(Heard::default()));
        let connected = client::connect_stream(Arc::new(config), stream, Listener(heard.clone())).await;
        let handle = connected.map_err(|error| not_connected(target, error))?;
        given_up.disarm();
        Ok(Self {
            target,
            asked_from,
            handle,
            heard,
            identification,
        })
    }

    /// Asks whether `key` would do for `user`, who must be the same each time.
    pub(super) async fn ask(&mut self, user: &str, key: &ProvenKey) -> Result<Answer, AskError> {
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
            // Success without a signature would be odd, but it is not for us to be stricter than sshd.
            Err(Stopped::BeforeSigning) | Ok(AuthResult::Success) => Ok(Answer::Accepted),
            Ok(AuthResult::Failure { remaining_methods, .. }) if remaining_methods.contains(&MethodKind::PublicKey) => {
                Ok(Answer::Refused)
            }
            Ok(AuthResult::Failure { remaining_methods, .. }) if !remaining_methods.is_empty() => {
                Ok(Answer::OtherMethod(remaining_methods))
            }
            Ok(AuthResult::Failure { .. }) | Err(Stopped::Closed) => self.closed(),
        }
    }

    /// Whom we talked to.
    pub(super) fn upstream(&self) -> Upstream {
        Upstream {
            identification: self.identification.clone(),
            host_key: self.heard().host_key.clone(),
        }
    }

    /// Where sshd sees the question come from.
    pub(super) fn asked_from(&self) -> SocketAddr {
        self.asked_from
    }

    /// Ends the connection as a client does that has no more keys.
    pub(super) async fn close(self) {
        // When it is closed already there is nobody left to tell.
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

    fn closed(&self) -> Result<Answer, AskError> {
        let goodbye = self.heard().goodbye.take();
        match goodbye {
            Some(goodbye) if goodbye.message.starts_with(TOO_MANY) => Ok(Answer::RefusedAndClosed),
            goodbye => Err(AskError::HungUp {
                target: self.target,
                said: goodbye.map(|goodbye| goodbye.message.into()).unwrap_or_default(),
            }),
        }
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a connection unless it is disarmed: russh goes on with one whose future was dropped while keys are exchanged.
struct HangUp(Option<Socket>);

impl HangUp {
    fn of(stream: &TcpStream) -> io::Result<HangUp> {
        let socket = stream.as_fd().try_clone_to_owned()?;
        Ok(HangUp(Some(socket.into())))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to do.
        let _ = self.0.as_ref().map(|socket| socket.shutdown(Shutdown::Both));
    }
}

/// Why keys were not exchanged.
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

struct Listener(Arc<Mutex<Heard>>);

impl client::Handler for Listener {
    type Error = russh::Error;

    /// Any: nothing secret is sent, and the verdict only lets a stranger as near as the same address lets us.
    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let key = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.clone(),
            PublicKeyOrCertificate::Certificate(certificate) => certificate.public_key().clone().into(),
        };
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.host_key = Some(key);
        Ok(true)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(goodbye) => {
                let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                heard.goodbye = Some(goodbye);
                Ok(())
            }
            DisconnectReason::Error(error) => Err(error),
        }
    }
}

/// Being asked to sign is the answer: it happens after PK_OK only.
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
