//! The user's SSH keys as [`Credentials`]. Remembers which key was accepted.

use super::{Boxed, Credentials};
use crate::hints::Hints;
use crate::identity::ssh_config::SshConfig;
use crate::identity::user_keys::{Round, SignedRound, UserKeys};
use crate::wire::Authorization;
use bytes::Bytes;
use parking_lot::Mutex;
use russh::keys::ssh_key::Fingerprint;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;
use tracing::{debug, info};

/// Tells the user that a key waits for a touch, or that an agent waits for its user.
pub type Notice = Box<dyn Fn(&str) + Send + Sync>;

/// Offers the keys that ssh would offer; the key that was accepted last is offered first and alone.
pub struct SshCredentials {
    keys: UserKeys,
    rounds: Vec<Round>,
    hints: Hints,
    /// The name under which the accepted key is stored.
    name: String,
    last_accepted: Option<Fingerprint>,
    notice: Notice,
    tried: Mutex<Vec<SignedRound>>,
}

impl SshCredentials {
    /// Collects the keys that ssh would offer to `host` according to `config`, after those in the files `extra`.
    ///
    /// The accepted key is stored in `state_dir`. `notice` is called before a key is used that needs the user.
    pub async fn gather(
        config: &SshConfig,
        extra: &[PathBuf],
        host: &str,
        state_dir: &Path,
        notice: Notice,
    ) -> SshCredentials {
        let (hints, name) = (Hints::of_keys(state_dir), format!("{}@{host}", config.user));
        let last_accepted = hints.recall(&name).and_then(|last_accepted| last_accepted.parse().ok());
        let gathering = UserKeys::gather(config, extra, last_accepted.as_ref());
        let what = "waiting for the agent to list its keys: it may be asking you to unlock it";
        let keys = notify_if_slow(&notice, what, gathering).await;
        for skipped in keys.unusable() {
            info!(key = skipped.description, reason = %skipped.reason, "key not usable");
        }
        SshCredentials {
            rounds: keys.rounds(),
            keys,
            hints,
            name,
            last_accepted,
            notice,
            tried: Mutex::default(),
        }
    }
}

/// How long an agent may take before the user is told what ssh waits for.
const NOTICE_DELAY: Duration = Duration::from_secs(2);

impl SshCredentials {
    /// Signs. If that takes long, tells the user what it waits for.
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
            "waiting for the agent to sign with {}: it may be asking you for a PIN, a touch or a confirmation",
            in_agent.join(", ")
        );
        notify_if_slow(&self.notice, &what, signing).await
    }

    fn keep(&self, signed: SignedRound) -> Vec<Authorization> {
        let authorizations = signed.authorizations.iter().map(|signed| Authorization {
            key: signed.key.clone().into(),
            signature: signed.signature.clone().into(),
        });
        let authorizations = authorizations.collect();
        self.tried.lock().push(signed);
        authorizations
    }
}

/// Waits for `work`, and sends the notice after [`NOTICE_DELAY`].
async fn notify_if_slow<T>(notice: &Notice, what: &str, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if let Ok(done) = timeout(NOTICE_DELAY, &mut work).await {
        return done;
    }
    notice(what);
    work.await
}

impl Credentials for SshCredentials {
    fn keys_to_query(&self, round: usize) -> Vec<Bytes> {
        let Some(round) = self.rounds.get(round) else {
            return Vec::new();
        };
        let asked = self.keys.to_ask(*round);
        let (blobs, descriptions): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        if !descriptions.is_empty() {
            let mut tried = self.tried.lock();
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
        let tried = self.tried.lock();
        let signed = tried
            .iter()
            .flat_map(|round| &round.authorizations)
            .find(|signed| signed.key == key);
        let Some(fingerprint) = signed
            .map(|signed| signed.fingerprint)
            .filter(|won| self.last_accepted != Some(*won))
        else {
            return;
        };
        if let Err(error) = self.hints.remember(&self.name, &fingerprint.to_string()) {
            debug!(%error, "cannot store which key was accepted");
        }
    }

    fn describe(&self) -> Vec<String> {
        self.keys.describe(&self.tried.lock())
    }

    fn ssh_has_more(&self) -> bool {
        let tried = self.tried.lock();
        let skipped = tried.iter().flat_map(|round| &round.skipped);
        let mut skipped = self.keys.unusable().iter().chain(skipped);
        skipped.any(|skipped| skipped.reason.may_work_with_ssh())
    }
}
