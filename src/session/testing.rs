//! Memory for tests, which outlives the session in it.

use super::RingMemory;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Plain memory.
pub(super) fn memory(len: usize) -> Box<dyn RingMemory> {
    Shelf::new(len).lend()
}

/// Where memory lies while no session has it, as it was left.
#[derive(Clone)]
pub(super) struct Shelf(Arc<Mutex<Lying>>);

struct Lying {
    bytes: Vec<u8>,
    releases: usize,
}

impl Shelf {
    pub(super) fn new(len: usize) -> Shelf {
        let lying = Lying {
            bytes: vec![0; len],
            releases: 0,
        };
        Shelf(Arc::new(Mutex::new(lying)))
    }

    /// Lends the memory; it comes back when the borrower is dropped.
    pub(super) fn lend(&self) -> Box<dyn RingMemory> {
        Box::new(Lent {
            bytes: std::mem::take(&mut self.0.lock().unwrap().bytes),
            shelf: self.clone(),
        })
    }

    /// How often it was given back.
    pub(super) fn releases(&self) -> usize {
        self.0.lock().unwrap().releases
    }
}

struct Lent {
    bytes: Vec<u8>,
    shelf: Shelf,
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
        self.shelf.0.lock().unwrap().releases += 1;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.shelf.0.lock().unwrap().bytes = std::mem::take(&mut self.bytes);
    }
}
