//! Examines a target at which nothing answered when the server half started, as soon as something does.
//!
//! Until then nothing is opened there: which host key it proves, and whether its answers about keys mean anything, is found out
//! at the start otherwise.

use super::ask_sshd::{self, AskError, INSPECT_TIMEOUT, INSPECT_USER, ServerInfo};
use super::authority::{OpenCheck, OpenObstacle, no_verdict};
use super::connect_sshd::ConnectSshd;
use super::shared_read::SharedRead;
use crate::wire::Refusal;
use parking_lot::Mutex;
use russh::keys::ssh_key::HashAlg;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tracing::{info, warn};

/// The least time between two inspections, however many clients connect: sshd counts connections without a login.
const INSPECT_INTERVAL: Duration = Duration::from_secs(1);

/// What is still to be found out about a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unexamined {
    /// It will be asked about keys: it must not say yes to each.
    pub is_asked: bool,
    /// It should prove one of the host keys that this server half proves.
    pub proves_our_keys: bool,
}

/// What speaks against opening sessions at a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Unfit {
    #[error(
        "the SSH server at the target says yes to every key, so asking it decides nothing; it calls itself {identification}"
    )]
    AcceptsAnyKey { identification: String },
    #[error(
        "the SSH server at the target proves the host key {proves}, which is none of those that this server half proves"
    )]
    OtherHostKey { proves: String },
}

/// Asked before anything is opened at a target that was not examined yet.
pub(super) struct TargetCheck {
    sshd: Arc<dyn ConnectSshd>,
    unexamined: Unexamined,
    /// The host keys that this server half proves.
    proved: Vec<Vec<u8>>,
    /// What is asked as well.
    further: Option<Box<dyn OpenCheck>>,
    looks: SharedRead<Result<Option<Unfit>, Refusal>>,
    is_fit: AtomicBool,
    told: Mutex<Option<Unfit>>,
}

impl TargetCheck {
    pub(super) fn new(
        sshd: Arc<dyn ConnectSshd>,
        unexamined: Unexamined,
        proved: Vec<Vec<u8>>,
        further: Option<Box<dyn OpenCheck>>,
    ) -> TargetCheck {
        TargetCheck {
            sshd,
            unexamined,
            proved,
            further,
            looks: SharedRead::new(INSPECT_INTERVAL),
            is_fit: AtomicBool::new(false),
            told: Mutex::default(),
        }
    }

    async fn examine(&self) -> Option<OpenObstacle> {
        if self.is_fit.load(Relaxed) {
            return None;
        }
        let look = async {
            let found = match ask_sshd::inspect(&*self.sshd, INSPECT_USER, INSPECT_TIMEOUT).await {
                Ok(seen) => Ok(self.judge(&seen)),
                Err(error) if self.is_no_matter(&error) => Ok(None),
                Err(error) => Err(no_verdict(&error)),
            };
            Ok::<_, Infallible>(found)
        };
        let Ok(reading) = self.looks.get(look).await;
        match reading.what {
            Ok(None) => {
                if !self.is_fit.swap(true, Relaxed) {
                    let target = self.sshd.target();
                    info!(event = "opens-allowed", %target, "the SSH server at the target answers: sessions are opened from now on");
                }
                None
            }
            Ok(Some(unfit)) => {
                let cause = unfit.to_string();
                self.tell(unfit);
                Some(OpenObstacle::Standing(cause))
            }
            Err(refused) => Some(OpenObstacle::Passing(refused)),
        }
    }

    fn judge(&self, seen: &ServerInfo) -> Option<Unfit> {
        if self.unexamined.is_asked && seen.accepts_any_key {
            let identification = seen.server.identification.to_string();
            return Some(Unfit::AcceptsAnyKey { identification });
        }
        let key = seen
            .server
            .host_key
            .as_ref()
            .filter(|_| self.unexamined.proves_our_keys)?;
        let is_ours = key.to_bytes().is_ok_and(|key| self.proved.contains(&key));
        let proves = key.fingerprint(HashAlg::Sha256).to_string();
        (!is_ours).then_some(Unfit::OtherHostKey { proves })
    }

    /// What is not asked about keys need not speak SSH.
    fn is_no_matter(&self, error: &AskError) -> bool {
        !self.unexamined.is_asked && !matches!(error, AskError::UpstreamDown { .. } | AskError::Dropped { .. })
    }

    /// Once, however many clients are refused for it.
    fn tell(&self, unfit: Unfit) {
        let mut told = self.told.lock();
        if told.as_ref().is_some_and(|told| told.is_like(&unfit)) {
            return;
        }
        let (target, cause, hint) = (self.sshd.target(), &unfit, unfit.hint());
        warn!(event = "opens-refused", %target, %cause, hint, "no session is opened: the target, which was silent at the start, is not fit");
        *told = Some(unfit);
    }
}

impl OpenCheck for TargetCheck {
    fn obstacle(&self, shows: bool) -> Pin<Box<dyn Future<Output = Option<OpenObstacle>> + Send + '_>> {
        Box::pin(async move {
            if let Some(obstacle) = self.examine().await {
                return Some(obstacle);
            }
            self.further.as_ref()?.obstacle(shows).await
        })
    }
}

impl Unfit {
    /// Whether it says the same to an administrator. Some servers (tinysshd) call themselves otherwise each time.
    fn is_like(&self, other: &Unfit) -> bool {
        match (self, other) {
            (Unfit::AcceptsAnyKey { .. }, Unfit::AcceptsAnyKey { .. }) => true,
            (one, other) => one == other,
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Unfit::AcceptsAnyKey { .. } => {
                "--auth none says that the login inside is to decide alone; --authorized-keys names a file whose keys may open \
                 sessions"
            }
            Unfit::OtherHostKey { .. } => {
                "`systemctl reload bowline` (SIGHUP) makes it prove a key of its own, which clients then learn; or name the \
                 target's private key with --host-key"
            }
        }
    }
}
