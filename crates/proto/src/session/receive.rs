//! Bytes from the peer until they are written to their destination.
//!
//! Pure: no I/O, no clock. The window promised to the peer is free memory here, so it can always be honoured.

use super::ring::Ring;
use super::{PipeCounts, RestoreError, RingMemory, SessionError, Snapshot};
use crate::wire::Offset;

/// What was received and not yet delivered.
pub(super) struct ReceiveBuffer {
    /// Bytes from `delivered` to `received`.
    ring: Ring,
    delivered: Offset,
    received: Offset,
    /// Position of the end; `None` until the peer sent it.
    end: Option<Offset>,
    end_delivered: bool,
    /// A CLOSE came after the end: it takes one more position.
    closed_after_end: bool,
    abandoned: bool,
}

impl ReceiveBuffer {
    pub(super) fn new(memory: Box<dyn RingMemory>) -> ReceiveBuffer {
        ReceiveBuffer {
            ring: Ring::new(memory),
            delivered: Offset::ZERO,
            received: Offset::ZERO,
            end: None,
            end_delivered: false,
            closed_after_end: false,
            abandoned: false,
        }
    }

    /// The buffer of a predecessor that had written `counts.written` bytes to the pipe. Its content is lost, and so is the
    /// end unless everything before it was written: the peer sends these again.
    pub(super) fn restore(
        memory: Box<dyn RingMemory>,
        snapshot: &Snapshot,
        counts: PipeCounts,
    ) -> Result<ReceiveBuffer, RestoreError> {
        let written = counts.written;
        if let Some(end) = snapshot.output_end.filter(|end| *end < written) {
            return Err(RestoreError::OutputEndBeforeWritten { end, written });
        }
        let end = snapshot.output_end.filter(|end| *end == written);
        Ok(ReceiveBuffer {
            ring: Ring::new(memory),
            delivered: written,
            received: written,
            end,
            end_delivered: end.is_some() && counts.output_shut,
            closed_after_end: end.is_some() && snapshot.peer_close.is_some() && snapshot.peer_close_after_fin,
            abandoned: snapshot.close.is_some(),
        })
    }

    /// Accepts the new part of `bytes`, which start at `offset`.
    ///
    /// # Errors
    /// A gap before them, more than the window, or bytes after the end.
    pub(super) fn accept(&mut self, offset: Offset, bytes: &[u8]) -> Result<(), SessionError> {
        let known = self.received.since(offset).ok_or(SessionError::Gap {
            offset,
            received: self.received,
        })?;
        let Some(fresh) = usize::try_from(known).ok().and_then(|known| bytes.get(known..)) else {
            return Ok(());
        };
        if fresh.is_empty() {
            return Ok(());
        }
        let end = self.received.saturating_add(fresh.len() as u64);
        if let Some(told) = self.end {
            if self.abandoned {
                // If both closed, the peer's CLOSE may overtake earlier bytes on an older carrier.
                return Ok(());
            }
            return Err(SessionError::AfterEnd { end: told, offset: end });
        }
        if fresh.len() > self.ring.space() {
            return Err(SessionError::BeyondWindow {
                offset: end,
                limit: self.limit(),
            });
        }
        if !self.abandoned {
            self.ring.extend(fresh);
        }
        self.received = end;
        Ok(())
    }

    /// The peer's direction ends at `offset`.
    ///
    /// # Errors
    /// Bytes are missing before it, or it differs from an earlier end.
    pub(super) fn accept_end(&mut self, offset: Offset) -> Result<(), SessionError> {
        if self.abandoned || self.end == Some(offset) {
            return Ok(());
        }
        match self.end {
            Some(end) => Err(SessionError::AfterEnd { end, offset }),
            None if offset > self.received => Err(SessionError::Gap {
                offset,
                received: self.received,
            }),
            None if offset < self.received => Err(SessionError::AfterEnd {
                end: offset,
                offset: self.received,
            }),
            None => {
                self.end = Some(offset);
                Ok(())
            }
        }
    }

    /// The peer sent `CLOSE`, which follows its last byte or its `FIN`.
    pub(super) fn close(&mut self) {
        match self.end {
            None => self.end = Some(self.received),
            Some(_) => self.closed_after_end = true,
        }
    }

    /// Bytes are dropped from now on: counted as received, never as delivered. The peer may continue to send, because its
    /// end may be more than a window away.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.ring.discard(self.ring.len());
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Bytes for the pipe; may be empty.
    pub(super) fn readable(&self) -> &[u8] {
        self.ring.peek(0)
    }

    /// The pipe took `len` bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.ring.discard(len);
        self.delivered = self.delivered.saturating_add(len as u64);
    }

    /// Whether the pipe is to be closed for writing now.
    pub(super) fn is_end_due(&self) -> bool {
        self.end == Some(self.delivered) && !self.end_delivered && !self.abandoned
    }

    pub(super) fn end_delivered(&mut self) {
        self.end_delivered = true;
    }

    /// Whether nothing more will be delivered.
    pub(super) fn is_done(&self) -> bool {
        self.end_delivered || self.abandoned
    }

    /// First position not delivered; the end counts as one.
    pub(super) fn delivered(&self) -> Offset {
        self.delivered.saturating_add(self.end_positions(self.end_delivered))
    }

    /// First position not received; the end counts as one.
    pub(super) fn received(&self) -> Offset {
        self.received.saturating_add(self.end_positions(self.end.is_some()))
    }

    /// Receive window beyond [`ReceiveBuffer::delivered`].
    pub(super) fn window(&self) -> u64 {
        self.limit().since(self.delivered()).unwrap_or(0)
    }

    /// First position beyond the window. Never decreases.
    pub(super) fn limit(&self) -> Offset {
        self.received.saturating_add(self.ring.space() as u64)
    }

    /// Where the peer's direction ends; `None` while unknown.
    pub(super) fn end(&self) -> Option<Offset> {
        self.end
    }

    /// Whether the peer's `CLOSE` came after its `FIN`.
    pub(super) fn is_closed_after_end(&self) -> bool {
        self.closed_after_end
    }

    /// Sum of bytes received and bytes delivered.
    pub(super) fn transferred(&self) -> u64 {
        self.received.get().wrapping_add(self.delivered.get())
    }

    pub(super) fn memory_held(&self) -> usize {
        self.ring.memory_held()
    }

    pub(super) fn is_memory_idle(&self) -> bool {
        self.ring.is_memory_idle()
    }

    pub(super) fn release_idle_memory(&mut self) {
        self.ring.release_idle_memory();
    }

    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    fn end_positions(&self, end_counts: bool) -> u64 {
        if end_counts {
            1 + u64::from(self.closed_after_end)
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::memory_store::memory;

    fn at(bytes: u64) -> Offset {
        Offset::new(bytes).unwrap()
    }

    #[test]
    fn bytes_already_taken_are_skipped() {
        let mut buffer = ReceiveBuffer::new(memory(64));
        buffer.accept(at(0), b"abc").unwrap();
        buffer.accept(at(0), b"abc").unwrap();
        buffer.accept(at(1), b"bcde").unwrap();
        assert_eq!(buffer.readable(), b"abcde");
    }

    #[test]
    fn a_gap_is_desync_with_both_numbers() {
        let mut buffer = ReceiveBuffer::new(memory(64));
        buffer.accept(at(0), b"abc").unwrap();
        assert_eq!(
            buffer.accept(at(5), b"x"),
            Err(SessionError::Gap {
                offset: at(5),
                received: at(3)
            })
        );
        assert_eq!(
            buffer.accept_end(at(4)),
            Err(SessionError::Gap {
                offset: at(4),
                received: at(3)
            })
        );
    }

    #[test]
    fn the_window_holds_what_it_promised_and_no_more() {
        let mut buffer = ReceiveBuffer::new(memory(4));
        assert_eq!(buffer.window(), 4);
        buffer.accept(at(0), b"abcd").unwrap();
        assert_eq!(
            buffer.accept(at(4), b"e"),
            Err(SessionError::BeyondWindow {
                offset: at(5),
                limit: at(4)
            })
        );
        buffer.consume(1);
        assert_eq!((buffer.delivered(), buffer.window()), (at(1), 4));
        buffer.accept(at(4), b"e").unwrap();
    }

    #[test]
    fn where_both_closed_late_bytes_are_no_desync() {
        let mut buffer = ReceiveBuffer::new(memory(64));
        buffer.abandon();
        buffer.close();
        assert_eq!(buffer.accept(at(0), b"late"), Ok(()));
        assert_eq!(buffer.received(), at(1));
    }

    #[test]
    fn the_end_is_delivered_after_the_last_byte_and_counts_as_one() {
        let mut buffer = ReceiveBuffer::new(memory(4));
        buffer.accept(at(0), b"ab").unwrap();
        buffer.accept_end(at(2)).unwrap();
        buffer.accept_end(at(2)).unwrap();
        assert!(!buffer.is_end_due());
        assert_eq!((buffer.delivered(), buffer.received()), (at(0), at(3)));
        buffer.consume(2);
        assert!(buffer.is_end_due());
        buffer.end_delivered();
        assert_eq!(buffer.delivered(), at(3));
        assert!(matches!(buffer.accept(at(2), b"c"), Err(SessionError::AfterEnd { .. })));
        buffer.accept(at(0), b"ab").unwrap();
    }
}
