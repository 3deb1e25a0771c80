//! A carrier: two ordered byte streams that may end anywhere, seen by each end at its own time.

#![allow(unreachable_pub, reason = "a module of test crates has no outside")]

use crate::chance::Chance;
use bytes::{Bytes, BytesMut};

/// One direction.
#[derive(Default)]
struct Way {
    /// Queued by the writer.
    outbox: BytesMut,
    /// Taken by the network.
    flying: BytesMut,
    /// Arrived, not yet read.
    inbox: BytesMut,
}

#[derive(Default)]
pub(crate) struct Carrier {
    /// By writer.
    ways: [Way; 2],
    cut: bool,
    /// By end: it has let go.
    released: [bool; 2],
}

impl Carrier {
    pub(crate) fn outbox(&mut self, end: usize) -> &mut BytesMut {
        &mut self.ways[end].outbox
    }

    pub(crate) fn is_flushed(&self, end: usize) -> bool {
        self.ways[end].outbox.is_empty()
    }

    pub(crate) fn inbox(&mut self, end: usize) -> &mut BytesMut {
        &mut self.ways[1 - end].inbox
    }

    pub(crate) fn send(&mut self, end: usize, message: &Bytes) {
        self.ways[end].outbox.extend_from_slice(message);
    }

    /// Moves some bytes onto the network, and some off it; gives whether any moved.
    pub(crate) fn fly(&mut self, chance: &mut Chance) -> bool {
        let mut moved = false;
        for way in &mut self.ways {
            let leaving = if self.cut { 0 } else { chance.amount(way.outbox.len()) };
            way.flying.unsplit(way.outbox.split_to(leaving));
            let arriving = chance.amount(way.flying.len());
            way.inbox.extend_from_slice(&way.flying.split_to(arriving));
            moved |= leaving + arriving > 0;
        }
        moved
    }

    /// Moves everything.
    pub(crate) fn settle(&mut self) {
        for way in &mut self.ways {
            if !self.cut {
                let leaving = way.outbox.split();
                way.flying.unsplit(leaving);
            }
            let arriving = way.flying.split();
            way.inbox.extend_from_slice(&arriving);
        }
    }

    /// The path dies: of what is under way some still arrives, up to any byte.
    pub(crate) fn cut(&mut self, chance: &mut Chance) {
        self.cut = true;
        for way in &mut self.ways {
            let arriving = chance.amount(way.flying.len());
            way.flying.truncate(arriving);
            way.outbox.clear();
        }
    }

    /// One end closes at once.
    pub(crate) fn close(&mut self, end: usize, chance: &mut Chance) {
        self.released[end] = true;
        self.cut(chance);
    }

    /// One end closes in good order: what it said still travels.
    pub(crate) fn finish(&mut self, end: usize) {
        self.released[end] = true;
    }

    /// Whether `end` can tell that nothing more will come.
    pub(crate) fn is_over_for(&self, end: usize) -> bool {
        let incoming = &self.ways[1 - end];
        let ended = self.cut || (self.released[1 - end] && incoming.outbox.is_empty());
        ended && incoming.flying.is_empty()
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn is_released(&self, end: usize) -> bool {
        self.released[end]
    }
}
