//! How the keeper ends when it is told to: whether sessions are left to the next start, or end.
//!
//! A service manager that has a store is asked. Without its answer sessions are left there: if it was a stop, clients wait
//! in vain until their patience ends; if it was a restart, ending them would have cost users their sessions.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Keeper, KeeperEnd, Stop, manager::Manager, unit::Next};
use crate::clock;

/// How long a start has to overtake a stop, before sessions end for ever: the time of two commands in a script.
const SECOND_LOOK: Duration = Duration::from_millis(150);

/// How long clients have to come back to a worker that is there only to tell them of the end. They dial again within
/// some 150 ms while somebody waits.
const COME_BACK: Duration = Duration::from_secs(1);

impl Keeper {
    /// At SIGTERM or SIGINT.
    pub(super) fn begin_to_stop(&mut self, now: Instant) {
        info!("stopping");
        self.ending = Some(KeeperEnd::Stopped);
        self.manager.iter().for_each(Manager::stopping);
        if !self.is_kept_above() {
            return self.worker.stop(Stop::End, self.terms.grace, now);
        }
        match self.next() {
            Some(Next::Nothing) => self.give_up_at = Some(now + SECOND_LOOK),
            Some(Next::Start) | None => {
                self.check_store(now);
                self.worker.stop(Stop::HandOver, self.terms.grace, now);
            }
        }
    }

    /// The worker has ended. If it has left its sessions to another start, and a stop has overtaken that, another worker
    /// tells the clients.
    pub(super) fn look_once_more(&mut self, now: Instant) {
        let has_left = self.ending == Some(KeeperEnd::Stopped) && self.worker.was_told_to_hand_over();
        if !has_left || !self.is_kept_above() || self.next() != Some(Next::Nothing) {
            return;
        }
        info!("a stop has overtaken the restart: sessions end");
        if let Err(error) = self.start_worker(now) {
            warn!(%error, "cannot start a worker that tells clients of the end");
        }
    }

    /// A worker serves, perhaps one that is only to tell clients of the end.
    pub(super) fn give_up_if_ending(&mut self, now: Instant) {
        if self.ending.is_some() && self.is_kept_above() {
            self.give_up_at = Some(now + COME_BACK);
        }
    }

    /// Ends the sessions, unless something has overtaken the stop.
    pub(super) fn give_up_if_due(&mut self, now: Instant) {
        if self.give_up_at.take_if(|due| *due <= now).is_none() {
            return;
        }
        let stop = match self.next() {
            Some(Next::Start) => Stop::HandOver,
            // What it said before holds.
            Some(Next::Nothing) | None => Stop::End,
        };
        match stop {
            Stop::End => info!("the service is stopped, not restarted: sessions end"),
            Stop::HandOver => info!("a start has overtaken the stop: sessions are kept"),
        }
        self.worker.stop(stop, self.terms.grace, clock::now());
    }

    /// Whether a service manager has the sessions.
    pub(super) fn is_kept_above(&self) -> bool {
        self.manager.as_ref().is_some_and(Manager::keeps_things)
    }

    /// What follows the end of this process; `None` if that is not known.
    fn next(&self) -> Option<Next> {
        match self.manager.as_ref()?.next() {
            Ok(next) => Some(next),
            Err(error) => {
                warn!(%error, "cannot ask the service manager whether this is a restart");
                None
            }
        }
    }
}
