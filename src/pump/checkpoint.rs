//! What a successor process needs if this one dies.

use super::{Outcome, Pump};
use crate::session::Snapshot;
use std::time::Instant;

/// What a successor needs besides the replay memory and the pipe's own byte counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The session's state.
    pub session: Snapshot,
    /// A frame came from the peer, so the peer knows that the session exists.
    pub confirmed: bool,
    /// Since when there has been no lead; `None` while there is one.
    pub detached_since: Option<Instant>,
}

/// Stores a session's checkpoints where they outlive the process.
pub trait CheckpointStore: Send {
    /// Must have stored `checkpoint` when it returns: the next steps rely on it. Called twice per round, mostly without
    /// a change.
    fn save(&mut self, checkpoint: &Checkpoint);

    /// The session is over and a successor has nothing to do. Called before the pipe and the peer are told.
    fn handle_end(&mut self, _outcome: &Outcome) {}
}

impl<R, W> Pump<R, W> {
    /// Stores a checkpoint of the present state.
    pub(super) fn save_checkpoint(&mut self) {
        let Some(checkpoints) = &mut self.checkpoints else {
            return;
        };
        checkpoints.save(&Checkpoint {
            session: self.connection.session().snapshot(),
            confirmed: self.connection.is_confirmed(),
            detached_since: self.connection.detached_since(),
        });
    }
}
