//! Memory that outlives the session in it.

#![allow(unreachable_pub, reason = "a module of test crates has no outside")]

use bowline::session::{RingMemory, SessionMemory};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// For a session that will never be used.
pub(crate) fn nothing() -> SessionMemory {
    SessionMemory {
        replay: MemoryStore::new(0).lend(),
        receive: MemoryStore::new(0).lend(),
    }
}

/// Where the memory lies while no session has it.
pub(crate) struct MemoryStore(Arc<Mutex<Vec<u8>>>);

impl MemoryStore {
    pub(crate) fn new(len: usize) -> MemoryStore {
        MemoryStore(Arc::new(Mutex::new(vec![0; len])))
    }

    /// Lends the memory as it was left; it comes back when the borrower is dropped.
    pub(crate) fn lend(&self) -> Box<dyn RingMemory> {
        let bytes = std::mem::take(&mut *self.0.lock().expect("nobody panicked with it"));
        Box::new(Lent {
            bytes,
            store: Arc::clone(&self.0),
        })
    }
}

struct Lent {
    bytes: Vec<u8>,
    store: Arc<Mutex<Vec<u8>>>,
}

impl RingMemory for Lent {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn release(&mut self, range: Range<usize>) {
        // Whoever relies on it afterwards is to be found out. Not all of it: that would take most of the time.
        let most = range.end.min(range.start + (1 << 14));
        self.bytes[range.start..most].fill(0xee);
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.store.lock().expect("nobody panicked with it") = std::mem::take(&mut self.bytes);
    }
}
