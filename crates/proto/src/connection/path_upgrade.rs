//! Decides when to try a better kind of path than the active one: QUIC after TLS, a direct path after a relay or
//! proxy.
//!
//! Pure: no clock, no I/O.

use std::time::{Duration, Instant};

/// Limit for an attempt. The lead carries the session meanwhile.
pub(super) const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);

/// Delay before the first attempt: a path that was blocked when the session opened or broke may work again.
const FIRST_DELAY: Duration = Duration::from_secs(3);
/// Longest delay between attempts. An attempt costs one or two packets.
const MAX_DELAY: Duration = Duration::from_secs(20);
/// A better path that breaks within this time does not count as better: it may pass a handshake and little more.
const MIN_LIFETIME: Duration = Duration::from_secs(30);
/// Delay after such a break; it doubles with each further break.
const MIN_BACKOFF: Duration = Duration::from_secs(60);
const MAX_BACKOFF: Duration = Duration::from_secs(1800);

/// Schedules the attempts of one session.
pub(super) struct PathUpgrade {
    next: Instant,
    delay: Duration,
    backoff: Duration,
    taken: Option<Instant>,
    /// No attempt before this: a better path broke soon after it was taken.
    not_before: Instant,
    /// The rank of the lead; the least is the best.
    rank: Option<u8>,
}

impl PathUpgrade {
    /// For a session that begins.
    pub(super) fn new(now: Instant) -> PathUpgrade {
        PathUpgrade {
            next: now + FIRST_DELAY,
            delay: FIRST_DELAY,
            backoff: MIN_BACKOFF,
            taken: None,
            not_before: now,
            rank: None,
        }
    }

    /// When the next attempt is due, if there is a better path.
    pub(super) fn due(&self) -> Instant {
        self.next
    }

    /// No better path worked.
    pub(super) fn handle_failed(&mut self, now: Instant) {
        self.delay = (self.delay * 2).min(MAX_DELAY);
        self.next = self.next.max(now + self.delay);
    }

    /// A better path is active now.
    pub(super) fn handle_taken(&mut self, now: Instant) {
        self.taken = Some(now);
        self.delay = FIRST_DELAY;
        self.next = now + FIRST_DELAY;
    }

    /// A lead of this rank is active. The least rank is the best.
    pub(super) fn handle_lead(&mut self, rank: u8, now: Instant) {
        let before = self.rank.replace(rank);
        if before.is_some_and(|before| rank > before) {
            // A better carrier broke, and a standby or another path has replaced it.
            self.handle_outage(now);
        }
    }

    /// The active path broke, or is suspected to be broken.
    pub(super) fn handle_outage(&mut self, now: Instant) {
        match self.taken.take() {
            Some(taken) if now.saturating_duration_since(taken) < MIN_LIFETIME => {
                self.not_before = now + self.backoff;
                self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
            }
            Some(_) => self.backoff = MIN_BACKOFF,
            None => {}
        }
        self.delay = FIRST_DELAY;
        self.next = self.not_before.max(now + FIRST_DELAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tools as clock;

    #[test]
    fn a_path_that_is_free_again_is_tried_within_a_minute() {
        let start = clock::now();
        let mut path_upgrade = PathUpgrade::new(start);
        let mut last = start;
        for _ in 0..20 {
            let due = path_upgrade.due();
            assert!(due > last && due - last <= MAX_DELAY, "{:?}", due - last);
            path_upgrade.handle_failed(due);
            last = due;
        }
    }

    #[test]
    fn a_better_path_that_breaks_at_once_is_left_alone_for_longer_and_longer() {
        let mut now = clock::now();
        let mut path_upgrade = PathUpgrade::new(now);
        let mut pauses = vec![];
        for _ in 0..3 {
            now = path_upgrade.due();
            path_upgrade.handle_taken(now);
            now += Duration::from_secs(1);
            path_upgrade.handle_outage(now);
            // The outage of the better path ends with a lead of a lesser kind.
            path_upgrade.handle_lead(0, now);
            path_upgrade.handle_lead(1, now);
            pauses.push(path_upgrade.due() - now);
        }
        assert_eq!(pauses, [MIN_BACKOFF, MIN_BACKOFF * 2, MIN_BACKOFF * 4]);
    }

    #[test]
    fn a_better_path_that_holds_is_taken_again_soon_after_it_broke() {
        let start = clock::now();
        let mut path_upgrade = PathUpgrade::new(start);
        path_upgrade.handle_taken(start);
        path_upgrade.handle_outage(start + MIN_LIFETIME);
        assert_eq!(path_upgrade.due(), start + MIN_LIFETIME + FIRST_DELAY);
    }
}
