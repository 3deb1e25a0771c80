//! How many opens each network may fail before it has to wait.
//!
//! Pure bookkeeping behind a lock; time is an argument.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use parking_lot::Mutex;

/// The most networks in the table, about 100 bytes each. Beyond it the one that was added first is removed.
const MAX_NETWORKS: usize = 16 * 1024;

/// The failures allowed to one address, or to one IPv6 /64: `burst` at once, and one more after each `refill`. A /56
/// is allowed four times as many, a /48 sixteen times.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailureBudget {
    pub(super) burst: u32,
    pub(super) refill: Duration,
}

/// A network has used up its failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many failed opens from this network; try again in {} s", retry_after.as_secs() + 1)]
pub(super) struct TooManyFailed {
    /// How long until the next failure is allowed.
    pub(super) retry_after: Duration,
}

/// An attempt cannot be counted as undecided now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotNow {
    /// The failures are used up.
    Failed(TooManyFailed),
    /// Undecided attempts take the rest. Once one of them does not fail, there is room for another.
    Undecided,
}

/// Failures by network.
#[derive(Debug)]
pub(super) struct Failures {
    budget: FailureBudget,
    table: Mutex<Networks>,
}

#[derive(Debug, Default)]
struct Networks {
    networks: HashMap<IpNet, Count>,
    /// Oldest first.
    order: VecDeque<IpNet>,
}

#[derive(Debug)]
struct Count {
    failures: u32,
    /// Attempts that may still become failures.
    undecided: u32,
    /// `failures` is as of this time; after each `refill` one is forgiven.
    since: Instant,
}

impl Failures {
    pub(super) fn new(budget: FailureBudget) -> Failures {
        Failures {
            budget,
            table: Mutex::default(),
        }
    }

    /// Whether `source` is allowed another failure.
    ///
    /// # Errors
    /// `TooManyFailed`.
    pub(super) fn check(&self, source: IpAddr, now: Instant) -> Result<(), TooManyFailed> {
        let mut table = self.table.lock();
        let waits = networks(source).into_iter().filter_map(|(network, factor)| {
            let budget = self.budget.times(factor);
            let count = table.networks.get_mut(&network)?;
            count.forgive(budget, now);
            let next = count.since + budget.refill;
            (count.failures >= budget.burst).then(|| next.saturating_duration_since(now))
        });
        match waits.max() {
            None => Ok(()),
            Some(retry_after) => Err(TooManyFailed { retry_after }),
        }
    }

    /// Counts a failure of `source`.
    pub(super) fn count(&self, source: IpAddr, now: Instant) {
        let mut table = self.table.lock();
        for (network, factor) in networks(source) {
            let count = table.count(network, now);
            count.forgive(self.budget.times(factor), now);
            count.failures += 1;
        }
    }

    /// Counts an attempt of `source` as undecided. Failures plus undecided attempts never exceed the number of failures that
    /// are allowed.
    ///
    /// # Errors
    /// `NotNow`.
    pub(super) fn begin(&self, source: IpAddr, now: Instant) -> Result<(), NotNow> {
        self.check(source, now).map_err(NotNow::Failed)?;
        let mut table = self.table.lock();
        let is_full = |(network, factor)| {
            let count = table.networks.get(&network);
            count.is_some_and(|count| count.failures + count.undecided >= self.budget.times(factor).burst)
        };
        if networks(source).into_iter().any(is_full) {
            return Err(NotNow::Undecided);
        }
        for (network, _) in networks(source) {
            table.count(network, now).undecided += 1;
        }
        Ok(())
    }

    /// An attempt that was counted as undecided has ended.
    pub(super) fn end(&self, source: IpAddr, has_failed: bool, now: Instant) {
        let mut table = self.table.lock();
        for (network, _) in networks(source) {
            if let Some(count) = table.networks.get_mut(&network) {
                count.undecided = count.undecided.saturating_sub(1);
            }
        }
        drop(table);
        if has_failed {
            self.count(source, now);
        }
    }

    /// Takes back one failure of `source`.
    pub(super) fn take_back(&self, source: IpAddr) {
        let mut table = self.table.lock();
        for (network, _) in networks(source) {
            if let Some(count) = table.networks.get_mut(&network) {
                count.failures = count.failures.saturating_sub(1);
            }
        }
    }
}

impl FailureBudget {
    fn times(self, factor: u32) -> FailureBudget {
        FailureBudget {
            burst: self.burst * factor,
            refill: self.refill / factor,
        }
    }
}

impl Networks {
    fn count(&mut self, network: IpNet, now: Instant) -> &mut Count {
        if !self.networks.contains_key(&network) {
            while self.networks.len() >= MAX_NETWORKS
                && let Some(oldest) = self.order.pop_front()
            {
                self.networks.remove(&oldest);
            }
            self.order.push_back(network);
        }
        self.networks.entry(network).or_insert(Count {
            failures: 0,
            undecided: 0,
            since: now,
        })
    }
}

impl Count {
    fn forgive(&mut self, budget: FailureBudget, now: Instant) {
        while self.failures > 0 && now.saturating_duration_since(self.since) >= budget.refill {
            self.failures -= 1;
            self.since += budget.refill;
        }
        if self.failures == 0 {
            self.since = now;
        }
    }
}

/// The networks that one customer may hold (RFC 6177), each with its multiple of the smallest one's budget.
fn networks(source: IpAddr) -> Vec<(IpNet, u32)> {
    let source = source.to_canonical();
    let lengths: &[(u8, u32)] = match source {
        IpAddr::V4(_) => &[(32, 1)],
        IpAddr::V6(_) => &[(64, 1), (56, 4), (48, 16)],
    };
    let network = |length| IpNet::new(source, length).expect("the length fits the family").trunc();
    lengths
        .iter()
        .map(|&(length, factor)| (network(length), factor))
        .collect()
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
        let (failures, start) = (Failures::new(BUDGET), clock::now());
        let (stranger, other) = (address("192.0.2.1"), address("192.0.2.2"));
        for _ in 0..3 {
            assert!(failures.check(stranger, start).is_ok());
            failures.count(stranger, start);
        }
        let later = start + Duration::from_secs(2);
        let refused = failures.check(address("::ffff:192.0.2.1"), later).unwrap_err();
        assert_eq!(refused.retry_after, Duration::from_secs(4));
        assert!(failures.check(other, later).is_ok());

        let later = start + BUDGET.refill;
        assert!(failures.check(stranger, later).is_ok());
        failures.count(stranger, later);
        assert!(failures.check(stranger, later).is_err());
        assert!(failures.check(stranger, start + BUDGET.refill * 100).is_ok());
    }

    #[test]
    fn undecided_attempts_take_room_until_they_end_and_count_if_they_fail() {
        let (failures, now) = (Failures::new(BUDGET), clock::now());
        let source = address("192.0.2.1");
        failures.count(source, now);
        assert_eq!(
            [(); 3].map(|()| failures.begin(source, now)),
            [Ok(()), Ok(()), Err(NotNow::Undecided)]
        );
        assert!(failures.check(source, now).is_ok(), "none of them has failed yet");
        failures.end(source, false, now);
        assert_eq!(failures.begin(source, now), Ok(()));
        failures.end(source, true, now);
        failures.end(source, true, now);
        let refused = failures.check(source, now).unwrap_err();
        assert_eq!(failures.begin(source, now), Err(NotNow::Failed(refused)));
        assert_eq!(failures.begin(source, now + BUDGET.refill), Ok(()));
    }

    #[test]
    fn a_site_that_changes_its_address_has_little_more() {
        let (failures, now) = (Failures::new(BUDGET), clock::now());
        let fail = |address: IpAddr| {
            failures
                .check(address, now)
                .map(|()| failures.count(address, now))
                .is_ok()
        };
        let host = |number: u16| address(&format!("2001:db8:1:1::{number:x}"));
        assert_eq!((0..100).filter(|number| fail(host(*number))).count(), 3);
        let subnet = |number: u16| address(&format!("2001:db8:2:1{number:02x}::1"));
        assert_eq!((0..256).filter(|number| fail(subnet(*number))).count(), 12);
        let site = |number: u16| address(&format!("2001:db8:3:{number:x}::1"));
        assert_eq!((0..=u16::MAX).filter(|number| fail(site(*number))).count(), 48);
        assert!(fail(address("2001:db8:4::1")));
    }

    #[test]
    fn memory_is_bounded() {
        let (failures, now) = (Failures::new(BUDGET), clock::now());
        for number in 0..2 * u32::try_from(MAX_NETWORKS).unwrap() {
            failures.count(std::net::Ipv4Addr::from(0x0a00_0000 + number).into(), now);
        }
        let table = failures.table.lock();
        assert_eq!((table.networks.len(), table.order.len()), (MAX_NETWORKS, MAX_NETWORKS));
    }
}
