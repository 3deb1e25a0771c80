//! The user's SSH keys as credentials, and the memory of which one won.

use super::{Boxed, Credentials};
use crate::hints::Hints;
use crate::identity::ssh_config::SshConfig;
use crate::identity::user_keys::{Round, SignedRound, UserKeys};
use crate::wire::Authorization;
use russh::keys::ssh_key::Fingerprint;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tracing::debug;

/// What tells the user that a key waits for a touch or a passphrase.
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
        let keys = UserKeys::gather(config, extra, winner.as_ref()).await;
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

impl Credentials for SshCredentials {
    fn sign<'a>(&'a self, round: usize, message: &'a [u8]) -> Boxed<'a, Option<Vec<Authorization>>> {
        Box::pin(async move {
            let round = *self.rounds.get(round)?;
            if let Round::Interactive(_) = round {
                self.keys
                    .keys_of(round)
                    .iter()
                    .filter(|key| key.needs_touch())
                    .for_each(|key| {
                        (self.notice)(&format!("touch the security key for {key}"));
                    });
            }
            let signed = self.keys.sign_round(round, message).await;
            let authorizations = signed.authorizations.iter().map(|signed| Authorization {
                key: signed.key.clone().into(),
                signature: signed.signature.clone().into(),
            });
            let authorizations = authorizations.collect();
            self.tried.lock().unwrap_or_else(PoisonError::into_inner).push(signed);
            Some(authorizations)
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
