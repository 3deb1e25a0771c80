//! Whether a carrier that stands by is still alive.
//!
//! Pure: the driver tells what it heard. A carrier that leads is judged by [`Liveness`](super::Liveness).

use std::time::{Duration, Instant};

/// A carrier that stands by is asked so long after it was last heard. NATs commonly forget a UDP mapping after 30 s.
const KEEP_WARM: Duration = Duration::from_secs(30);
/// An answer takes no longer on most paths; on others two round trips.
const ANSWER: Duration = Duration::from_secs(1);
/// Questions without an answer.
const MOST_ASKED: u32 = 3;

/// What to do about a carrier that stands by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Wait,
    /// Have the peer show that it hears us on it.
    Probe,
    /// Let it go: it does not answer.
    Dead,
}

/// Keeps one carrier warm.
#[derive(Debug)]
pub struct StandingWatch {
    next: Instant,
    asked: u32,
}

impl StandingWatch {
    /// It stands by, and was heard just now.
    pub fn new(now: Instant) -> StandingWatch {
        StandingWatch {
            next: now + KEEP_WARM,
            asked: 0,
        }
    }

    /// Something arrived on it.
    pub fn handle_heard(&mut self, now: Instant) {
        *self = StandingWatch::new(now);
    }

    /// Something makes it doubtful: ask at once.
    pub fn handle_doubt(&mut self, now: Instant) {
        if self.asked == 0 {
            self.next = now;
        }
    }

    /// What to do now. `rtt` is the carrier's own.
    pub fn poll(&mut self, now: Instant, rtt: Duration) -> Standing {
        if now < self.next {
            return Standing::Wait;
        }
        if self.asked == MOST_ASKED {
            return Standing::Dead;
        }
        self.asked += 1;
        self.next = now + ANSWER.max(rtt * 2);
        Standing::Probe
    }

    /// When [`StandingWatch::poll`] will have something to say, if nothing is heard before.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const RTT: Duration = Duration::from_millis(50);

    #[test]
    fn a_standing_carrier_is_asked_each_30_s_and_dropped_after_three_silent_questions() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = StandingWatch::new(start);
        assert_eq!(watch.poll(at(29), RTT), Standing::Wait);
        assert_eq!(watch.poll(at(30), RTT), Standing::Probe);
        watch.handle_heard(at(31));
        assert_eq!(watch.poll_timeout(), at(61));
        for asked in [61, 62, 63] {
            assert_eq!(watch.poll(at(asked), RTT), Standing::Probe);
            assert_eq!(watch.poll(at(asked), RTT), Standing::Wait);
        }
        assert_eq!(watch.poll(at(64), RTT), Standing::Dead);
    }

    #[test]
    fn a_doubtful_carrier_is_asked_at_once_and_a_slow_one_has_time_for_its_answer() {
        let start = clock::now();
        let mut watch = StandingWatch::new(start);
        watch.handle_doubt(start);
        let slow = Duration::from_secs(2);
        assert_eq!(watch.poll(start, slow), Standing::Probe);
        assert_eq!(watch.poll_timeout(), start + 2 * slow);
        watch.handle_doubt(start);
        assert_eq!(watch.poll(start, slow), Standing::Wait, "asked already");
    }
}
