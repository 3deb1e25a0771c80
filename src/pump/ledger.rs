//! What a pump leaves to its successor, in case that the process dies.

use super::{Outcome, Pump};
use crate::session::Snapshot;
use std::time::Instant;

/// What a successor has to know, beside the session's replay memory and what the pipe itself counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Of the session.
    pub session: Snapshot,
    /// A frame came from the peer: it knows that the session exists.
    pub confirmed: bool,
    /// Since when there has been no carrier; `None` while one leads.
    pub detached_since: Option<Instant>,
}

/// Keeps a session's record where it outlives the process.
pub trait Ledger: Send {
    /// Must have kept `record` when it returns: what is done next relies on it. Called twice a round, mostly with
    /// what is kept already.
    fn record(&mut self, record: &Record);

    /// The session is over, and nothing is left for a successor to do. Called before the pipe and the peer are told.
    fn handle_end(&mut self, _outcome: &Outcome) {}
}

impl<R, W> Pump<R, W> {
    /// Lets a successor know of everything up to now.
    pub(super) fn record(&mut self) {
        let Some(ledger) = &mut self.ledger else { return };
        let is_detached = self.carriers.lead().is_none();
        ledger.record(&Record {
            session: self.session.snapshot(),
            confirmed: self.confirmed,
            detached_since: is_detached.then_some(self.alone_since),
        });
    }
}
