//! Inspects the SSH server at the target: its host key, and whether its answers about keys mean anything.

use std::time::Duration;

use russh::keys::ssh_key::{Algorithm, PrivateKey};
use tokio::time::timeout;

use super::super::connect_sshd::{ConnectSshd, Purpose};
use super::query::{KeyAnswer, Query};
use super::{AskError, ServerIdentity};
use crate::identity::statement::ProvenKey;

/// The user in the question: a name that every system has.
pub const INSPECT_USER: &str = "root";

/// How long an inspection may take. On this machine it takes milliseconds.
pub const INSPECT_TIMEOUT: Duration = Duration::from_secs(4);

/// What an inspection found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The server's identity.
    pub server: ServerIdentity,
    /// Whether it accepted a key that was created for this question, and that nobody can have authorized.
    pub accepts_any_key: bool,
}

/// Inspects the SSH server that `sshd` connects to, and asks it about a fresh key for `user`, within `limit`.
///
/// # Errors
/// See [`AskError`]. That it accepts no key is not an error.
pub async fn inspect(sshd: &dyn ConnectSshd, user: &str, limit: Duration) -> Result<ServerInfo, AskError> {
    let target = sshd.target();
    let looking = async {
        let mut query = Query::open(sshd, Purpose::Banner, limit).await?;
        let server = query.server();
        let answer = query.ask(user, &fresh_key()).await;
        query.close().await;
        Ok(ServerInfo {
            server,
            accepts_any_key: matches!(answer, Ok(KeyAnswer::Accepted)),
        })
    };
    timeout(limit, looking)
        .await
        .unwrap_or(Err(AskError::TimedOut { target, limit }))
}

/// A key that nobody knows, because its private half is dropped. Its type is one that every server supports.
fn fresh_key() -> ProvenKey {
    let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519);
    let public = key.expect("an Ed25519 key can be made").public_key().clone();
    ProvenKey {
        blob: public.to_bytes().expect("a key can be written").into(),
        key: public.key_data().clone(),
        certificate: None,
    }
}
