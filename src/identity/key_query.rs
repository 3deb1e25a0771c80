//! `publickey` queries without a signature (RFC 4252 section 7) over one connection to an SSH server.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use russh::client::{self, AuthResult, DisconnectReason, Handle, RemoteDisconnectInfo};
use russh::keys::PublicKeyOrCertificate;
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::{Algorithm, HashAlg, PublicKey};
use russh::{AlgorithmKind, Disconnect, MethodKind, MethodSet, Signer, SshId};
use tokio::io::{AsyncRead, AsyncWrite};

use super::statement::ProvenKey;
use crate::wire::{PeerText, Quoting};

/// The most questions on one connection: sshd's default MaxAuthTries is 6, and it closes the connection at the last.
pub(crate) const MAX_QUERIES: usize = 5;

/// sshd's reason when it closes the connection because of MaxAuthTries, which may be lower than [`MAX_QUERIES`].
const TOO_MANY: &str = "Too many authentication failures";

/// The server's answer about one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyAnswer {
    /// `SSH_MSG_USERAUTH_PK_OK`: the key would be accepted once it signs.
    Accepted,
    /// `SSH_MSG_USERAUTH_FAILURE`.
    Refused,
    /// It refused the key and closed the connection.
    RefusedAndClosed,
    /// It accepts no key now: the user's login must begin with one of these methods.
    OtherMethod(MethodSet),
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum KeyQueryError {
    /// It and bowline have no algorithm in common.
    NoCommonAlgorithm {
        /// The kind of algorithm.
        kind: &'static str,
        /// What it offers, separated by commas.
        offered: PeerText,
    },
    /// It closed the connection when it was asked, and said this.
    HungUp(PeerText),
    /// The SSH protocol failed.
    Ssh(Quoting<russh::Error>),
}

/// A connection on which an SSH server can be asked about keys of one user.
pub(crate) struct KeyQuery {
    handle: Handle<Listener>,
    events: Arc<Mutex<ConnectionEvents>>,
}

/// What russh reports about the connection.
#[derive(Debug, Default)]
struct ConnectionEvents {
    host_key: Option<PublicKey>,
    goodbye: Option<RemoteDisconnectInfo>,
}

impl KeyQuery {
    /// Exchanges keys over `stream`. The connection is closed after `idle` without data. `only` is the host key that the
    /// server must have; otherwise any will do: nothing secret is sent.
    pub(crate) async fn open<S>(stream: S, idle: Duration, only: Option<PublicKey>) -> Result<Self, KeyQueryError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = client::Config {
            client_id: SshId::Standard(concat!("SSH-2.0-bowline_", env!("CARGO_PKG_VERSION")).into()),
            inactivity_timeout: Some(idle),
            ..client::Config::default()
        };
        let events = Arc::new(Mutex::new(ConnectionEvents::default()));
        let listener = Listener {
            events: events.clone(),
            only,
        };
        let connected = client::connect_stream(Arc::new(config), stream, listener).await;
        let handle = connected.map_err(not_connected)?;
        Ok(Self { handle, events })
    }

    /// Asks whether `key` would be accepted for `user`, who must be the same each time.
    pub(crate) async fn ask(&mut self, user: &str, key: &ProvenKey) -> Result<KeyAnswer, KeyQueryError> {
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

    /// The key that the server has proved.
    pub(crate) fn host_key(&self) -> Option<PublicKey> {
        self.events.lock().host_key.clone()
    }

    /// Closes the connection like a client that has no more keys.
    pub(crate) async fn close(self) {
        // If it is closed already, there is nobody left to tell.
        let _ = self.handle.disconnect(Disconnect::ByApplication, "asked", "").await;
    }

    async fn hash_for(&self, key: &ProvenKey) -> Result<Option<HashAlg>, KeyQueryError> {
        if !matches!(key.key.algorithm(), Algorithm::Rsa { .. }) {
            return Ok(None);
        }
        let failed = |source| KeyQueryError::Ssh(Quoting(source));
        let best = self.handle.best_supported_rsa_hash().await.map_err(failed)?;
        Ok(Some(best.flatten().unwrap_or(HashAlg::Sha512)))
    }

    fn closed(&self) -> Result<KeyAnswer, KeyQueryError> {
        let goodbye = self.events.lock().goodbye.take();
        match goodbye {
            Some(goodbye) if goodbye.message.starts_with(TOO_MANY) => Ok(KeyAnswer::RefusedAndClosed),
            goodbye => Err(KeyQueryError::HungUp(
                goodbye.map(|goodbye| goodbye.message.into()).unwrap_or_default(),
            )),
        }
    }
}

/// The error of a failed key exchange.
fn not_connected(error: russh::Error) -> KeyQueryError {
    match error {
        russh::Error::NoCommonAlgo { kind, theirs, .. } => KeyQueryError::NoCommonAlgorithm {
            kind: match kind {
                AlgorithmKind::Kex => "key exchange",
                AlgorithmKind::Key => "host key",
                AlgorithmKind::Cipher => "cipher",
                AlgorithmKind::Compression => "compression",
                AlgorithmKind::Mac => "MAC",
            },
            offered: theirs.join(",").into(),
        },
        source => KeyQueryError::Ssh(Quoting(source)),
    }
}

struct Listener {
    events: Arc<Mutex<ConnectionEvents>>,
    only: Option<PublicKey>,
}

impl client::Handler for Listener {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        let key: PublicKey = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.clone(),
            PublicKeyOrCertificate::Certificate(certificate) => certificate.public_key().clone().into(),
        };
        let is_right = self.only.as_ref().is_none_or(|only| only.key_data() == key.key_data());
        let mut events = self.events.lock();
        events.host_key = Some(key);
        Ok(is_right)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Self::Error>) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(goodbye) => {
                let mut events = self.events.lock();
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
