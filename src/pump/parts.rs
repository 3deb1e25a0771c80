//! What a pump is made from, and how it ends.

use super::{Budget, CheckpointStore, DialRequest, Epochs, SessionStats};
use crate::carrier::Carrier;
use crate::session::{Session, SessionError};
use crate::wire::{CloseCode, Epoch, Offset, PeerText};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// Capacity of the channel of new carriers; a dial race yields two or three.
pub const MAX_ARRIVALS: usize = 4;
/// Capacity of the channel of standby carriers.
pub const MAX_STANDBYS: usize = 2;
/// Capacity of the channel of commands; each is sent once or twice per session.
pub const MAX_COMMANDS: usize = 4;

/// A carrier whose hello was accepted.
pub struct Arrival {
    /// The carrier, ready for frames.
    pub carrier: Carrier,
    /// Its epoch as lead.
    pub epoch: Epoch,
    /// What the peer has received.
    pub peer_received: Offset,
    /// Bytes beyond it that the peer has room for.
    pub peer_window: u64,
    /// The first bytes of the stream, where the peer's hello brought some.
    pub first: Bytes,
}

/// What connects the client half's pump with its dialer.
pub struct Dialing {
    /// What the dialer should do.
    pub(super) requests: watch::Sender<DialRequest>,
    /// The network may have changed.
    pub(super) network_changes: mpsc::Receiver<()>,
}

impl Dialing {
    /// The pump's ends of both channels.
    pub fn new(requests: watch::Sender<DialRequest>, network_changes: mpsc::Receiver<()>) -> Dialing {
        Dialing {
            requests,
            network_changes,
        }
    }
}

/// Commands to a running pump.
#[derive(Debug)]
pub enum SessionCommand {
    /// The pipe's owner is leaving: read and deliver what it still writes, then end.
    HangUp,
    /// End the session now, and tell the peer why.
    End(String),
    /// Hand the session over without ending it: a successor of this process continues it.
    HandOver,
    /// The peer no longer has the session or refuses it permanently.
    Lost(String),
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
    /// Ended by [`SessionCommand::Lost`].
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
    /// New carriers. Boxed because a channel allocates room for 32 values.
    pub arrivals: mpsc::Receiver<Box<Arrival>>,
    /// Standby carriers; closed if there are none.
    pub standbys: mpsc::Receiver<Carrier>,
    /// Shared with everything that makes carriers the lead.
    pub epochs: Arc<Epochs>,
    /// Where commands come from.
    pub commands: mpsc::Receiver<SessionCommand>,
    /// What the pump reports about itself.
    pub stats: Arc<SessionStats>,
    /// Drives the dialer; `None` on the server half.
    pub dialing: Option<Dialing>,
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
