//! A byte queue of fixed capacity.
//!
//! Memory is taken from the system zeroed and untouched, so a page costs nothing until bytes reach it.

/// Bytes in order, at most `capacity` of them.
pub(super) struct Ring {
    memory: Box<[u8]>,
    front: usize,
    len: usize,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Ring {
        Ring {
            memory: vec![0; capacity].into_boxed_slice(),
            front: 0,
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn space(&self) -> usize {
        self.memory.len() - self.len
    }

    /// Free memory right after the last byte; shorter than [`Ring::space`] where the ring wraps.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        let back = self.wrap(self.front + self.len);
        let end = if back < self.front {
            self.front
        } else {
            self.memory.len()
        };
        let end = end.min(back + self.space());
        &mut self.memory[back..end]
    }

    /// Takes the first `len` bytes of [`Ring::spare`] as written.
    pub(super) fn commit(&mut self, len: usize) {
        assert!(len <= self.space(), "committed more than there was room for");
        self.len += len;
    }

    /// Appends `bytes`, which must fit.
    pub(super) fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let spare = self.spare();
            let len = spare.len().min(bytes.len());
            assert!(len > 0, "appended more than there was room for");
            spare[..len].copy_from_slice(&bytes[..len]);
            self.commit(len);
            bytes = &bytes[len..];
        }
    }

    /// Bytes from `at` (counted from the front) on; ends early where the ring wraps.
    pub(super) fn peek(&self, at: usize) -> &[u8] {
        let len = self.len.saturating_sub(at);
        let start = self.wrap(self.front + at);
        &self.memory[start..(start + len).min(self.memory.len())]
    }

    /// Drops `len` bytes from the front.
    pub(super) fn discard(&mut self, len: usize) {
        assert!(len <= self.len, "discarded more than there was");
        self.len -= len;
        // An empty ring starts over at its beginning, so that a quiet session keeps touching the same few pages.
        self.front = if self.len == 0 { 0 } else { self.wrap(self.front + len) };
    }

    fn wrap(&self, index: usize) -> usize {
        if index >= self.memory.len() {
            index - self.memory.len()
        } else {
            index
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    proptest::proptest! {
        #[test]
        fn behaves_as_a_queue(capacity in 1usize..50, steps in proptest::collection::vec((0u8..3, 0usize..60), 0..200)) {
            let (mut ring, mut model) = (Ring::new(capacity), VecDeque::new());
            let mut next = 0u8;
            for (step, amount) in steps {
                match step {
                    0 => {
                        let bytes: Vec<u8> = (0..amount.min(ring.space())).map(|_| { next = next.wrapping_add(1); next }).collect();
                        ring.extend(&bytes);
                        model.extend(bytes);
                    }
                    1 => {
                        let spare = ring.spare();
                        let len = amount.min(spare.len());
                        spare[..len].fill(9);
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
