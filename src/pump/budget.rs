//! Memory that many sessions share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What every session may hold whatever the others do, so that none starves.
const FLOOR: usize = 64 * 1024;

/// Most bytes that all sessions together keep for replay. At the limit pipes are not read; nothing is dropped.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// Bytes in use now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// One session's part of a budget.
pub(super) struct Share {
    budget: Arc<Budget>,
    reported: usize,
    refused: bool,
}

impl Share {
    pub(super) fn new(budget: Arc<Budget>) -> Share {
        Share {
            budget,
            reported: 0,
            refused: false,
        }
    }

    /// How many of `wanted` bytes may be taken in by a session that holds `held`, the first `ready` of them in memory that
    /// is part of that.
    pub(super) fn grant(&mut self, held: usize, wanted: usize, ready: usize) -> usize {
        self.report(held);
        let free = self.budget.limit.saturating_sub(self.budget.used());
        let granted = wanted.min(ready.saturating_add(free.max(FLOOR.saturating_sub(held))));
        self.refused = granted == 0 && wanted > 0;
        granted
    }

    /// Whether the last grant was empty for want of memory.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    /// The session holds so many bytes now.
    pub(super) fn report(&mut self, held: usize) {
        if held >= self.reported {
            self.budget.used.fetch_add(held - self.reported, Ordering::Relaxed);
        } else {
            self.budget.used.fetch_sub(self.reported - held, Ordering::Relaxed);
        }
        self.reported = held;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.report(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_session_leaves_others_their_floor() {
        let budget = Budget::new(1 << 20);
        let (mut greedy, mut modest) = (Share::new(Arc::clone(&budget)), Share::new(Arc::clone(&budget)));
        assert_eq!(greedy.grant(0, 4 << 20, 0), 1 << 20);
        assert_eq!(greedy.grant(1 << 20, 1, 0), 0);
        assert!(greedy.is_refused());
        assert_eq!(
            greedy.grant(1 << 20, 4, 3),
            3,
            "memory that it holds already costs nothing"
        );
        assert_eq!(modest.grant(0, 1 << 20, 0), FLOOR);
        drop(greedy);
        assert_eq!(budget.used(), 0);
    }
}
