//! How the keeper stops: whether sessions are left to the next start, or end.
//!
//! A service manager with a store is asked whether this is a restart. Without its answer sessions are left in the
//! store: if it was a stop, clients wait in vain until their time limit; if it was a restart, ending the sessions
//! would have cost users their work.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{
    Keeper, KeeperEnd,
    systemd::{Manager, Next},
};
use crate::{clock, server::ipc::Stop};

/// How long to wait for a start command before sessions end: the time between two commands in a script.
const CONFIRM_STOP_DELAY: Duration = Duration::from_millis(150);

/// How long clients have to come back to a worker that only tells them of the end. If a user waits they dial again
/// within about 150 ms.
const CLIENT_RETURN_TIMEOUT: Duration = Duration::from_secs(1);

impl Keeper {
    /// Handles SIGTERM and SIGINT.
    pub(super) fn handle_stop(&mut self, now: Instant) {
        info!("stopping");
        self.ending = Some(KeeperEnd::Stopped);
        self.manager.iter().for_each(Manager::stopping);
        if !self.manager_has_store() {
            return self.worker.stop(Stop::End, self.config.grace, now);
        }
        match self.next() {
            Some(Next::Nothing) => self.end_sessions_at = Some(now + CONFIRM_STOP_DELAY),
            Some(Next::Start) | None => {
                self.check_store(now);
                self.worker.stop(Stop::HandOver, self.config.grace, now);
            }
        }
    }

    /// Called when the worker has ended. If it has left its sessions to a restart, but a stop command has come since,
    /// another worker is started that tells the clients of the end.
    pub(super) fn check_stop_again(&mut self, now: Instant) {
        let has_left = self.ending == Some(KeeperEnd::Stopped) && self.worker.was_told_to_hand_over();
        if !has_left || !self.manager_has_store() || self.next() != Some(Next::Nothing) {
            return;
        }
        info!("a stop command came during the restart: sessions end");
        if let Err(error) = self.start_worker(now) {
            warn!(%error, "cannot start a worker that tells clients about the end of their sessions");
        }
    }

    /// Called when a worker serves. It may be one that only tells clients of the end.
    pub(super) fn schedule_end_of_sessions(&mut self, now: Instant) {
        if self.ending.is_some() && self.manager_has_store() {
            self.end_sessions_at = Some(now + CLIENT_RETURN_TIMEOUT);
        }
    }

    /// Ends the sessions, unless the service is being started again.
    pub(super) fn end_sessions_if_due(&mut self, now: Instant) {
        if self.end_sessions_at.take_if(|due| *due <= now).is_none() {
            return;
        }
        let stop = match self.next() {
            Some(Next::Start) => Stop::HandOver,
            // Its earlier answer still counts.
            Some(Next::Nothing) | None => Stop::End,
        };
        match stop {
            Stop::End => info!("this is a stop, not a restart: sessions end"),
            Stop::HandOver => info!("a start command came during the stop: sessions are kept"),
        }
        self.worker.stop(stop, self.config.grace, clock::now());
    }

    /// Whether a service manager stores the sessions.
    pub(super) fn manager_has_store(&self) -> bool {
        self.manager.as_ref().is_some_and(Manager::has_store)
    }

    /// What the service manager does next; `None` if that is not known.
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
