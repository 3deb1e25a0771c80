//! A session's memory, when it is returned to the system, and the budget that all sessions of a process share.

use super::Pump;
use crate::session::{SessionConfig, SessionMemory};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// After this long without traffic, the cost of fresh pages is not noticed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// What every session may always hold, so that none starves.
const MIN_PER_SESSION: usize = 64 * 1024;

/// Allocates memory for a session. Unused pages are returned to the system when the session is idle.
pub fn session_memory(config: &SessionConfig) -> SessionMemory {
    #[cfg(target_os = "linux")]
    if let Ok(memory) = mapped::memory(config) {
        return memory;
    }
    SessionMemory::heap(config)
}

impl<R, W> Pump<R, W> {
    /// Returns unused memory of an idle session. The latest checkpoint already says that it is empty.
    pub(super) fn give_memory_back(&mut self, now: Instant) {
        // Probes and acknowledgements do not count as traffic.
        let transferred = self.connection.session().transferred();
        if transferred != self.transferred {
            (self.transferred, self.quiet_since) = (transferred, now);
        } else if self.memory_due().is_some_and(|due| due <= now) {
            self.connection.session_mut().release_idle_memory();
        }
    }

    pub(super) fn memory_due(&self) -> Option<Instant> {
        let session = self.connection.session();
        session.is_memory_idle().then(|| self.quiet_since + IDLE_TIMEOUT)
    }
}

/// The most bytes that all sessions together keep for replay. At the limit pipes are not read; nothing is dropped.
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

    /// Reserves `bytes` for a session that does not run yet, even beyond the limit.
    pub fn reserve(self: &Arc<Budget>, bytes: usize) -> Reservation {
        let mut share = BudgetShare::new(Arc::clone(self));
        share.report(bytes);
        Reservation(share)
    }

    /// Bytes in use now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Memory reserved for a session that does not run yet. Dropping it frees the memory.
pub struct Reservation(#[allow(dead_code, reason = "it counts for as long as it lives")] BudgetShare);

/// One session's share of the budget.
pub(super) struct BudgetShare {
    budget: Arc<Budget>,
    reported: usize,
    refused: bool,
}

impl BudgetShare {
    pub(super) fn new(budget: Arc<Budget>) -> BudgetShare {
        BudgetShare {
            budget,
            reported: 0,
            refused: false,
        }
    }

    /// How many of `wanted` bytes a session that holds `held` bytes may read. The first `ready` of them fit into memory that
    /// `held` already counts.
    pub(super) fn grant(&mut self, held: usize, wanted: usize, ready: usize) -> usize {
        self.report(held);
        let free = self.budget.limit.saturating_sub(self.budget.used());
        let granted = wanted.min(ready.saturating_add(free.max(MIN_PER_SESSION.saturating_sub(held))));
        self.refused = granted == 0 && wanted > 0;
        granted
    }

    /// Whether the last grant was empty because no memory was left.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    /// Updates the number of bytes that the session holds.
    pub(super) fn report(&mut self, held: usize) {
        if held >= self.reported {
            self.budget.used.fetch_add(held - self.reported, Ordering::Relaxed);
        } else {
            self.budget.used.fetch_sub(self.reported - held, Ordering::Relaxed);
        }
        self.reported = held;
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.report(0);
    }
}

#[cfg(target_os = "linux")]
mod mapped {
    use crate::memory::Mapping;
    use crate::session::{RingMemory, SessionConfig, SessionMemory};
    use std::io;
    use std::ops::Range;
    use tracing::debug;

    pub(super) fn memory(config: &SessionConfig) -> io::Result<SessionMemory> {
        Ok(SessionMemory {
            replay: Box::new(Mapping::anonymous(config.replay_buffer.max(SessionConfig::MIN_BUFFER))?),
            receive: Box::new(Mapping::anonymous(
                config.receive_window.max(SessionConfig::MIN_BUFFER),
            )?),
        })
    }

    impl RingMemory for Mapping {
        fn bytes(&self) -> &[u8] {
            self
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            self
        }

        fn release(&mut self, range: Range<usize>) {
            if let Err(error) = self.release(range) {
                debug!(%error, "memory could not be given back");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greedy_session_leaves_others_their_floor() {
        let budget = Budget::new(1 << 20);
        let (mut greedy, mut modest) = (
            BudgetShare::new(Arc::clone(&budget)),
            BudgetShare::new(Arc::clone(&budget)),
        );
        assert_eq!(greedy.grant(0, 4 << 20, 0), 1 << 20);
        assert_eq!(greedy.grant(1 << 20, 1, 0), 0);
        assert!(greedy.is_refused());
        assert_eq!(
            greedy.grant(1 << 20, 4, 3),
            3,
            "memory that it holds already costs nothing"
        );
        assert_eq!(modest.grant(0, 1 << 20, 0), MIN_PER_SESSION);
        drop(greedy);
        assert_eq!(budget.used(), 0);
    }
}
