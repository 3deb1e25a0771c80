//! Outgoing bytes that the peer has not acknowledged.
//!
//! Pure: no I/O, no clock. A full buffer refuses bytes; it never drops any.

use super::ring::Ring;
use super::{RestoreError, RingMemory, SessionError, Snapshot};
use crate::wire::{CloseCode, DATA_HEAD, Frame, MAX_DATA, Offset};
use bytes::BytesMut;

/// Bytes that may have to be sent again, and how far the present lead got.
pub(super) struct ReplayBuffer {
    /// Bytes from `acked` to `written`.
    ring: Ring,
    acked: Offset,
    written: Offset,
    /// Next position to send on the present lead.
    next: Offset,
    /// First position never sent on any carrier.
    sent: Offset,
    /// End of the peer's receive window.
    limit: Offset,
    /// The pipe ended; the other direction goes on. Takes the position after the last byte.
    fin: bool,
    /// The pipe accepts no more output. Takes the position after the last byte, or after a FIN that was sent.
    close: Option<(CloseCode, String)>,
    /// Both closed, so the peer will never acknowledge our CLOSE.
    close_in_doubt: bool,
}

impl ReplayBuffer {
    pub(super) fn new(memory: Box<dyn RingMemory>) -> ReplayBuffer {
        ReplayBuffer {
            ring: Ring::new(memory),
            acked: Offset::ZERO,
            written: Offset::ZERO,
            next: Offset::ZERO,
            sent: Offset::ZERO,
            limit: Offset::ZERO,
            fin: false,
            close: None,
            close_in_doubt: false,
        }
    }

    /// The buffer of a predecessor that had read `read` bytes from the pipe into `memory`.
    ///
    /// Everything that it may have sent counts as sent: it stored the snapshot before sending, and nobody knows how much it
    /// then sent.
    pub(super) fn restore(
        memory: Box<dyn RingMemory>,
        snapshot: &Snapshot,
        close: Option<(CloseCode, String)>,
        read: Offset,
    ) -> Result<ReplayBuffer, RestoreError> {
        let (acked, front, capacity) = (snapshot.acked, snapshot.front, memory.bytes().len() as u64);
        let end = read.saturating_add(u64::from(snapshot.fin) + u64::from(close.is_some()));
        if acked > end {
            return Err(RestoreError::AckedBeyondRead { acked, end });
        }
        // More bytes than the memory holds mean that they were read after an unknown ack, so none is where expected.
        let len = read.since(acked).unwrap_or(0);
        if len > capacity {
            return Err(RestoreError::ReplayBeyondMemory { acked, read, capacity });
        }
        if front >= capacity {
            return Err(RestoreError::FrontBeyondMemory { front, capacity });
        }
        Ok(ReplayBuffer {
            ring: Ring::restore(memory, front as usize, len as usize),
            acked,
            written: read,
            next: acked,
            sent: end,
            limit: Offset::ZERO,
            fin: snapshot.fin,
            close,
            close_in_doubt: false,
        })
    }

    /// Where to read bytes from the pipe into; empty if full or ended.
    pub(super) fn free(&mut self) -> &mut [u8] {
        if self.is_ended() { &mut [] } else { self.ring.free() }
    }

    pub(super) fn commit(&mut self, len: usize) {
        self.ring.commit(len);
        self.written = self.written.saturating_add(len as u64);
    }

    /// The very first bytes, which count as sent.
    pub(super) fn begin(&mut self, first: &[u8]) {
        assert_eq!(self.written, Offset::ZERO, "it has begun");
        self.ring.free()[..first.len()].copy_from_slice(first);
        self.commit(first.len());
        self.sent = self.written;
    }

    /// The pipe ended.
    pub(super) fn finish(&mut self) {
        self.fin |= !self.is_ended();
    }

    /// The pipe ended and accepts no more output. CLOSE follows the last byte.
    pub(super) fn close(&mut self, code: CloseCode, message: String) {
        // A FIN that was sent keeps its position.
        self.fin &= self.sent > self.written;
        self.close.get_or_insert((code, message));
    }

    /// The peer closed and will accept nothing more.
    pub(super) fn abandon(&mut self) {
        self.ring.discard(self.ring.len());
        self.finish();
        // If both close, neither acknowledges the other's CLOSE: receiving one counts as acknowledgement, and our own is still
        // sent.
        self.close_in_doubt = self.close.is_some();
        let unsaid = self.close.is_some() && self.next < self.end_position();
        self.acked = self.end_position();
        self.next = if unsaid {
            self.written.saturating_add(u64::from(self.fin))
        } else {
            self.acked
        };
        self.sent = self.acked;
    }

    /// The peer wrote everything before `acked` to its destination. Older acks are ignored.
    pub(super) fn acknowledge(&mut self, acked: Offset) -> Result<(), SessionError> {
        if acked > self.sent {
            return Err(SessionError::AckBeyondSent { acked, sent: self.sent });
        }
        if acked > self.acked {
            let bytes = acked.min(self.written).since(self.acked).unwrap_or(0);
            self.ring.discard(bytes as usize);
            self.acked = acked;
            self.next = self.next.max(acked);
        }
        Ok(())
    }

    /// The peer's window ends at `limit`. It never shrinks.
    pub(super) fn allow(&mut self, limit: Offset) {
        self.limit = self.limit.max(limit);
    }

    /// A new lead begins: sends again what the peer has not received.
    pub(super) fn rewind(&mut self, peer_received: Offset) -> Result<u64, SessionError> {
        if peer_received > self.sent {
            return Err(SessionError::ResumeBeyondSent {
                received: peer_received,
                sent: self.sent,
            });
        }
        self.next = self.acked.max(peer_received);
        if self.close_in_doubt {
            self.next = self.written.saturating_add(u64::from(self.fin));
        }
        Ok(self.sent.since(self.next).unwrap_or(0))
    }

    /// Next position to send.
    pub(super) fn position(&self) -> Offset {
        self.next
    }

    /// Appends frames to `out` until it holds `fill` bytes or nothing more may be sent.
    pub(super) fn transmit(&mut self, out: &mut BytesMut, fill: usize) {
        while out.len() < fill {
            let sendable = self.limit.min(self.written).since(self.next).unwrap_or(0);
            if sendable == 0 {
                break;
            }
            let at = self
                .next
                .since(self.acked)
                .expect("what was acknowledged is never sent again");
            let piece = self.ring.peek(at as usize);
            let len = piece
                .len()
                .min(MAX_DATA)
                .min(usize::try_from(sendable).unwrap_or(MAX_DATA));
            // Once, rather than for each field of the head and then for the bytes.
            out.reserve(DATA_HEAD + len);
            Frame::encode_data(self.next, &piece[..len], out);
            self.advance(len as u64);
        }
        while self.is_end_next() {
            match &self.close {
                Some((code, message)) if !self.fin || self.next > self.written => {
                    Frame::Close {
                        code: *code,
                        message: message.as_str().into(),
                    }
                    .encode(out);
                }
                _ => Frame::Fin { offset: self.written }.encode(out),
            }
            self.advance(1);
        }
    }

    /// How many bytes were sent on the present lead and are unacknowledged; `None` if more wait to be sent.
    pub(super) fn copyable(&self) -> Option<usize> {
        let all_sent = self.next >= self.written;
        let len = self.written.since(self.acked).filter(|_| all_sent)?;
        usize::try_from(len).ok()
    }

    /// Appends these as one frame if there are between 1 and `most`, and returns whether there are.
    pub(super) fn copy(&self, most: usize, out: &mut BytesMut) -> bool {
        let Some(len @ 1..=MAX_DATA) = self.copyable().filter(|len| *len <= most) else {
            return false;
        };
        let front = self.ring.peek(0);
        let front = &front[..front.len().min(len)];
        let mut bytes = BytesMut::with_capacity(len);
        bytes.extend_from_slice(front);
        bytes.extend_from_slice(&self.ring.peek(front.len())[..len - front.len()]);
        Frame::encode_data(self.acked, &bytes, out);
        true
    }

    /// Whether [`ReplayBuffer::transmit`] would append anything.
    pub(super) fn has_frames(&self) -> bool {
        self.next < self.limit.min(self.written) || self.is_end_next()
    }

    /// Whether sent bytes are unacknowledged.
    pub(super) fn is_outstanding(&self) -> bool {
        self.sent > self.acked
    }

    /// Whether the end was acknowledged.
    pub(super) fn is_done(&self) -> bool {
        self.is_ended() && self.acked == self.end_position()
    }

    /// Whether the peer acknowledged our `CLOSE`.
    pub(super) fn is_close_known(&self) -> bool {
        self.close.is_some() && self.is_done() && !self.close_in_doubt
    }

    pub(super) fn is_ended(&self) -> bool {
        self.fin || self.close.is_some()
    }

    pub(super) fn is_fin(&self) -> bool {
        self.fin
    }

    pub(super) fn close_code(&self) -> Option<CloseCode> {
        self.close.as_ref().map(|(code, _)| *code)
    }

    /// First position not yet read from the pipe.
    pub(super) fn written(&self) -> Offset {
        self.written
    }

    /// First position that the peer has not acknowledged; the end counts.
    pub(super) fn acked(&self) -> Offset {
        self.acked
    }

    /// First position not yet sent on this carrier.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Index of the byte at `acked` in the memory.
    pub(super) fn front(&self) -> u64 {
        self.ring.front() as u64
    }

    /// Sum of bytes read from the pipe and bytes acknowledged.
    pub(super) fn transferred(&self) -> u64 {
        self.written.get().wrapping_add(self.acked.get())
    }

    pub(super) fn memory_held(&self) -> usize {
        self.ring.memory_held()
    }

    pub(super) fn free_held(&self) -> usize {
        self.ring.free_held()
    }

    pub(super) fn is_memory_idle(&self) -> bool {
        self.ring.is_memory_idle()
    }

    pub(super) fn release_idle_memory(&mut self) {
        self.ring.release_idle_memory();
    }

    /// Bytes held.
    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    pub(super) fn space(&self) -> usize {
        self.ring.space()
    }

    /// Whether all bytes were sent on the lead, and the end was not.
    fn is_end_next(&self) -> bool {
        self.next >= self.written && self.next < self.end_position()
    }

    fn end_position(&self) -> Offset {
        self.written
            .saturating_add(u64::from(self.fin) + u64::from(self.close.is_some()))
    }

    fn advance(&mut self, len: u64) {
        self.next = self.next.saturating_add(len);
        self.sent = self.sent.max(self.next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::memory_store::memory;

    fn at(bytes: u64) -> Offset {
        Offset::new(bytes).unwrap()
    }

    fn buffer(written: &[u8]) -> ReplayBuffer {
        let mut buffer = ReplayBuffer::new(memory(64));
        buffer.free()[..written.len()].copy_from_slice(written);
        buffer.commit(written.len());
        buffer.allow(at(1000));
        buffer
    }

    fn frames(buffer: &mut ReplayBuffer) -> Vec<Frame> {
        let (mut out, mut frames) = (BytesMut::new(), Vec::new());
        buffer.transmit(&mut out, 1 << 20);
        while let Some(frame) = Frame::decode(&mut out).unwrap() {
            frames.push(frame);
        }
        frames
    }

    fn data(offset: u64, bytes: &'static [u8]) -> Frame {
        Frame::Data {
            offset: at(offset),
            bytes: bytes.into(),
        }
    }

    #[test]
    fn resume_replays_only_undelivered_bytes() {
        let mut buffer = buffer(b"abcdef");
        assert_eq!(frames(&mut buffer), [data(0, b"abcdef")]);
        buffer.acknowledge(at(2)).unwrap();
        assert_eq!(buffer.rewind(at(4)), Ok(2));
        assert_eq!(frames(&mut buffer), [data(4, b"ef")]);
    }

    #[test]
    fn a_copy_holds_all_that_is_not_acknowledged_and_nothing_that_was_not_sent() {
        let copy = |buffer: &ReplayBuffer, most| {
            let mut out = BytesMut::new();
            buffer.copy(most, &mut out);
            Frame::decode(&mut out).unwrap()
        };
        let mut buffer = buffer(&[1; 60]);
        assert_eq!(copy(&buffer, 64), None, "the lead goes first");
        frames(&mut buffer);
        buffer.acknowledge(at(50)).unwrap();
        buffer.free()[..4].copy_from_slice(b"abcd");
        buffer.commit(4);
        buffer.free()[..4].copy_from_slice(b"efgh");
        buffer.commit(4);
        frames(&mut buffer);
        buffer.acknowledge(at(60)).unwrap();
        assert_eq!(
            copy(&buffer, 8),
            Some(data(60, b"abcdefgh")),
            "around the end of the ring"
        );
        assert_eq!(copy(&buffer, 7), None, "too much for one packet");
        buffer.finish();
        frames(&mut buffer);
        assert_eq!(copy(&buffer, 8), Some(data(60, b"abcdefgh")), "the end is not in it");
        buffer.acknowledge(at(69)).unwrap();
        assert_eq!(copy(&buffer, 8), None);
    }

    #[test]
    fn a_stale_resume_replays_from_the_last_ack() {
        let mut buffer = buffer(b"abcdef");
        frames(&mut buffer);
        buffer.acknowledge(at(5)).unwrap();
        buffer.rewind(at(1)).unwrap();
        assert_eq!(frames(&mut buffer), [data(5, b"f")]);
    }

    #[test]
    fn an_ack_beyond_what_was_sent_is_desync() {
        let mut buffer = buffer(b"abcdef");
        assert_eq!(
            buffer.acknowledge(at(1)),
            Err(SessionError::AckBeyondSent {
                acked: at(1),
                sent: at(0)
            })
        );
        frames(&mut buffer);
        assert_eq!(
            buffer.acknowledge(at(7)),
            Err(SessionError::AckBeyondSent {
                acked: at(7),
                sent: at(6)
            })
        );
        assert_eq!(
            buffer.rewind(at(7)),
            Err(SessionError::ResumeBeyondSent {
                received: at(7),
                sent: at(6)
            })
        );
    }

    #[test]
    fn a_full_buffer_refuses_bytes_and_keeps_those_it_has() {
        let mut buffer = buffer(&[7; 64]);
        assert!(buffer.free().is_empty());
        frames(&mut buffer);
        buffer.acknowledge(at(10)).unwrap();
        assert_eq!(buffer.free().len(), 10);
        assert_eq!(buffer.len(), 54);
    }

    #[test]
    fn nothing_is_sent_beyond_the_peers_window() {
        let mut buffer = ReplayBuffer::new(memory(64));
        buffer.free()[..6].copy_from_slice(b"abcdef");
        buffer.commit(6);
        assert!(!buffer.has_frames());
        buffer.allow(at(4));
        buffer.allow(at(2));
        assert_eq!(frames(&mut buffer), [data(0, b"abcd")]);
        buffer.finish();
        assert!(frames(&mut buffer).is_empty(), "the end waits for the bytes before it");
        buffer.allow(at(6));
        assert_eq!(frames(&mut buffer), [data(4, b"ef"), Frame::Fin { offset: at(6) }]);
    }

    #[test]
    fn the_end_is_replayed_until_it_is_acknowledged() {
        let mut buffer = buffer(b"ab");
        buffer.finish();
        frames(&mut buffer);
        buffer.acknowledge(at(2)).unwrap();
        assert!(!buffer.is_done());
        buffer.rewind(at(2)).unwrap();
        assert_eq!(frames(&mut buffer), [Frame::Fin { offset: at(2) }]);
        buffer.acknowledge(at(3)).unwrap();
        assert!(buffer.is_done() && !buffer.is_outstanding());
    }

    #[test]
    fn a_close_after_a_fin_is_still_said() {
        let mut buffer = buffer(b"ab");
        buffer.finish();
        frames(&mut buffer);
        buffer.close(CloseCode::UpstreamClosed, "gone".into());
        assert_eq!(
            frames(&mut buffer),
            [Frame::Close {
                code: CloseCode::UpstreamClosed,
                message: "gone".into()
            }]
        );
        assert!(buffer.free().is_empty());
    }
}
