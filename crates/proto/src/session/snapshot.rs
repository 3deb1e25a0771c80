//! Restores a session in a successor process.
//!
//! The successor has the last snapshot, the replay memory, and the pipe's own byte counts. Received bytes that were not
//! written to the pipe are lost; the peer has no acknowledgement of them and sends them again.

use super::acks::AckTimer;
use super::receive::ReceiveBuffer;
use super::replay::ReplayBuffer;
use super::{Session, SessionConfig, SessionMemory};
use crate::wire::{CloseCode, Epoch, Offset};

/// Message of a restored `CLOSE`; snapshots do not contain the original.
const CLOSE_MESSAGE_LOST: &str = "said before a restart";

/// What a successor needs to know besides the replay memory and the pipe's own byte counts.
///
/// It must be stored before each step that relies on it: before the pipe is read (it says where in the replay memory the
/// bytes go), before the pipe is closed for writing, before frames are sent, and before memory is returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Epoch of the lead.
    pub epoch: Epoch,
    /// First position that the peer has not acknowledged; a `FIN` and a `CLOSE` count as one each.
    pub acked: Offset,
    /// Index of the byte at `acked` in the replay memory.
    pub front: u64,
    /// The pipe ended: the peer is sent `FIN`.
    pub fin: bool,
    /// The pipe ended and accepts no more output: the peer is sent `CLOSE`, after a `FIN` if there is one.
    pub close: Option<CloseCode>,
    /// Where the peer's direction ends, without its `FIN` or `CLOSE`; `None` while unknown.
    pub output_end: Option<Offset>,
    /// The peer closed the session.
    pub peer_close: Option<CloseCode>,
    /// It did so after a `FIN`, so that its `CLOSE` has a position of its own.
    pub peer_close_after_fin: bool,
}

/// The pipe's own byte counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipeCounts {
    /// Bytes read from it; they lie in the replay memory.
    pub read: Offset,
    /// Bytes written to it.
    pub written: Offset,
    /// It was closed for writing.
    pub output_shut: bool,
}

/// The snapshot, counts and memory contradict each other: the session cannot continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Acknowledged bytes that were never read.
    #[error("byte {acked} is said to be acknowledged, but the pipe gave only {end}, its end included")]
    AckedBeyondRead {
        /// What the snapshot says.
        acked: Offset,
        /// How far the pipe got.
        end: Offset,
    },
    /// More bytes are not acknowledged than the memory holds.
    #[error("bytes {acked} to {read} are not acknowledged, but the replay memory holds only {capacity}")]
    ReplayBeyondMemory {
        /// What the snapshot says.
        acked: Offset,
        /// What the pipe says.
        read: Offset,
        /// Bytes of memory.
        capacity: u64,
    },
    /// The first byte lies outside the memory.
    #[error("the replay begins at {front}, but its memory ends at {capacity}")]
    FrontBeyondMemory {
        /// What the snapshot says.
        front: u64,
        /// Bytes of memory.
        capacity: u64,
    },
    /// Less memory than [`SessionConfig::MIN_BUFFER`].
    #[error("a session needs more than {capacity} bytes of memory in each direction")]
    MemoryTooSmall {
        /// The lesser of both.
        capacity: u64,
    },
    /// More was written to the pipe than the peer's direction is long.
    #[error("the peer ended at byte {end}, but {written} bytes were written")]
    OutputEndBeforeWritten {
        /// What the snapshot says.
        end: Offset,
        /// What the pipe says.
        written: Offset,
    },
    /// The peer closed the session, which would have ended its direction.
    #[error("the peer closed the session, but its direction has no end")]
    PeerCloseWithoutEnd,
}

impl Session {
    /// The present state, for a successor.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            epoch: self.epoch,
            acked: self.outgoing.acked(),
            front: self.outgoing.front(),
            fin: self.outgoing.is_fin(),
            close: self.outgoing.close_code(),
            output_end: self.incoming.end(),
            peer_close: self.peer_close.as_ref().map(|(code, _)| *code),
            peer_close_after_fin: self.incoming.is_closed_after_end(),
        }
    }

    /// Restores a predecessor's session from its last snapshot. It has no lead.
    ///
    /// `memory.replay` is the predecessor's. `memory.receive` may be new, and must be no smaller than the predecessor's,
    /// because the peer was promised that window.
    ///
    /// # Errors
    /// The three contradict each other. Any values are safe to try.
    pub fn restore(memory: SessionMemory, snapshot: &Snapshot, counts: PipeCounts) -> Result<Session, RestoreError> {
        let least = memory.replay.bytes().len().min(memory.receive.bytes().len());
        if least < SessionConfig::MIN_BUFFER {
            return Err(RestoreError::MemoryTooSmall { capacity: least as u64 });
        }
        if snapshot.peer_close.is_some() && snapshot.output_end.is_none() {
            return Err(RestoreError::PeerCloseWithoutEnd);
        }
        let acks = AckTimer::new(memory.receive.bytes().len());
        let close = snapshot.close.map(|code| (code, CLOSE_MESSAGE_LOST.into()));
        let outgoing = ReplayBuffer::restore(memory.replay, snapshot, close, counts.read)?;
        let incoming = ReceiveBuffer::restore(memory.receive, snapshot, counts)?;
        // A CLOSE counts only after everything sent before it. If some of that is lost, it was not acknowledged either, and
        // the peer sends both again.
        let is_close_known = incoming.end().is_some() || incoming.is_abandoned();
        let peer_close = snapshot.peer_close.filter(|_| is_close_known);
        let mut session = Session {
            outgoing,
            incoming,
            acks,
            epoch: snapshot.epoch,
            attached: false,
            peer_close: peer_close.map(|code| (code, CLOSE_MESSAGE_LOST.into())),
        };
        if peer_close.is_some() {
            session.outgoing.abandon();
        }
        Ok(session)
    }
}

#[cfg(test)]
mod tests;
