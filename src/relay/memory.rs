//! The memory that a relay may spend on what waits in it: one budget, of which everything takes its part beforehand.
//!
//! What comes new gets a small part as long as there is any. Those that move bytes may take more, but never from the last
//! quarter, and never more at once than a quarter of what is left: however many take what they can get, some is left for
//! the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What TLS holds for one connection over TCP: a record of each direction that is under way, and what it may take in
/// before the system takes it. What waits in the system itself is that one's to bound (tcp(7), tcp_mem).
pub(super) const TLS_LEG: u64 = 96 << 10;

/// Kept for what comes new: one part of so many.
const KEPT: u64 = 4;
/// What grows takes one part of so many of what is left, at most.
const SHARE: u64 = 4;

/// Bytes for all of a relay.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Part {
    budget: Arc<MemoryBudget>,
    bytes: u64,
}

impl MemoryBudget {
    pub(super) fn new(limit: u64) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget {
            limit,
            used: AtomicU64::new(0),
        })
    }

    /// Bytes that are taken.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// `bytes` for something new; `None` where they are not there.
    pub(super) fn take(self: &Arc<MemoryBudget>, bytes: u64) -> Option<Part> {
        self.take_if(bytes, |used| used.saturating_add(bytes) <= self.limit)
    }

    /// `bytes` for something that is there and moves.
    pub(super) fn take_more(self: &Arc<MemoryBudget>, bytes: u64) -> Option<Part> {
        let for_growth = self.limit - self.limit / KEPT;
        self.take_if(bytes, |used| bytes <= for_growth.saturating_sub(used) / SHARE)
    }

    fn take_if(self: &Arc<MemoryBudget>, bytes: u64, may: impl Fn(u64) -> bool) -> Option<Part> {
        let taken = self
            .used
            .fetch_update(Relaxed, Relaxed, |used| may(used).then_some(used + bytes));
        taken.ok().map(|_| Part {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

impl Part {
    /// One of both.
    pub(super) fn join(&mut self, mut other: Part) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Gives all but `bytes` back.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.budget.used.fetch_sub(surplus, Relaxed);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_leaves_some_for_the_next_and_for_what_comes_new() {
        let budget = MemoryBudget::new(1 << 20);
        let greedy: Vec<Part> = std::iter::from_fn(|| budget.take_more(16 << 10)).collect();
        assert!(budget.used() <= (1 << 20) * 3 / 4);
        assert!(greedy.len() > 40, "most of it was there to be had: {}", greedy.len());
        assert!(budget.take_more(8 << 10).is_some(), "the next grows by less");
        let new: Vec<Part> = std::iter::from_fn(|| budget.take(16 << 10)).collect();
        assert!(new.len() >= 16, "a quarter is for what comes new: {}", new.len());
        assert!(budget.take(16 << 10).is_none());
        drop((greedy, new));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn parts_are_joined_and_given_back_in_pieces() {
        let budget = MemoryBudget::new(1 << 20);
        let mut part = budget.take(1000).unwrap();
        part.join(budget.take_more(500).unwrap());
        assert_eq!(budget.used(), 1500);
        part.shrink_to(1200);
        part.shrink_to(2000);
        assert_eq!(budget.used(), 1200);
        drop(part);
        assert_eq!(budget.used(), 0);
    }
}
