//! Who answers at the target: which host key it proves, and whether its answers about keys mean anything.

use std::time::Duration;

use russh::keys::ssh_key::{Algorithm, PrivateKey};
use tokio::time::timeout;

use super::super::connect_sshd::{ConnectSshd, Purpose};
use super::query::{Answer, Query};
use super::{AskError, Upstream};
use crate::identity::statement::ProvenKey;

/// What one look at an SSH server tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Who answers.
    pub upstream: Upstream,
    /// Whether it said yes to a key that was made for this question, and that nobody can have allowed.
    pub accepts_any_key: bool,
}

/// Looks at the SSH server that `sshd` connects to, and asks it about a fresh key for `user`, within `limit`.
///
/// # Errors
/// See [`AskError`]; that it takes no key at all is an answer.
pub async fn look(sshd: &dyn ConnectSshd, user: &str, limit: Duration) -> Result<Look, AskError> {
    let target = sshd.target();
    let looking = async {
        let mut query = Query::open(sshd, Purpose::Banner, limit).await?;
        let upstream = query.upstream();
        let answer = query.ask(user, &fresh_key()).await;
        query.close().await;
        Ok(Look {
            upstream,
            accepts_any_key: matches!(answer, Ok(Answer::Accepted)),
        })
    };
    timeout(limit, looking)
        .await
        .unwrap_or(Err(AskError::TimedOut { target, limit }))
}

/// A key that nobody knows: its private half is gone already. Of the kind that every server knows.
fn fresh_key() -> ProvenKey {
    let key = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519);
    let public = key.expect("an Ed25519 key can be made").public_key().clone();
    ProvenKey {
        blob: public.to_bytes().expect("a key can be written").into(),
        key: public.key_data().clone(),
        certificate: None,
    }
}
