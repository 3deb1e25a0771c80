//! Whom the asks are for: one loopback alias, one ask at a time and a budget of failures per client source.
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

/// First address of 127.64.0.0/10, where nothing else is likely to live.
const FIRST_ALIAS: u32 = u32::from_be_bytes([127, 64, 0, 0]);

/// Addresses in 127.64.0.0/10. Handed out in turn: one is used again only after four million others.
const ALIASES: u32 = 1 << 22;

/// Aliases kept for bowline's own connections.
const RESERVED: u32 = 256;

/// Where bowline's own connections to sshd come from, such as reading its greeting: sshd penalises addresses that
/// connect without logging in, and that must not fall on 127.0.0.1.
pub const OWN_ALIAS: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

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
    aliases_given: u32,
}

/// Who counts as one client: an IPv4 address, or the /64 that a single IPv6 host commonly has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4(Ipv4Addr),
    V6([u8; 8]),
}

#[derive(Debug)]
struct State {
    alias: Ipv4Addr,
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

    /// The loopback alias of `source`, the same until [`accepted`](Self::accepted).
    pub(super) fn alias(&self, source: IpAddr, now: Instant) -> Ipv4Addr {
        self.lock().state(source, now).alias
    }

    /// An ask for `source` was refused by sshd.
    pub(super) fn refused(&self, source: IpAddr, now: Instant) {
        let mut known = self.lock();
        let state = known.state(source, now);
        state.forgive(self.budget, now);
        state.failures += 1;
    }

    /// An ask for `source` was accepted: it gets a new alias. An ask ends without a login, which sshd's
    /// PerSourcePenalties hold against the address (`noauth`), so that somebody who opens many sessions in a row
    /// would be locked out.
    pub(super) fn accepted(&self, source: IpAddr, now: Instant) {
        let mut known = self.lock();
        let alias = known.next_alias();
        known.state(source, now).alias = alias;
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
                alias: self.next_alias(),
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

    fn next_alias(&mut self) -> Ipv4Addr {
        let number = RESERVED + self.aliases_given;
        self.aliases_given = (self.aliases_given + 1) % (ALIASES - RESERVED);
        Ipv4Addr::from(FIRST_ALIAS + number)
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
    fn each_source_keeps_an_alias_of_its_own_until_it_is_accepted() {
        let (sources, now) = (Sources::new(BUDGET), clock::now());
        let alias = |text| sources.alias(address(text), now);
        let first = alias("192.0.2.1");
        assert_eq!(first, Ipv4Addr::new(127, 64, 1, 0));
        assert_eq!(alias("192.0.2.1"), first);
        assert_eq!(alias("::ffff:192.0.2.1"), first);
        assert_ne!(alias("192.0.2.2"), first);
        assert_eq!(alias("2001:db8::1"), alias("2001:db8::ffff:2"));
        assert_ne!(alias("2001:db8::1"), alias("2001:db8:0:1::1"));

        sources.refused(address("192.0.2.1"), now);
        assert_eq!(alias("192.0.2.1"), first);
        sources.accepted(address("192.0.2.1"), now);
        assert_ne!(alias("192.0.2.1"), first);
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
        let alias = sources.alias(address("192.0.2.1"), now);
        for number in 0..2 * u32::try_from(MAX_SOURCES).unwrap() {
            sources.alias(Ipv4Addr::from(0x0a00_0000 + number).into(), now);
        }
        assert_eq!(sources.alias(address("192.0.2.1"), now), alias);
        let known = sources.lock();
        assert_eq!((known.sources.len(), known.order.len()), (MAX_SOURCES, MAX_SOURCES));
        drop(asking);
    }

    #[test]
    fn aliases_stay_in_their_block_when_they_start_again() {
        let mut known = Known {
            aliases_given: ALIASES - RESERVED - 1,
            ..Known::default()
        };
        assert_eq!(known.next_alias(), Ipv4Addr::new(127, 127, 255, 255));
        assert_eq!(known.next_alias(), Ipv4Addr::new(127, 64, 1, 0));
    }
}
