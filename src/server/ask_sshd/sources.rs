//! Whom the asks are for: one ask at a time and a budget of failures per client source.
//!
//! Pure bookkeeping behind a lock; time is an argument.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Most sources remembered, about 200 bytes each. Beyond it the longest known idle one is forgotten.
const MAX_SOURCES: usize = 16 * 1024;

/// Most asks that may wait for one source's turn, beside the one that runs.
const MAX_WAITING_PER_SOURCE: usize = 8;

/// The failures that one source may cause: `burst` at once, one more every `refill`.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailureBudget {
    pub(super) burst: u32,
    pub(super) refill: Duration,
}

/// A source is not served now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its failures are used up; one is allowed again after this time.
    Failures(Duration),
    /// It has too many asks waiting.
    Waiting,
}

/// The turnstile of one source: hold it while waiting and asking.
#[derive(Debug)]
pub(super) struct Turnstile(Arc<Semaphore>);

impl Turnstile {
    /// Waits for this source's turn.
    pub(super) async fn turn(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.0.acquire().await.expect("the turnstile is never closed")
    }
}

#[derive(Debug)]
pub(super) struct Sources {
    budget: FailureBudget,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    sources: HashMap<Source, State>,
    /// Oldest first.
    order: VecDeque<Source>,
}

/// Who counts as one client: an IPv4 address, or the /64 that a single IPv6 host commonly has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) enum Source {
    V4(Ipv4Addr),
    V6([u8; 8]),
}

#[derive(Debug)]
struct State {
    turnstile: Arc<Semaphore>,
    failures: u32,
    /// Since when `failures` counts; every `refill` after it takes one back.
    since: Instant,
}

impl Sources {
    pub(super) fn new(budget: FailureBudget) -> Self {
        Self {
            budget,
            known: Mutex::default(),
        }
    }

    /// Whether `source` may ask now, and its turnstile.
    pub(super) fn admit(&self, source: IpAddr, now: Instant) -> Result<Turnstile, Refused> {
        self.check_failures(source, now)?;
        let mut known = self.lock();
        let state = known.state(source, now);
        // One count is ours.
        if Arc::strong_count(&state.turnstile) > 1 + MAX_WAITING_PER_SOURCE {
            return Err(Refused::Waiting);
        }
        Ok(Turnstile(state.turnstile.clone()))
    }

    /// Whether `source` has failures left. To be asked again after waiting: those before it may have used them.
    pub(super) fn check_failures(&self, source: IpAddr, now: Instant) -> Result<(), Refused> {
        let mut known = self.lock();
        let state = known.state(source, now);
        state.forgive(self.budget, now);
        if state.failures < self.budget.burst {
            return Ok(());
        }
        let next = state.since + self.budget.refill;
        Err(Refused::Failures(next.saturating_duration_since(now)))
    }

    /// An ask for `source` was refused by sshd.
    pub(super) fn refused(&self, source: IpAddr, now: Instant) {
        let mut known = self.lock();
        let state = known.state(source, now);
        state.forgive(self.budget, now);
        state.failures += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn state(&mut self, source: IpAddr, now: Instant) -> &mut State {
        let source = Source::from(source);
        if !self.sources.contains_key(&source) {
            self.make_room();
            let state = State {
                turnstile: Arc::new(Semaphore::new(1)),
                failures: 0,
                since: now,
            };
            self.sources.insert(source, state);
            self.order.push_back(source);
        }
        self.sources.get_mut(&source).expect("inserted above")
    }

    /// Forgets the oldest source that is not asking. The sources that are asking are few: each holds a place in
    /// the bounded queue.
    fn make_room(&mut self) {
        while self.sources.len() >= MAX_SOURCES {
            let Some(oldest) = self.order.pop_front() else { return };
            let idle = |state: &State| Arc::strong_count(&state.turnstile) == 1;
            if self.sources.get(&oldest).is_some_and(idle) {
                self.sources.remove(&oldest);
            } else {
                self.order.push_back(oldest);
            }
        }
    }
}

impl State {
    fn forgive(&mut self, budget: FailureBudget, now: Instant) {
        if self.failures == 0 {
            self.since = now;
        }
        while self.failures > 0 && now.saturating_duration_since(self.since) >= budget.refill {
            self.failures -= 1;
            self.since += budget.refill;
        }
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [network @ .., _, _, _, _, _, _, _, _] = address.octets();
                Self::V6(network)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const BUDGET: FailureBudget = FailureBudget {
        burst: 3,
        refill: Duration::from_secs(6),
    };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn failures_are_limited_and_forgiven_one_at_a_time() {
        let (sources, start) = (Sources::new(BUDGET), clock::now());
        let (stranger, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..3 {
            assert!(sources.admit(stranger, start).is_ok());
            sources.refused(stranger, start);
        }
        let later = start + Duration::from_secs(2);
        let refused = sources.admit(stranger, later).unwrap_err();
        assert_eq!(refused, Refused::Failures(Duration::from_secs(4)));
        assert!(sources.admit(other, later).is_ok());

        let later = start + BUDGET.refill;
        assert!(sources.admit(stranger, later).is_ok());
        sources.refused(stranger, later);
        assert!(sources.admit(stranger, later).is_err());
        assert!(sources.admit(stranger, start + BUDGET.refill * 100).is_ok());
    }

    #[test]
    fn one_source_cannot_fill_the_queue() {
        let (sources, now) = (Sources::new(BUDGET), clock::now());
        let waiting: Vec<_> = (0..20).map(|_| sources.admit(address("192.0.2.1"), now)).collect();
        assert_eq!(
            waiting.iter().filter(|admitted| admitted.is_ok()).count(),
            1 + MAX_WAITING_PER_SOURCE
        );
        assert!(sources.admit(address("192.0.2.2"), now).is_ok());
        drop(waiting);
        assert!(sources.admit(address("192.0.2.1"), now).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_those_who_are_asking_are_kept() {
        let (sources, now) = (Sources::new(BUDGET), clock::now());
        let asking = sources.admit(address("192.0.2.1"), now).unwrap();
        for number in 0..2 * u32::try_from(MAX_SOURCES).unwrap() {
            sources
                .check_failures(Ipv4Addr::from(0x0a00_0000 + number).into(), now)
                .unwrap();
        }
        let known = sources.lock();
        assert!(known.sources.contains_key(&Source::from(address("192.0.2.1"))));
        assert_eq!((known.sources.len(), known.order.len()), (MAX_SOURCES, MAX_SOURCES));
        drop(asking);
    }
}
