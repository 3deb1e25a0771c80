//! Memory for tests, which outlives the session in it.

use super::RingMemory;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Plain memory.
pub(super) fn memory(len: usize) -> Box<dyn RingMemory> {
    MemoryStore::new(len).lend()
}

/// Where memory lies while no session has it, as it was left.
#[derive(Clone)]
pub(super) struct MemoryStore(Arc<Mutex<Stored>>);

struct Stored {
    bytes: Vec<u8>,
    releases: usize,
}

impl MemoryStore {
    pub(super) fn new(len: usize) -> MemoryStore {
        let stored = Stored {
            bytes: vec![0; len],
            releases: 0,
        };
        MemoryStore(Arc::new(Mutex::new(stored)))
    }

    /// Lends the memory; it comes back when the borrower is dropped.
    pub(super) fn lend(&self) -> Box<dyn RingMemory> {
        Box::new(Lent {
            bytes: std::mem::take(&mut self.0.lock().unwrap().bytes),
            store: self.clone(),
        })
    }

    /// How often it was given back.
    pub(super) fn releases(&self) -> usize {
        self.0.lock().unwrap().releases
    }
}

struct Lent {
    bytes: Vec<u8>,
    store: MemoryStore,
}

impl RingMemory for Lent {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn release(&mut self, range: Range<usize>) {
        // Whoever relies on it afterwards is to be found out.
        self.bytes[range].fill(0xee);
        self.store.0.lock().unwrap().releases += 1;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.store.0.lock().unwrap().bytes = std::mem::take(&mut self.bytes);
    }
}
