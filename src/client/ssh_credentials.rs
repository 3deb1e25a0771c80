//! The user's SSH keys as credentials, and the memory of which one won.

use super::{Boxed, Credentials};
use crate::hints::Hints;
use crate::identity::ssh_config::SshConfig;
use crate::identity::user_keys::{Round, SignedRound, UserKeys};
use crate::wire::Authorization;
use bytes::Bytes;
use russh::keys::ssh_key::Fingerprint;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;
use tracing::{debug, info};

/// What tells the user that a key waits for a touch, or an agent for its user.
pub type Notice = Box<dyn Fn(&str) + Send + Sync>;

/// Offers the keys that ssh would offer, the last winner first and alone.
pub struct SshCredentials {
    keys: UserKeys,
    rounds: Vec<Round>,
    hints: Hints,
    /// Under which the winner is remembered.
    name: String,
    winner: Option<Fingerprint>,
    notice: Notice,
    tried: Mutex<Vec<SignedRound>>,
}

impl SshCredentials {
    /// Finds the keys that ssh would offer to `host` as `config` says, those in `extra` files before them.
    ///
    /// Which one wins is remembered in `state_dir`. `notice` is told before a key is used that needs the user.
    pub async fn gather(
        config: &SshConfig,
        extra: &[PathBuf],
        host: &str,
        state_dir: &Path,
        notice: Notice,
    ) -> SshCredentials {
        let (hints, name) = (Hints::of_keys(state_dir), format!("{}@{host}", config.user));
        let winner = hints.recall(&name).and_then(|winner| winner.parse().ok());
        let gathering = UserKeys::gather(config, extra, winner.as_ref());
        let what = "waiting for the agent to list its keys: it may be asking you to unlock it";
        let keys = told_if_silent(&notice, what, gathering).await;
        for skipped in keys.unusable() {
            info!(key = skipped.description, reason = %skipped.reason, "a key is left out");
        }
        SshCredentials {
            rounds: keys.rounds(),
            keys,
            hints,
            name,
            winner,
            notice,
            tried: Mutex::default(),
        }
    }
}

/// For so long an agent may be silent before the user is told whom ssh waits for.
const SILENCE: Duration = Duration::from_secs(2);

impl SshCredentials {
    /// Signs, and tells the user whom that waits for where it takes a while.
    async fn signed(&self, round: Round, only: Option<&[u8]>, message: &[u8]) -> SignedRound {
        let keys = self.keys.keys_of(round);
        let keys = keys.iter().filter(|key| only.is_none_or(|only| key.offers_blob(only)));
        let (mut touched, mut in_agent) = (Vec::new(), Vec::new());
        for key in keys {
            match (key.needs_touch(), key.file()) {
                (true, _) => touched.push(key.to_string()),
                (false, None) => in_agent.push(key.to_string()),
                (false, Some(_)) => {}
            }
        }
        for key in touched {
            (self.notice)(&format!("touch the security key for {key}"));
        }
        let signing = self.keys.sign_round(round, only, message);
        if in_agent.is_empty() {
            return signing.await;
        }
        let what = format!(
            "waiting for the agent to sign with {}: it may be asking you for a PIN, a touch or a yes",
            in_agent.join(", ")
        );
        told_if_silent(&self.notice, &what, signing).await
    }

    fn keep(&self, signed: SignedRound) -> Vec<Authorization> {
        let authorizations = signed.authorizations.iter().map(|signed| Authorization {
            key: signed.key.clone().into(),
            signature: signed.signature.clone().into(),
        });
        let authorizations = authorizations.collect();
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).push(signed);
        authorizations
    }
}

/// Waits for `work`, and says for what once it has taken [`SILENCE`].
async fn told_if_silent<T>(notice: &Notice, what: &str, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if let Ok(done) = timeout(SILENCE, &mut work).await {
        return done;
    }
    notice(what);
    work.await
}

impl Credentials for SshCredentials {
    fn to_ask(&self, round: usize) -> Vec<Bytes> {
        let Some(round) = self.rounds.get(round) else {
            return Vec::new();
        };
        let asked = self.keys.to_ask(*round);
        let (blobs, descriptions): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        if !descriptions.is_empty() {
            let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
            tried.push(SignedRound {
                asked: descriptions,
                ..SignedRound::default()
            });
        }
        blobs.into_iter().map(Bytes::from).collect()
    }

    fn sign_with<'a>(&'a self, round: usize, key: &'a [u8], message: &'a [u8]) -> Boxed<'a, Option<Authorization>> {
        Box::pin(async move {
            let round = *self.rounds.get(round)?;
            let signed = self.signed(round, Some(key), message).await;
            self.keep(signed).pop()
        })
    }

    fn sign<'a>(&'a self, round: usize, message: &'a [u8]) -> Boxed<'a, Option<Vec<Authorization>>> {
        Box::pin(async move {
            let round = *self.rounds.get(round)?;
            let signed = self.signed(round, None, message).await;
            Some(self.keep(signed))
        })
    }

    fn handle_accepted(&self, key: &[u8]) {
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let signed = tried
            .iter()
            .flat_map(|round| &round.authorizations)
            .find(|signed| signed.key == key);
        let Some(fingerprint) = signed
            .map(|signed| signed.fingerprint)
            .filter(|won| self.winner != Some(*won))
        else {
            return;
        };
        if let Err(error) = self.hints.remember(&self.name, &fingerprint.to_string()) {
            debug!(%error, "cannot remember which key was accepted");
        }
    }

    fn describe(&self) -> Vec<String> {
        self.keys
            .describe(&self.tried.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ssh_has_more(&self) -> bool {
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = tried.iter().flat_map(|round| &round.skipped);
        let mut skipped = self.keys.unusable().iter().chain(skipped);
        skipped.any(|skipped| skipped.reason.is_ours_alone())
    }
}
