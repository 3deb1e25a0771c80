//! When a better kind of path than the lead's is looked for: QUIC again after TLS, a straight way again after a detour.
//!
//! Pure: no clock, no dialing.

use std::time::{Duration, Instant};

/// After this a path that was blocked when the session opened or broke may be free again.
const FIRST: Duration = Duration::from_secs(3);
/// Attempts grow apart to this; one costs a packet or two.
const MOST: Duration = Duration::from_secs(20);
/// A better path that breaks so soon after it was taken is not better: it lets a handshake through and little more.
const PROBATION: Duration = Duration::from_secs(30);
/// Then it is left alone for this long, and twice as long each further time.
const FIRST_PENANCE: Duration = Duration::from_secs(60);
const MOST_PENANCE: Duration = Duration::from_secs(1800);

/// Decides the times of attempts, for one session.
pub(super) struct Improvement {
    next: Instant,
    pause: Duration,
    penance: Duration,
    taken: Option<Instant>,
}

impl Improvement {
    pub(super) fn new(now: Instant) -> Improvement {
        Improvement {
            next: now + FIRST,
            pause: FIRST,
            penance: FIRST_PENANCE,
            taken: None,
        }
    }

    /// When the next attempt is due, if there is anything better than the lead.
    pub(super) fn due(&self) -> Instant {
        self.next
    }

    /// Nothing better was found.
    pub(super) fn handle_failed(&mut self, now: Instant) {
        self.pause = (self.pause * 2).min(MOST);
        self.next = self.next.max(now + self.pause);
    }

    /// A better path leads.
    pub(super) fn handle_taken(&mut self, now: Instant) {
        self.taken = Some(now);
        self.pause = FIRST;
        self.next = now + FIRST;
    }

    /// The lead broke, or is suspected.
    pub(super) fn handle_outage(&mut self, now: Instant) {
        self.pause = FIRST;
        self.next = now + FIRST;
        match self.taken.take() {
            Some(taken) if now.saturating_duration_since(taken) < PROBATION => {
                self.next = now + self.penance;
                self.penance = (self.penance * 2).min(MOST_PENANCE);
            }
            Some(_) => self.penance = FIRST_PENANCE,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_path_that_is_free_again_is_tried_within_a_minute() {
        let start = clock::now();
        let mut improvement = Improvement::new(start);
        let mut last = start;
        for _ in 0..20 {
            let due = improvement.due();
            assert!(due > last && due - last <= MOST, "{:?}", due - last);
            improvement.handle_failed(due);
            last = due;
        }
    }

    #[test]
    fn a_better_path_that_breaks_at_once_is_left_alone_for_longer_and_longer() {
        let mut now = clock::now();
        let mut improvement = Improvement::new(now);
        let mut pauses = vec![];
        for _ in 0..3 {
            now = improvement.due();
            improvement.handle_taken(now);
            now += Duration::from_secs(1);
            improvement.handle_outage(now);
            pauses.push(improvement.due() - now);
        }
        assert_eq!(pauses, [FIRST_PENANCE, FIRST_PENANCE * 2, FIRST_PENANCE * 4]);
    }

    #[test]
    fn a_better_path_that_holds_is_taken_again_soon_after_it_broke() {
        let start = clock::now();
        let mut improvement = Improvement::new(start);
        improvement.handle_taken(start);
        improvement.handle_outage(start + PROBATION);
        assert_eq!(improvement.due(), start + PROBATION + FIRST);
    }
}
