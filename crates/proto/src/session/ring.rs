//! A byte queue of fixed capacity, in memory that the caller provides, so that it can outlive the process. This module only
//! has heap memory.

use super::SessionConfig;
use std::ops::Range;

/// Memory of a ring buffer.
///
/// Its length never changes. Its initial content does not matter.
pub trait RingMemory: Send {
    /// All of it.
    fn bytes(&self) -> &[u8];

    /// All of it.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// This range is no longer needed: its pages may be returned to the system. It may be written again.
    fn release(&mut self, range: Range<usize>);
}

/// A session's buffers, at least [`SessionConfig::MIN_BUFFER`] bytes in each direction.
pub struct SessionMemory {
    /// Bytes from the pipe that the peer has not acknowledged.
    pub replay: Box<dyn RingMemory>,
    /// Bytes from the peer that were not yet written to the pipe.
    pub receive: Box<dyn RingMemory>,
}

impl SessionMemory {
    /// Zeroed heap memory: a page costs nothing until it is written. Not returned before the session ends.
    pub fn heap(config: &SessionConfig) -> SessionMemory {
        SessionMemory {
            replay: heap(config.replay_buffer),
            receive: heap(config.receive_window),
        }
    }
}

fn heap(len: usize) -> Box<dyn RingMemory> {
    let len = len.max(SessionConfig::MIN_BUFFER);
    Box::new(Heap(vec![0; len].into_boxed_slice()))
}

struct Heap(Box<[u8]>);

impl RingMemory for Heap {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn release(&mut self, _range: Range<usize>) {}
}

/// Bytes in order, as many as the memory holds at most.
pub(super) struct Ring {
    memory: Box<dyn RingMemory>,
    capacity: usize,
    front: usize,
    len: usize,
    /// Before this place bytes may have been written since the memory was given back.
    touched: usize,
}

impl Ring {
    pub(super) fn new(memory: Box<dyn RingMemory>) -> Ring {
        Ring {
            capacity: memory.bytes().len(),
            memory,
            front: 0,
            len: 0,
            touched: 0,
        }
    }

    /// The ring of a predecessor, which lies in `memory` already: `len` bytes, of which the first is at `front`.
    pub(super) fn restore(memory: Box<dyn RingMemory>, front: usize, len: usize) -> Ring {
        let mut ring = Ring {
            front,
            len,
            ..Ring::new(memory)
        };
        assert!(
            front < ring.capacity && len <= ring.capacity,
            "restored what does not fit"
        );
        // What else the predecessor has touched is not known, and not needed.
        match front + len {
            end if end <= ring.capacity => {
                ring.memory.release(0..front);
                ring.memory.release(end..ring.capacity);
                ring.touched = end;
            }
            end => {
                ring.memory.release(end - ring.capacity..front);
                ring.touched = ring.capacity;
            }
        }
        ring
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn space(&self) -> usize {
        self.capacity - self.len
    }

    /// Where in the memory the first byte is, or the next one will be.
    pub(super) fn front(&self) -> usize {
        self.front
    }

    /// Bytes of memory that are held, needed or not.
    pub(super) fn memory_held(&self) -> usize {
        self.touched
    }

    /// How many bytes of [`Ring::free`] lie in memory that is held already.
    pub(super) fn free_held(&self) -> usize {
        self.touched.saturating_sub(self.back())
    }

    /// Whether memory is held that no byte needs.
    pub(super) fn is_memory_idle(&self) -> bool {
        self.len == 0 && self.touched > 0
    }

    /// Gives memory back that no byte needs.
    pub(super) fn release_idle_memory(&mut self) {
        if self.is_memory_idle() {
            // Only whole pages can be given back, and the last one that was touched seldom ends where the touching did.
            self.memory.release(0..self.capacity);
            self.touched = 0;
        }
    }

    /// Free memory right after the last byte; shorter than [`Ring::space`] where the ring wraps.
    pub(super) fn free(&mut self) -> &mut [u8] {
        let back = self.back();
        let end = if back < self.front { self.front } else { self.capacity };
        let end = end.min(back + self.space());
        &mut self.memory.bytes_mut()[back..end]
    }

    /// Takes the first `len` bytes of [`Ring::free`] as written.
    pub(super) fn commit(&mut self, len: usize) {
        assert!(len <= self.space(), "committed more than there was room for");
        self.touched = self.touched.max(self.back() + len);
        self.len += len;
    }

    /// Appends `bytes`, which must fit.
    pub(super) fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let free = self.free();
            let len = free.len().min(bytes.len());
            assert!(len > 0, "appended more than there was room for");
            free[..len].copy_from_slice(&bytes[..len]);
            self.commit(len);
            bytes = &bytes[len..];
        }
    }

    /// Bytes from `at` (counted from the front) on; ends early where the ring wraps.
    pub(super) fn peek(&self, at: usize) -> &[u8] {
        let len = self.len.saturating_sub(at);
        let start = self.wrap(self.front + at);
        &self.memory.bytes()[start..(start + len).min(self.capacity)]
    }

    /// Drops `len` bytes from the front.
    pub(super) fn discard(&mut self, len: usize) {
        assert!(len <= self.len, "discarded more than there was");
        self.len -= len;
        // An empty ring starts over at its beginning, so that a quiet session keeps touching the same few pages.
        self.front = if self.len == 0 { 0 } else { self.wrap(self.front + len) };
    }

    /// Where the next byte goes.
    fn back(&self) -> usize {
        self.wrap(self.front + self.len)
    }

    fn wrap(&self, index: usize) -> usize {
        if index >= self.capacity {
            index - self.capacity
        } else {
            index
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::memory_store::{MemoryStore, memory};
    use std::collections::VecDeque;

    #[test]
    fn memory_is_given_back_once_and_only_while_no_byte_needs_it() {
        let store = MemoryStore::new(8);
        let mut ring = Ring::new(store.lend());
        ring.release_idle_memory();
        assert_eq!(store.releases(), 0, "nothing had touched it");
        ring.extend(b"abc");
        ring.release_idle_memory();
        assert_eq!((store.releases(), ring.peek(0)), (0, &b"abc"[..]));
        ring.discard(3);
        ring.release_idle_memory();
        ring.release_idle_memory();
        assert_eq!(store.releases(), 1);
        ring.extend(b"d");
        assert_eq!(ring.peek(0), b"d");
        drop(ring);
        let page = store.lend();
        assert!(
            !page.bytes()[1..].contains(&0),
            "all of the page went back, not what was touched of it"
        );
    }

    #[test]
    fn a_successor_finds_the_bytes_where_the_predecessor_left_them() {
        let store = MemoryStore::new(8);
        let mut ring = Ring::new(store.lend());
        ring.extend(b"abcdef");
        ring.discard(4);
        ring.extend(b"ghij");
        let (front, len) = (ring.front(), ring.len());
        drop(ring);
        let ring = Ring::restore(store.lend(), front, len);
        assert_eq!((ring.peek(0), ring.peek(4)), (&b"efgh"[..], &b"ij"[..]));
    }

    proptest::proptest! {
        #[test]
        fn behaves_as_a_queue(capacity in 1usize..50, steps in proptest::collection::vec((0u8..3, 0usize..60), 0..200)) {
            let (mut ring, mut model) = (Ring::new(memory(capacity)), VecDeque::new());
            let mut next = 0u8;
            for (step, amount) in steps {
                match step {
                    0 => {
                        let bytes: Vec<u8> = (0..amount.min(ring.space())).map(|_| { next = next.wrapping_add(1); next }).collect();
                        ring.extend(&bytes);
                        model.extend(bytes);
                    }
                    1 => {
                        let free = ring.free();
                        let len = amount.min(free.len());
                        free[..len].fill(9);
                        ring.commit(len);
                        model.extend(std::iter::repeat_n(9, len));
                    }
                    _ => {
                        let len = amount.min(ring.len());
                        ring.discard(len);
                        model.drain(..len);
                    }
                }
                assert_eq!(ring.space(), capacity - model.len());
                let mut seen = ring.peek(0).to_vec();
                if seen.len() < ring.len() {
                    seen.extend_from_slice(ring.peek(seen.len()));
                }
                assert_eq!(seen, Vec::from(model.clone()));
            }
        }
    }
}
