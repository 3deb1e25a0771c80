//! Keeps a standby carrier on a path that shares as little as possible with the lead's path. If the lead fails, the
//! pump promotes the standby within a round trip.

use super::dialer::Dialer;
use super::paths::Paths;
use crate::carrier::{Carrier, CarrierError, CarrierInfo, DialError, Path};
use crate::clock;
use crate::identity::raw_key::ServerKey;
use crate::pump::{ActivePaths, SessionStats};
use crate::wire::{Answer, Hello, Refusal, SessionId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{debug, info};

/// Delay before a standby is dialed, after the session began or lost its standby: short sessions need none.
const FIRST_DELAY: Duration = Duration::from_secs(2);
/// Longest delay between attempts.
const MAX_DELAY: Duration = Duration::from_secs(300);
/// Limit for one path.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most paths tried per attempt.
const MAX_PATHS: usize = 8;
/// Limit for the pump to accept a new standby.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(1);

/// Maintains the standby of one session.
pub(super) struct Standby {
    pub(super) session: SessionId,
    pub(super) dialer: Dialer,
    pub(super) server_key: Vec<u8>,
    pub(super) paths: Paths,
    pub(super) stats: Arc<SessionStats>,
    pub(super) standbys: mpsc::Sender<Carrier>,
}

/// Why a path gave no standby.
#[derive(Debug, thiserror::Error)]
enum StandbyError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("unexpected answer")]
    Answer,
    #[error("no answer in time")]
    Silent,
}

impl Standby {
    /// Runs until the session is gone.
    pub(super) async fn run(mut self) {
        let mut active = self.stats.active_paths();
        let mut delay = FIRST_DELAY;
        while active.wait_for(has_no_standby).await.is_ok() {
            // Spread the dials of many clients over time after they connected together.
            let spread = FIRST_DELAY * u32::from(self.session.as_bytes()[0]) / 256;
            clock::sleep_until(clock::now() + delay + spread).await;
            let Some(lead) = Some(active.borrow().clone())
                .filter(has_no_standby)
                .and_then(|active| active.lead)
            else {
                continue;
            };
            delay = match self.find(&lead).await {
                None => (delay * 2).min(MAX_DELAY),
                Some(carrier) => {
                    if self.standbys.send(carrier).await.is_err() {
                        return;
                    }
                    wait_until_accepted(&mut active).await;
                    FIRST_DELAY
                }
            };
        }
    }

    /// Dials the best path that does not share its fate with the lead's.
    async fn find(&mut self, lead: &CarrierInfo) -> Option<Carrier> {
        // DNS may have changed, and relays can be chosen now that the host has proved its keys.
        self.paths.refresh().await;
        let mut paths = self.paths.all();
        paths.retain(|path| !path.shares_path_with(lead));
        paths.sort_by_key(Path::rank);
        self.dialer.renew_sockets();
        for path in paths.into_iter().take(MAX_PATHS) {
            match timeout(ATTEMPT_TIMEOUT, self.attempt(&path))
                .await
                .unwrap_or(Err(StandbyError::Silent))
            {
                Ok(carrier) => {
                    info!(event = "standby", %path, "standby carrier ready");
                    return Some(carrier);
                }
                Err(error) => debug!(%path, %error, "no standby on this path"),
            }
        }
        None
    }

    async fn attempt(&mut self, path: &Path) -> Result<Carrier, StandbyError> {
        let accept = ServerKey::Exactly(self.server_key.clone());
        let dialed = self.dialer.dial(path, accept).await?;
        let hello = Hello::Standby { session: self.session };
        match dialed.ask(&hello).await? {
            (carrier, Answer::Standing) => Ok(carrier),
            (_, Answer::Refused(refusal)) => Err(StandbyError::Refused(refusal)),
            _ => Err(StandbyError::Answer),
        }
    }
}

/// Whether there is a lead and every standby would fail together with it, as a former lead on the same path would.
fn has_no_standby(active: &ActivePaths) -> bool {
    let shares = |lead: &CarrierInfo| active.standing.iter().all(|standing| standing.shares_path_with(lead));
    active.lead.as_ref().is_some_and(shares)
}

async fn wait_until_accepted(active: &mut watch::Receiver<ActivePaths>) {
    // If the standby was lost or promoted meanwhile, the loop starts over.
    let _ = timeout(ACCEPT_TIMEOUT, active.wait_for(|active| !has_no_standby(active))).await;
}
