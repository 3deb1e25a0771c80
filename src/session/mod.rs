//! The session: one resumable pair of byte streams, without I/O and without a clock.
//!
//! A [`Session`] stands between a local pipe and whatever carrier leads. The driver moves bytes: what the pipe
//! gives goes into [`Session::input`], what [`Session::output`] shows goes to the pipe; frames from any carrier
//! go into [`Session::handle_frame`], and [`Session::transmit`] fills the lead's outbox. Both halves use it alike.
//! When to suspect a carrier and when to dial are questions of the dialing half: [`Liveness`] and [`RedialPacer`].

mod acks;
mod liveness;
mod memory;
mod mirror;
mod receive;
mod redial;
mod replay;
mod ring;
mod snapshot;
mod standing;
#[cfg(test)]
mod testing;

pub use liveness::{Liveness, Verdict};
pub use memory::{RingMemory, SessionMemory};
pub use mirror::{LossGauge, MOST_COPIED, Mirror};
pub use redial::RedialPacer;
pub use snapshot::{PipeCounts, RestoreError, Snapshot};
pub use standing::{Standing, StandingWatch};

use crate::wire::{CloseCode, Epoch, Frame, Offset, PeerText};
use acks::AckTimer;
use bytes::BytesMut;
use receive::ReceiveBuffer;
use replay::ReplayBuffer;
use std::time::Instant;

/// How much a session holds.
#[derive(Clone, Copy, Debug)]
pub struct SessionConfig {
    /// Most bytes kept for replay. Default 16 MiB; at least 64 KiB.
    ///
    /// Throughput over one path is at most this per round trip.
    pub replay_buffer: usize,
    /// Most bytes received and not yet written to the pipe. Default 8 MiB; at least 64 KiB, and for a server half at most
    /// 16 MiB.
    pub receive_window: usize,
}

impl SessionConfig {
    /// The least of either buffer: one full frame must always fit.
    pub const MIN_BUFFER: usize = crate::wire::MAX_DATA;

    /// The most that a receive window may be: twice the default.
    pub const MAX_RECEIVE_WINDOW: usize = 16 << 20;
}

impl Default for SessionConfig {
    fn default() -> SessionConfig {
        SessionConfig {
            replay_buffer: 16 << 20,
            receive_window: 8 << 20,
        }
    }
}

/// The peer broke the protocol; the session cannot continue. All of these are `desync` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// An acknowledgement of bytes that do not exist.
    #[error("peer acknowledged byte {acked}, but only {sent} bytes were sent")]
    AckBeyondSent {
        /// What the peer said.
        acked: Offset,
        /// What was sent.
        sent: Offset,
    },
    /// A resume that claims bytes that do not exist.
    #[error("peer resumes from byte {received}, but only {sent} bytes were sent")]
    ResumeBeyondSent {
        /// What the peer said.
        received: Offset,
        /// What was sent.
        sent: Offset,
    },
    /// Bytes or an end with something missing before.
    #[error("peer sent byte {offset} next, but only {received} bytes were received")]
    Gap {
        /// What the peer said.
        offset: Offset,
        /// What we have.
        received: Offset,
    },
    /// More than there is room for.
    #[error("peer sent up to byte {offset}, but had been given room up to {limit}")]
    BeyondWindow {
        /// Where its bytes would end.
        offset: Offset,
        /// Where the room ends.
        limit: Offset,
    },
    /// Bytes after the end, or a second and different end.
    #[error("peer sent byte {offset} after ending at {end}")]
    AfterEnd {
        /// The end that was told.
        end: Offset,
        /// What the peer said now.
        offset: Offset,
    },
}

/// One resumable pair of byte streams.
pub struct Session {
    outgoing: ReplayBuffer,
    incoming: ReceiveBuffer,
    acks: AckTimer,
    /// Epoch of the carrier that leads now, or led last.
    epoch: Epoch,
    attached: bool,
    peer_close: Option<(CloseCode, PeerText)>,
}

impl Session {
    /// A session at its beginning.
    pub fn new(memory: SessionMemory) -> Session {
        Session {
            acks: AckTimer::new(memory.receive.bytes().len()),
            outgoing: ReplayBuffer::new(memory.replay),
            incoming: ReceiveBuffer::new(memory.receive),
            epoch: Epoch::default(),
            attached: false,
            peer_close: None,
        }
    }

    // What the driver may ask.

    /// First position that was not received: what a `Resume` or an `Accepted` says.
    pub fn received(&self) -> Offset {
        self.incoming.received()
    }

    /// Bytes beyond [`Session::received`] that there is room for: what a `Resume` or an `Accepted` says.
    pub fn window(&self) -> u64 {
        self.incoming.limit().since(self.incoming.received()).unwrap_or(0)
    }

    /// Epoch of the lead.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// First position not taken from the pipe.
    pub fn taken(&self) -> Offset {
        self.outgoing.written()
    }

    /// First position that the peer has not acknowledged.
    pub fn delivered(&self) -> Offset {
        self.outgoing.acked()
    }

    /// First position that the lead was not given.
    pub fn sent(&self) -> Offset {
        self.outgoing.next()
    }

    /// Bytes held for replay.
    pub fn replay_len(&self) -> usize {
        self.outgoing.len()
    }

    /// Bytes that [`Session::input`] has room for in all.
    pub fn input_space(&self) -> usize {
        if self.outgoing.is_ended() {
            0
        } else {
            self.outgoing.space()
        }
    }

    /// Bytes held in either direction.
    pub fn buffered(&self) -> usize {
        self.outgoing.len() + self.incoming.len()
    }

    /// Counts every byte that comes in from either side, and every one that leaves: while it stands still, so does the
    /// session.
    pub fn carried(&self) -> u64 {
        self.outgoing.carried().wrapping_add(self.incoming.carried())
    }

    /// Bytes of memory that are held: every place that was written since memory was given back.
    pub fn memory_held(&self) -> usize {
        self.outgoing.memory_held() + self.incoming.memory_held()
    }

    /// How many bytes of [`Session::input`] lie in memory that is held already.
    pub fn input_held(&self) -> usize {
        self.outgoing.spare_held()
    }

    /// Whether [`Session::release_idle_memory`] would give any back.
    pub fn is_memory_idle(&self) -> bool {
        self.outgoing.is_memory_idle() || self.incoming.is_memory_idle()
    }

    /// Whether something sent awaits the peer's acknowledgement.
    pub fn is_outstanding(&self) -> bool {
        self.outgoing.is_outstanding()
    }

    /// Whether the pipe has ended, its last bytes delivered or not.
    pub fn is_input_ended(&self) -> bool {
        self.outgoing.is_ended()
    }

    /// Whether the peer was told everything from the pipe, its end included, and acknowledged it.
    pub fn is_input_done(&self) -> bool {
        self.outgoing.is_done()
    }

    /// Whether the pipe was given everything from the peer, its end included.
    pub fn is_output_done(&self) -> bool {
        self.incoming.is_done()
    }

    /// Whether both directions ended, and nothing is left to be said.
    pub fn is_finished(&self) -> bool {
        self.outgoing.is_done() && self.incoming.is_done() && !(self.attached && self.has_frames())
    }

    /// Whether the peer still waits for our last acknowledgement. Not after a `CLOSE` of ours that it acknowledged.
    pub fn owes_last_words(&self) -> bool {
        !self.outgoing.is_close_known()
    }

    /// Why the peer closed the session, once it did.
    pub fn peer_close(&self) -> Option<(CloseCode, &PeerText)> {
        self.peer_close.as_ref().map(|(code, message)| (*code, message))
    }

    // From and to the pipe.

    /// Where bytes from the pipe go; empty while the replay buffer is full, and after the end.
    pub fn input(&mut self) -> &mut [u8] {
        self.outgoing.spare()
    }

    /// The pipe gave the first `len` bytes of [`Session::input`].
    pub fn commit_input(&mut self, len: usize) {
        self.outgoing.commit(len);
    }

    /// The pipe ended; the other direction goes on.
    pub fn finish_input(&mut self) {
        self.outgoing.finish();
    }

    /// Bytes for the pipe; empty when there are none now.
    pub fn output(&self) -> &[u8] {
        self.incoming.readable()
    }

    /// The pipe took the first `len` bytes of [`Session::output`].
    pub fn output_written(&mut self, len: usize, now: Instant) {
        self.incoming.consume(len);
        self.acks.handle_delivery(self.incoming.delivered(), now);
    }

    /// Whether the pipe is to be closed for writing now.
    pub fn is_output_end_due(&self) -> bool {
        self.incoming.is_end_due()
    }

    /// The pipe was closed for writing.
    pub fn output_ended(&mut self) {
        self.incoming.end_delivered();
        self.acks.demand();
    }

    /// The pipe takes nothing more. The peer is told after the last byte that the pipe gave.
    pub fn close(&mut self, code: CloseCode, message: impl Into<String>) {
        self.incoming.abandon();
        self.acks.demand();
        self.outgoing.close(code, message.into());
        if self.peer_close.is_some() {
            // It takes nothing more, our CLOSE included, and so will not acknowledge it.
            self.outgoing.abandon();
        }
    }

    /// Gives memory back that was touched and holds nothing now. A successor must know before that the peer has
    /// acknowledged what was there.
    pub fn release_idle_memory(&mut self) {
        self.outgoing.release_idle_memory();
        self.incoming.release_idle_memory();
    }

    /// The pipe's first bytes, which the peer may have got already, beside any carrier that led.
    ///
    /// # Panics
    /// The session has begun, or has no room for them.
    pub fn begin(&mut self, first: &[u8]) {
        self.outgoing.begin(first);
    }

    // From and to carriers.

    /// A carrier of this epoch leads from now on; the peer has everything before `peer_received`, and room for
    /// `peer_window` bytes more. Gives the count of bytes to be sent again; `None` if a later lead is known.
    ///
    /// # Errors
    /// The peer claims to have received what was never sent.
    pub fn attach(
        &mut self,
        epoch: Epoch,
        peer_received: Offset,
        peer_window: u64,
    ) -> Result<Option<u64>, SessionError> {
        if epoch < self.epoch {
            return Ok(None);
        }
        let replayed = self.outgoing.rewind(peer_received)?;
        self.outgoing.allow(peer_received.saturating_add(peer_window));
        // The first frame on a new lead shows the peer that it delivers; it also repairs a lost ack.
        self.acks.demand();
        self.epoch = epoch;
        self.attached = true;
        Ok(Some(replayed))
    }

    /// The lead died.
    pub fn detach(&mut self) {
        self.attached = false;
    }

    /// First position that was not yet sent on the lead: what [`Session::fall_back`] wants to know of a former lead.
    pub fn lead_position(&self) -> Offset {
        self.outgoing.position()
    }

    /// The lead died, and an older carrier that still lives leads (again). Everything before `reached` was sent on it,
    /// or had been received when it came.
    ///
    /// # Errors
    /// `reached` came from the peer and is what was never sent.
    pub fn fall_back(&mut self, reached: Offset) -> Result<(), SessionError> {
        self.outgoing.rewind(reached)?;
        self.acks.demand();
        self.attached = true;
        Ok(())
    }

    /// A frame arrived, on whichever carrier of the session.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_frame(&mut self, frame: Frame) -> Result<(), SessionError> {
        match frame {
            Frame::Data { offset, bytes } => {
                self.incoming.accept(offset, &bytes)?;
                if self.incoming.is_abandoned() {
                    // No delivery will ever tell the peer of the room that dropping makes.
                    self.acks.demand();
                }
                Ok(())
            }
            Frame::Fin { offset } => self.incoming.accept_end(offset),
            Frame::Ack { delivered, window } => {
                self.outgoing.acknowledge(delivered)?;
                self.outgoing.allow(delivered.saturating_add(window));
                Ok(())
            }
            Frame::Close { code, message } => {
                // Late copies of it, from older carriers, say nothing new.
                if self.peer_close.is_none() {
                    self.incoming.close();
                    self.outgoing.abandon();
                    self.acks.demand();
                    self.peer_close = Some((code, message));
                }
                Ok(())
            }
            // About the carrier, not the session: the driver answers them.
            Frame::Ping { .. } | Frame::Pong { .. } | Frame::Drain | Frame::Resume { .. } => Ok(()),
        }
    }

    /// A copy arrived beside a carrier's ordered stream: late, early or more than once. Early ones are of no use.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_copy(&mut self, frame: Frame) -> Result<(), SessionError> {
        match frame {
            Frame::Data { offset, .. } if offset <= self.incoming.received() => self.handle_frame(frame),
            _ => Ok(()),
        }
    }

    /// Whether there are bytes that were sent and not acknowledged, at most `most`, and no more wait to be sent: what
    /// flows is interactive.
    pub fn is_copyable(&self, most: usize) -> bool {
        self.outgoing.copyable().is_some_and(|len| (1..=most).contains(&len))
    }

    /// Appends these bytes to `out` as one `DATA` frame, if [`Session::is_copyable`]. Whether it is.
    pub fn copy(&self, most: usize, out: &mut BytesMut) -> bool {
        self.outgoing.copy(most, out)
    }

    /// Appends frames for the lead to `out` until it holds `fill` bytes or nothing is to be said now.
    pub fn transmit(&mut self, out: &mut BytesMut, fill: usize, now: Instant) {
        if self.acks.is_due(now) || (self.acks.is_pending() && self.outgoing.has_frames()) {
            let delivered = self.incoming.delivered();
            Frame::Ack {
                delivered,
                window: self.incoming.window(),
            }
            .encode(out);
            self.acks.handle_sent(delivered);
        }
        self.outgoing.transmit(out, fill);
    }

    /// When [`Session::transmit`] will have something to say without further input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.acks.poll_timeout()
    }

    fn has_frames(&self) -> bool {
        self.acks.is_pending() || self.outgoing.has_frames()
    }
}

#[cfg(test)]
mod tests;
