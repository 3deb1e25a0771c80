//! The memory budget of a relay: everything reserves its memory before it uses it.
//!
//! A new connection gets a small reservation while any memory is left. A connection that moves
//! bytes may grow, but never into the last quarter of the budget, and by at most a quarter of what
//! is left at a time, so that there is some left for the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Memory of TLS for one TCP connection: one record in each direction, and what rustls accepts
/// before the kernel does. The kernel bounds its own socket buffers (tcp(7), tcp_mem).
pub(super) const TLS_CONNECTION: u64 = 96 << 10;

/// One quarter of the budget is for new connections.
const NEW_RESERVE_DIVISOR: u64 = 4;
/// A connection may grow by one quarter of what is left.
const GROWTH_DIVISOR: u64 = 4;

/// The memory budget of a relay, in bytes.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    limit: u64,
    used: AtomicU64,
}

/// Reserved bytes; released when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
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

    /// Bytes that are reserved.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Reserves `bytes` for a new connection; `None` if there are too few left.
    pub(super) fn reserve(self: &Arc<MemoryBudget>, bytes: u64) -> Option<Reservation> {
        self.reserve_if(bytes, |used| used.saturating_add(bytes) <= self.limit)
    }

    /// Reserves `bytes` for a connection that grows; `None` if that would leave too little.
    pub(super) fn reserve_growth(self: &Arc<MemoryBudget>, bytes: u64) -> Option<Reservation> {
        let for_growth = self.limit - self.limit / NEW_RESERVE_DIVISOR;
        self.reserve_if(bytes, |used| bytes <= for_growth.saturating_sub(used) / GROWTH_DIVISOR)
    }

    fn reserve_if(self: &Arc<MemoryBudget>, bytes: u64, may: impl Fn(u64) -> bool) -> Option<Reservation> {
        let taken = self
            .used
            .fetch_update(Relaxed, Relaxed, |used| may(used).then_some(used + bytes));
        taken.ok().map(|_| Reservation {
            budget: Arc::clone(self),
            bytes,
        })
    }
}

impl Reservation {
    /// Merges two reservations.
    pub(super) fn join(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Releases all but `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.budget.used.fetch_sub(surplus, Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_leaves_memory_for_others_and_for_new_connections() {
        let budget = MemoryBudget::new(1 << 20);
        let greedy: Vec<Reservation> = std::iter::from_fn(|| budget.reserve_growth(16 << 10)).collect();
        assert!(budget.used() <= (1 << 20) * 3 / 4);
        assert!(greedy.len() > 40, "most of it was there to be had: {}", greedy.len());
        assert!(budget.reserve_growth(8 << 10).is_some(), "the next grows by less");
        let new: Vec<Reservation> = std::iter::from_fn(|| budget.reserve(16 << 10)).collect();
        assert!(new.len() >= 16, "a quarter is for what comes new: {}", new.len());
        assert!(budget.reserve(16 << 10).is_none());
        drop((greedy, new));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn reservations_are_merged_and_released_in_parts() {
        let budget = MemoryBudget::new(1 << 20);
        let mut part = budget.reserve(1000).unwrap();
        part.join(budget.reserve_growth(500).unwrap());
        assert_eq!(budget.used(), 1500);
        part.shrink_to(1200);
        part.shrink_to(2000);
        assert_eq!(budget.used(), 1200);
        drop(part);
        assert_eq!(budget.used(), 0);
    }
}
