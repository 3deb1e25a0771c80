//! Dials the standby carrier of a session, on a path that shares as little as possible with the lead's path. If the lead
//! fails, the pump promotes the standby within a round trip. [`StandbySchedule`] decides when, and on which paths.

use super::dialer::Dialer;
use super::paths::Paths;
use crate::carrier::{Carrier, CarrierError, CarrierInfo, DialError, Path};
use crate::clock::{self, Timer};
use crate::connection::{STANDBY_TIMEOUT, StandbySchedule};
use crate::identity::raw_key::ServerKey;
use crate::pump::{ActivePaths, PathEvent, SessionStats};
use crate::wire::{Answer, Hello, Refusal, SessionId};
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, info};

/// Maintains the standby of one session.
pub(super) struct Standby {
    pub(super) session: SessionId,
    pub(super) dialer: Dialer,
    pub(super) server_key: Vec<u8>,
    pub(super) paths: Paths,
    pub(super) stats: Arc<SessionStats>,
    pub(super) path_events: mpsc::Sender<PathEvent>,
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
        let mut schedule = StandbySchedule::new(self.session);
        let mut timer = Timer::new();
        loop {
            let paths = active.borrow_and_update().clone();
            schedule.handle_paths(is_standby_missing(&paths), clock::now());
            timer.set(schedule.poll_timeout());
            tokio::select! {
                biased;
                // The statistics keep its sender: the task ends with its owner, or when nobody takes its carriers.
                _ = active.changed() => continue,
                () = self.path_events.closed() => return,
                () = poll_fn(|cx| timer.poll(cx)) => {}
            }
            let Some(lead) = paths.lead.filter(|_| schedule.poll_attempt(clock::now())) else {
                continue;
            };
            let Some(carrier) = self.find(&lead).await else {
                schedule.handle_failed();
                continue;
            };
            if self
                .path_events
                .send(PathEvent::Standby(Box::new(carrier)))
                .await
                .is_err()
            {
                return;
            }
            schedule.handle_found();
        }
    }

    /// Dials the paths that do not share their fate with the lead's, one after the other.
    async fn find(&mut self, lead: &CarrierInfo) -> Option<Carrier> {
        // DNS may have changed, and relays can be chosen now that the host has proved its keys.
        self.paths.refresh().await;
        let candidates = StandbySchedule::candidates(self.paths.all(), |path| path.shares_path_with(lead), Path::rank);
        self.dialer.renew_sockets();
        for path in candidates {
            match timeout(STANDBY_TIMEOUT, self.attempt(&path))
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

fn is_standby_missing(paths: &ActivePaths) -> bool {
    StandbySchedule::is_standby_missing(paths.lead.as_ref(), &paths.standing, CarrierInfo::shares_path_with)
}
