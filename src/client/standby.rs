//! Keeps one more carrier warm, on a path that shares as little as possible with the lead's: when the lead dies, the
//! pump lets that one lead within a round trip.

use super::dialer::Dialer;
use super::paths::Paths;
use crate::carrier::{Carrier, CarrierError, CarrierInfo, DialError, Path};
use crate::clock;
use crate::identity::raw_key::ServerKey;
use crate::pump::{Facts, Roster};
use crate::wire::{Answer, Hello, Refusal, SessionId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::{debug, info};

/// So long after a session has begun, or lost the carrier that stood by, another is dialed: short sessions need none.
const FIRST: Duration = Duration::from_secs(2);
/// Attempts that find none grow apart to this.
const MOST: Duration = Duration::from_secs(300);
/// For one path.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Paths tried in one go.
const MOST_PATHS: usize = 8;
/// For the pump to take what it was given.
const TAKEN: Duration = Duration::from_secs(1);

/// What keeps a carrier standing by one session.
pub(super) struct Standby {
    pub(super) session: SessionId,
    pub(super) dialer: Dialer,
    pub(super) server_key: Vec<u8>,
    pub(super) paths: Paths,
    pub(super) facts: Arc<Facts>,
    pub(super) standbys: mpsc::Sender<Carrier>,
}

/// A path on which none stands by.
#[derive(Debug, thiserror::Error)]
enum StandbyError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("no sensible answer")]
    Answer,
    #[error("no answer in time")]
    Silent,
}

impl Standby {
    /// Runs until the session is gone.
    pub(super) async fn run(mut self) {
        let mut roster = self.facts.roster();
        let mut pause = FIRST;
        while roster.wait_for(is_alone).await.is_ok() {
            // A thousand clients of one server half do not come in step.
            let spread = FIRST * u32::from(self.session.as_bytes()[0]) / 256;
            clock::sleep_until(clock::now() + pause + spread).await;
            let Some(lead) = Some(roster.borrow().clone())
                .filter(is_alone)
                .and_then(|roster| roster.lead)
            else {
                continue;
            };
            pause = match self.find(&lead).await {
                None => (pause * 2).min(MOST),
                Some(carrier) => {
                    if self.standbys.send(carrier).await.is_err() {
                        return;
                    }
                    settle(&mut roster).await;
                    FIRST
                }
            };
        }
    }

    /// The best of the paths that are not the lead's, and on which a carrier may stand by.
    async fn find(&mut self, lead: &CarrierInfo) -> Option<Carrier> {
        // Names lead elsewhere, and the host has proved its keys since they were looked up first.
        self.paths.refresh().await;
        let mut paths = self.paths.all();
        paths.retain(|path| !path.shares_fate_of(lead));
        paths.sort_by_key(Path::rank);
        self.dialer.renew();
        for path in paths.into_iter().take(MOST_PATHS) {
            match timeout(ATTEMPT, self.attempt(&path))
                .await
                .unwrap_or(Err(StandbyError::Silent))
            {
                Ok(carrier) => {
                    info!(event = "standby", %path, "a carrier stands by");
                    return Some(carrier);
                }
                Err(error) => debug!(%path, %error, "no carrier stands by"),
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

/// Something leads, and whatever stands by would fail with it: a former lead on the same path, perhaps.
fn is_alone(roster: &Roster) -> bool {
    let shares = |lead: &CarrierInfo| roster.standing.iter().all(|standing| standing.shares_fate_of(lead));
    roster.lead.as_ref().is_some_and(shares)
}

async fn settle(roster: &mut watch::Receiver<Roster>) {
    // It may have been lost or led on the way; then all begins anew.
    let _ = timeout(TAKEN, roster.wait_for(|roster| !is_alone(roster))).await;
}
