//! Decides when a standby carrier is probed, and when it counts as dead.
//!
//! Pure: the caller reports what arrived. The lead is monitored by [`Liveness`](super::Liveness).

use std::time::{Duration, Instant};

/// Interval of probes after something arrived. Many NATs drop a UDP mapping after 30 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// An answer may take this, or two round trips if that is longer.
const MIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Unanswered probes before the carrier counts as dead.
const MAX_PROBES: u32 = 3;

/// What to do with a standby carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandbyAction {
    /// Nothing.
    Wait,
    /// Send something that the peer answers.
    Probe,
    /// Close it: it does not answer.
    Dead,
}

/// Monitors one standby carrier.
#[derive(Debug)]
pub struct StandbyMonitor {
    next: Instant,
    asked: u32,
}

impl StandbyMonitor {
    /// For a carrier on which something arrived just now.
    pub fn new(now: Instant) -> StandbyMonitor {
        StandbyMonitor {
            next: now + KEEPALIVE_INTERVAL,
            asked: 0,
        }
    }

    /// Something arrived on it.
    pub fn handle_heard(&mut self, now: Instant) {
        *self = StandbyMonitor::new(now);
    }

    /// The carrier may be dead: probe it at once.
    pub fn handle_doubt(&mut self, now: Instant) {
        if self.asked == 0 {
            self.next = now;
        }
    }

    /// What to do now. `rtt` is the carrier's own.
    pub fn poll(&mut self, now: Instant, rtt: Duration) -> StandbyAction {
        if now < self.next {
            return StandbyAction::Wait;
        }
        if self.asked == MAX_PROBES {
            return StandbyAction::Dead;
        }
        self.asked += 1;
        self.next = now + MIN_ANSWER_TIMEOUT.max(rtt * 2);
        StandbyAction::Probe
    }

    /// When [`StandbyMonitor::poll`] will have something to say, if nothing is heard before.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tools as clock;

    const RTT: Duration = Duration::from_millis(50);

    #[test]
    fn a_standing_carrier_is_asked_each_30_s_and_dropped_after_three_silent_questions() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = StandbyMonitor::new(start);
        assert_eq!(watch.poll(at(29), RTT), StandbyAction::Wait);
        assert_eq!(watch.poll(at(30), RTT), StandbyAction::Probe);
        watch.handle_heard(at(31));
        assert_eq!(watch.poll_timeout(), at(61));
        for asked in [61, 62, 63] {
            assert_eq!(watch.poll(at(asked), RTT), StandbyAction::Probe);
            assert_eq!(watch.poll(at(asked), RTT), StandbyAction::Wait);
        }
        assert_eq!(watch.poll(at(64), RTT), StandbyAction::Dead);
    }

    #[test]
    fn a_doubtful_carrier_is_asked_at_once_and_a_slow_one_has_time_for_its_answer() {
        let start = clock::now();
        let mut watch = StandbyMonitor::new(start);
        watch.handle_doubt(start);
        let slow = Duration::from_secs(2);
        assert_eq!(watch.poll(start, slow), StandbyAction::Probe);
        assert_eq!(watch.poll_timeout(), start + 2 * slow);
        watch.handle_doubt(start);
        assert_eq!(watch.poll(start, slow), StandbyAction::Wait, "asked already");
    }
}
