//! The user's SSH keys as credentials, and the memory of which one won.

use super::{Boxed, Credentials};
use crate::identity::user_keys::{Round, SignedRound, UserKeys, remember_winner};
use crate::wire::Authorization;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tracing::debug;

/// What tells the user that a key waits for a touch or a passphrase.
pub type Notice = Box<dyn Fn(&str) + Send + Sync>;

/// Offers the keys that ssh would offer, the last winner first and alone.
pub struct SshCredentials {
    keys: UserKeys,
    rounds: Vec<Round>,
    state_dir: PathBuf,
    host: String,
    user: String,
    notice: Notice,
    tried: Mutex<Vec<SignedRound>>,
}

impl SshCredentials {
    /// Credentials for `user` at `host`; the winner is remembered in `state_dir`. `notice` is told before a key is
    /// used that needs the user.
    pub fn new(keys: UserKeys, state_dir: PathBuf, host: String, user: String, notice: Notice) -> SshCredentials {
        SshCredentials {
            rounds: keys.rounds(),
            keys,
            state_dir,
            host,
            user,
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

    fn handle_accepted(&self, round: usize, authorizations: &[Authorization]) {
        // Which of several keys won only the server half knows; one alone is remembered.
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(signed) = tried.last().and_then(|signed| signed.authorizations.first()) else {
            return;
        };
        if authorizations.len() == 1
            && self.rounds.get(round) != Some(&Round::Winner)
            && let Err(error) = remember_winner(&self.state_dir, &self.host, &self.user, &signed.fingerprint)
        {
            debug!(%error, "cannot remember which key was accepted");
        }
    }

    fn describe(&self) -> Vec<String> {
        self.keys
            .describe(&self.tried.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
