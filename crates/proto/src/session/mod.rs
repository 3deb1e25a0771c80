//! The session: one resumable pair of byte streams, without I/O and without a clock.
//!
//! A [`Session`] connects a local pipe with the carrier that leads. The driver moves bytes: it reads the pipe into
//! [`Session::input`] and writes [`Session::output`] to the pipe; it passes frames from any carrier to
//! [`Session::handle_frame`], and [`Session::transmit`] fills the lead's outbox. Both halves use it alike. [`Liveness`] and
//! [`RedialPacer`] decide for the client half when the lead is suspected and when to dial.

mod acks;
mod liveness;
#[cfg(test)]
mod memory_store;
mod receive;
mod redial;
mod replay;
mod ring;
mod snapshot;

pub use liveness::{Liveness, LivenessAction};
pub use redial::RedialPacer;
pub use ring::{RingMemory, SessionMemory};
pub use snapshot::{PipeCounts, RestoreError, Snapshot};

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
    /// More bytes than the window allows.
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

    // Getters.

    /// First position that was not received, for a `Resume` or an `Accepted`.
    pub fn received(&self) -> Offset {
        self.incoming.received()
    }

    /// Receive window beyond [`Session::received`], for a `Resume` or an `Accepted`.
    pub fn window(&self) -> u64 {
        self.incoming.limit().since(self.incoming.received()).unwrap_or(0)
    }

    /// Epoch of the lead.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// First position not yet read from the pipe.
    pub fn taken(&self) -> Offset {
        self.outgoing.written()
    }

    /// First position that the peer has not acknowledged.
    pub fn delivered(&self) -> Offset {
        self.outgoing.acked()
    }

    /// First position of the peer's bytes that was not written to its destination.
    pub fn output_delivered(&self) -> Offset {
        self.incoming.delivered()
    }

    /// First position not yet sent on the lead.
    pub fn sent(&self) -> Offset {
        self.outgoing.next()
    }

    /// Bytes held for replay.
    pub fn replay_len(&self) -> usize {
        self.outgoing.len()
    }

    /// Free bytes of the replay buffer.
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

    /// A counter of all bytes that enter or leave the session: if it does not change, the session is idle.
    pub fn transferred(&self) -> u64 {
        self.outgoing.transferred().wrapping_add(self.incoming.transferred())
    }

    /// Bytes of memory in use: everything written since memory was last returned.
    pub fn memory_held(&self) -> usize {
        self.outgoing.memory_held() + self.incoming.memory_held()
    }

    /// How many bytes of [`Session::input`] [`Session::memory_held`] already counts.
    pub fn input_held(&self) -> usize {
        self.outgoing.free_held()
    }

    /// Whether [`Session::release_idle_memory`] would return any memory.
    pub fn is_memory_idle(&self) -> bool {
        self.outgoing.is_memory_idle() || self.incoming.is_memory_idle()
    }

    /// Whether sent bytes wait for the peer's acknowledgement.
    pub fn is_outstanding(&self) -> bool {
        self.outgoing.is_outstanding()
    }

    /// Whether the pipe has ended, even if its last bytes are not yet delivered.
    pub fn is_input_ended(&self) -> bool {
        self.outgoing.is_ended()
    }

    /// Whether the peer has acknowledged everything from the pipe, its end included.
    pub fn is_input_done(&self) -> bool {
        self.outgoing.is_done()
    }

    /// Whether everything from the peer was written to the pipe, its end included.
    pub fn is_output_done(&self) -> bool {
        self.incoming.is_done()
    }

    /// Whether both directions ended, and no frame is left to send.
    pub fn is_finished(&self) -> bool {
        self.outgoing.is_done() && self.incoming.is_done() && !(self.attached && self.has_frames())
    }

    /// Whether the peer may still wait for our last acknowledgement: unless it acknowledged our `CLOSE`.
    pub fn owes_last_ack(&self) -> bool {
        !self.outgoing.is_close_known()
    }

    /// Why the peer closed the session; `None` while it has not.
    pub fn peer_close(&self) -> Option<(CloseCode, &PeerText)> {
        self.peer_close.as_ref().map(|(code, message)| (*code, message))
    }

    // From and to the pipe.

    /// Where to read bytes from the pipe into; empty if the replay buffer is full or the pipe has ended.
    pub fn input(&mut self) -> &mut [u8] {
        self.outgoing.free()
    }

    /// The first `len` bytes of [`Session::input`] were read from the pipe.
    pub fn commit_input(&mut self, len: usize) {
        self.outgoing.commit(len);
    }

    /// The pipe ended; the other direction goes on.
    pub fn finish_input(&mut self) {
        self.outgoing.finish();
    }

    /// Bytes to write to the pipe; may be empty.
    pub fn output(&self) -> &[u8] {
        self.incoming.readable()
    }

    /// The first `len` bytes of [`Session::output`] were written to the pipe.
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

    /// The pipe accepts no more output. The peer learns this after the last byte that was read from the pipe.
    pub fn close(&mut self, code: CloseCode, message: impl Into<String>) {
        self.incoming.abandon();
        self.acks.demand();
        self.outgoing.close(code, message.into());
        if self.peer_close.is_some() {
            // The peer accepts nothing more and will not acknowledge our CLOSE.
            self.outgoing.abandon();
        }
    }

    /// Returns memory that is empty now. The latest checkpoint must already say that the peer acknowledged its content.
    pub fn release_idle_memory(&mut self) {
        self.outgoing.release_idle_memory();
        self.incoming.release_idle_memory();
    }

    /// Adds the pipe's first bytes, which the peer may already have received with the hello.
    ///
    /// # Panics
    /// If the session has begun or has no room for them.
    pub fn begin(&mut self, first: &[u8]) {
        self.outgoing.begin(first);
    }

    // From and to carriers.

    /// A carrier becomes the lead. The peer has everything before `peer_received`, and a window of `peer_window` bytes.
    /// Returns how many bytes will be sent again; `None` if there is a later epoch already.
    ///
    /// # Errors
    /// The peer claims to have received bytes that were never sent.
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
        // The first frame on a new lead shows the peer that it works; it also replaces a lost ack.
        self.acks.demand();
        self.epoch = epoch;
        self.attached = true;
        Ok(Some(replayed))
    }

    /// The lead was lost.
    pub fn detach(&mut self) {
        self.attached = false;
    }

    /// First position not yet sent on the lead: the argument of a later [`Session::fall_back`].
    pub fn lead_position(&self) -> Offset {
        self.outgoing.position()
    }

    /// The lead was lost, and an older carrier becomes the lead again. Everything before `reached` was sent on it, or had
    /// been received before it came.
    ///
    /// # Errors
    /// `reached` came from the peer and was never sent.
    pub fn fall_back(&mut self, reached: Offset) -> Result<(), SessionError> {
        self.outgoing.rewind(reached)?;
        self.acks.demand();
        self.attached = true;
        Ok(())
    }

    /// A frame arrived on any carrier of the session.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_frame(&mut self, frame: Frame) -> Result<(), SessionError> {
        match frame {
            Frame::Data { offset, bytes } => {
                self.incoming.accept(offset, &bytes)?;
                if self.incoming.is_abandoned() {
                    // Dropped bytes are never delivered, so no delivery would tell the peer about the free window.
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
                // Older carriers may deliver it again.
                if self.peer_close.is_none() {
                    self.incoming.close();
                    self.outgoing.abandon();
                    self.acks.demand();
                    self.peer_close = Some((code, message));
                }
                Ok(())
            }
            // These concern the carrier; the driver handles them.
            Frame::Ping { .. } | Frame::Pong { .. } | Frame::Drain | Frame::Resume { .. } => Ok(()),
        }
    }

    /// A copy arrived as a datagram: late, early or repeatedly. Early ones are ignored.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_copy(&mut self, frame: Frame) -> Result<(), SessionError> {
        match frame {
            Frame::Data { offset, .. } if offset <= self.incoming.received() => self.handle_frame(frame),
            _ => Ok(()),
        }
    }

    /// Whether the traffic is interactive: between 1 and `most` bytes are unacknowledged, and none wait to be sent.
    pub fn is_copyable(&self, most: usize) -> bool {
        self.outgoing.copyable().is_some_and(|len| (1..=most).contains(&len))
    }

    /// Appends these bytes to `out` as one `DATA` frame if [`Session::is_copyable`], and returns whether it is.
    pub fn copy(&self, most: usize, out: &mut BytesMut) -> bool {
        self.outgoing.copy(most, out)
    }

    /// Appends frames for the lead to `out` until it holds `fill` bytes or there is nothing to send now.
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

    /// When [`Session::transmit`] will have something to send without further input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.acks.poll_timeout()
    }

    fn has_frames(&self) -> bool {
        self.acks.is_pending() || self.outgoing.has_frames()
    }
}

#[cfg(test)]
mod tests;
