//! What goes into a pump, and what comes out of it.

use super::{Budget, Epochs, Facts, Ledger, Vigil};
use crate::carrier::Carrier;
use crate::session::{Session, SessionError};
use crate::wire::{CloseCode, Epoch, Offset, PeerText};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Fresh carriers that may wait for the pump; a race brings forth two or three.
pub const ARRIVALS: usize = 4;
/// Carriers that are to stand by and wait for the pump.
pub const STANDBYS: usize = 2;
/// Orders that may wait for the pump; each is given once or twice in a session's life.
pub const ORDERS: usize = 4;

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

/// What others may ask of a running pump.
#[derive(Debug)]
pub enum Order {
    /// The pipe's owner is leaving: read what it still says, deliver it, end.
    HangUp,
    /// End the session now, and tell the peer why.
    End(String),
    /// Let go of the session without ending it: a successor of this process goes on with it.
    HandOver,
    /// The peer has no such session any more, or refuses it for good: nothing can be delivered.
    Lost(String),
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Both directions ended and were delivered.
    Finished,
    /// The peer closed the session; everything it had said before was delivered.
    ClosedByPeer(CloseCode, PeerText),
    /// The pipe's owner left, or everything was delivered, and the peer may not have our last words.
    Unfinished,
    /// Ended by [`Order::End`].
    Ended(String),
    /// Left to a successor by [`Order::HandOver`]; it goes on.
    HandedOver,
    /// No carrier came for longer than the session's patience.
    Expired,
    /// No frame ever came from the peer, in all that time.
    Unconfirmed(Duration),
    /// Ended by [`Order::Lost`].
    Lost(String),
    /// The peer broke the protocol.
    Desync(SessionError),
}

/// What a pump needs to run one session.
pub struct PumpParts<R, W> {
    /// The session, at its beginning or as a predecessor left it.
    pub session: Session,
    /// From the pipe to the peer.
    pub input: R,
    /// From the peer to the pipe.
    pub output: W,
    /// What to tell the peer when the pipe breaks.
    pub pipe_closed: CloseCode,
    /// Whether the input comes to its end by itself once the output is broken, as that of a TCP connection does. It is then
    /// read to that end, however long the peer takes to make room for it. Any other has a second for its last words.
    pub input_ends_itself: bool,
    /// Where carriers come from; in boxes, since a channel keeps room for 32 of what it carries.
    pub arrivals: mpsc::Receiver<Box<Arrival>>,
    /// Where carriers come from that are to stand by; closed where there are none.
    pub standbys: mpsc::Receiver<Carrier>,
    /// Shared with all that make leads of the session.
    pub epochs: Arc<Epochs>,
    /// Where orders come from.
    pub orders: mpsc::Receiver<Order>,
    /// What the pump tells about itself.
    pub facts: Arc<Facts>,
    /// The dialing half's watch over the lead.
    pub vigil: Option<Vigil>,
    /// Keeps what a successor has to know; `None` where there will be none.
    pub ledger: Option<Box<dyn Ledger>>,
    /// Since when there has been no carrier: now, at the session's beginning.
    pub detached_since: Instant,
    /// Whether a frame has come from the peer: to a predecessor, or never yet.
    pub confirmed: bool,
    /// Longest time without a carrier.
    pub patience: Duration,
    /// Longest time until the first frame of the peer comes, whether there is a carrier or not: the peer may have died before it
    /// learned that the session exists, and on a path that is silent its carrier is taken for alive for a while.
    pub unconfirmed_patience: Duration,
    /// Memory shared with other sessions.
    pub budget: Arc<Budget>,
}
