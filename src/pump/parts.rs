//! What a pump is made from, and how it ends.

use super::{Budget, Epochs, Pump, SessionStats};
use crate::carrier::Carrier;
use crate::connection::{Accepted, Role};
use crate::session::{Session, SessionError, Snapshot};
use crate::wire::{CloseCode, PeerText};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Capacity of the channel of path events: three carriers of a dial race, a standby, a network change and the loss.
pub const MAX_PATH_EVENTS: usize = 6;
/// Capacity of the channel of commands; each is sent once or twice per session.
pub const MAX_COMMANDS: usize = 4;

/// What happens to the paths of a session, outside its pump.
pub enum PathEvent {
    /// A carrier was accepted and becomes the lead. Boxed, as is the next, because a channel allocates room for 32 values.
    Lead(Box<NewLead>),
    /// A carrier was accepted and stands by.
    Standby(Box<Carrier>),
    /// The network changed or the machine woke up. Without effect on the server half.
    NetworkChanged,
    /// The peer no longer has the session or refuses it permanently.
    Lost(String),
}

/// A carrier that becomes the lead.
pub struct NewLead {
    /// The carrier, ready for frames.
    pub carrier: Carrier,
    /// Its epoch, and what the peer has received.
    pub accepted: Accepted,
    /// The first bytes of the stream, where the peer's hello brought some.
    pub first: Bytes,
}

/// Commands of a session's owner to its pump.
#[derive(Debug)]
pub enum SessionCommand {
    /// The pipe's owner is leaving: read and deliver what it still writes, then end.
    HangUp,
    /// End the session now, and tell the peer why.
    End(String),
    /// Hand the session over without ending it: a successor of this process continues it.
    HandOver,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both directions ended and were delivered.
    Finished,
    /// The peer closed the session; everything that it had sent before was delivered.
    ClosedByPeer(CloseCode, PeerText),
    /// The pipe's owner left, or everything was delivered, but the peer may not have received our last frames.
    Unfinished,
    /// Ended by [`SessionCommand::End`].
    Ended(String),
    /// Handed to a successor by [`SessionCommand::HandOver`]; the session continues.
    HandedOver,
    /// There was no carrier for longer than [`PumpParts::detach_timeout`].
    Expired,
    /// No frame ever came from the peer, in all that time.
    Unconfirmed(Duration),
    /// Ended by [`PathEvent::Lost`].
    Lost(String),
    /// The peer broke the protocol.
    Desync(SessionError),
}

/// What a pump needs to run one session.
pub struct PumpParts<R, W> {
    /// The session, new or restored.
    pub session: Session,
    /// From the pipe to the peer.
    pub input: R,
    /// From the peer to the pipe.
    pub output: W,
    /// The close code for the peer if the pipe breaks.
    pub pipe_closed: CloseCode,
    /// Whether the input ends by itself after the output broke, as with a TCP connection. It is then read to its end, even
    /// if the peer's window is full for long. Any other input is read for one more second.
    pub input_ends_itself: bool,
    /// Which half it belongs to. On the client half, [`SessionStats::active_paths`] drives the dialers.
    pub role: Role,
    /// New carriers, and what else happens to the paths.
    pub path_events: mpsc::Receiver<PathEvent>,
    /// Shared with everything that makes carriers the lead.
    pub epochs: Arc<Epochs>,
    /// Commands of the owner.
    pub commands: mpsc::Receiver<SessionCommand>,
    /// What the pump reports about itself.
    pub stats: Arc<SessionStats>,
    /// Stores what a successor needs; `None` if there will be none.
    pub checkpoints: Option<Box<dyn CheckpointStore>>,
    /// Since when there has been no carrier; now for a new session.
    pub detached_since: Instant,
    /// Whether a frame has come from the peer, to this process or a predecessor.
    pub confirmed: bool,
    /// Longest time without a carrier.
    pub detach_timeout: Duration,
    /// Longest time until the first frame of the peer comes, whether there is a carrier or not: the peer may have died before it
    /// learned that the session exists, and on a path that is silent its carrier is taken for alive for a while.
    pub unconfirmed_timeout: Duration,
    /// Memory shared with other sessions.
    pub budget: Arc<Budget>,
}

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
