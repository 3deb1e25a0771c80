//! The memory of a session's buffers.
//!
//! The caller provides it, so that it can outlive the process. This module only has heap memory.

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
