//! The memory that a session's bytes lie in.
//!
//! Whoever drives the session brings it, so that it may be memory that outlives the process. Here is only the
//! ordinary kind.

use super::SessionConfig;
use std::ops::Range;

/// Memory of a ring.
///
/// Its length never changes. What it holds at the beginning does not matter.
pub trait RingMemory: Send {
    /// All of it.
    fn bytes(&self) -> &[u8];

    /// All of it.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Nothing in this part of it is needed any more: its pages may go back to the system. It may be written again.
    fn release(&mut self, range: Range<usize>);
}

/// What a session keeps its bytes in, [`SessionConfig::MIN_BUFFER`] bytes at least in either direction.
pub struct SessionMemory {
    /// For bytes from the pipe that the peer has not acknowledged.
    pub replay: Box<dyn RingMemory>,
    /// For bytes from the peer that the pipe has not taken.
    pub receive: Box<dyn RingMemory>,
}

impl SessionMemory {
    /// Ordinary memory, zeroed and untouched: a page costs nothing until bytes reach it. Never given back before the
    /// session ends.
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
