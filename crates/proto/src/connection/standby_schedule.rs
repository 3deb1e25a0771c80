//! Decides when to dial a standby carrier, and on which paths. No I/O.
//!
//! A standby carrier is only useful if it does not fail together with the lead.

use crate::wire::SessionId;
use std::time::{Duration, Instant};

/// Delay before a standby is dialed, after the session began or lost its standby: short sessions need none.
const FIRST_DELAY: Duration = Duration::from_secs(2);
/// Longest delay between attempts.
const MAX_DELAY: Duration = Duration::from_secs(300);
/// Most paths tried per attempt.
const MAX_PATHS: usize = 8;

/// Schedules the dials of standby carriers for one session.
///
/// The driver reports changes of the session's paths. When an attempt is due, it dials the paths of
/// [`StandbySchedule::candidates`] one after the other until the peer accepts one as a standby.
pub struct StandbySchedule {
    delay: Duration,
    /// Spreads the dials of many clients over time after they connected together.
    spread: Duration,
    /// `None` while there is a standby carrier, or no lead.
    next: Option<Instant>,
}

impl StandbySchedule {
    /// For a session that begins.
    pub fn new(session: SessionId) -> StandbySchedule {
        StandbySchedule {
            delay: FIRST_DELAY,
            spread: FIRST_DELAY * u32::from(session.as_bytes()[0]) / 256,
            next: None,
        }
    }

    /// Whether there is a lead, and every standby carrier would fail together with it. `shares_path`: whether two carriers are
    /// likely to fail together.
    pub fn is_standby_missing<C>(lead: Option<&C>, standbys: &[C], shares_path: impl Fn(&C, &C) -> bool) -> bool {
        lead.is_some_and(|lead| standbys.iter().all(|standby| shares_path(standby, lead)))
    }

    /// Which paths to dial, in this order: those that do not share the lead's path, the best first.
    pub fn candidates<P, R: Ord>(
        mut paths: Vec<P>,
        shares_lead: impl Fn(&P) -> bool,
        rank: impl Fn(&P) -> R,
    ) -> Vec<P> {
        paths.retain(|path| !shares_lead(path));
        paths.sort_by_key(rank);
        paths.truncate(MAX_PATHS);
        paths
    }

    /// The lead or the standby carriers may have changed. `is_missing`: see [`StandbySchedule::is_standby_missing`].
    pub fn handle_paths(&mut self, is_missing: bool, now: Instant) {
        match is_missing {
            true => _ = self.next.get_or_insert(now + self.delay + self.spread),
            false => self.next = None,
        }
    }

    /// Whether to dial now. The result must be reported.
    pub fn poll_attempt(&mut self, now: Instant) -> bool {
        let is_due = self.next.is_some_and(|next| next <= now);
        if is_due {
            self.next = None;
        }
        is_due
    }

    /// A standby carrier was found. If it is not among the session's paths when the next attempt would be due, it was lost
    /// or promoted meanwhile.
    pub fn handle_found(&mut self) {
        self.delay = FIRST_DELAY;
    }

    /// No path gave a standby carrier.
    pub fn handle_failed(&mut self) {
        self.delay = (self.delay * 2).min(MAX_DELAY);
    }

    /// When [`StandbySchedule::poll_attempt`] is due; `None` while no standby is missing.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tools as clock;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Attempts within `until`, each of which fails or finds a standby that is lost at once.
    fn attempts(schedule: &mut StandbySchedule, start: Instant, until: Duration, is_found: bool) -> Vec<Duration> {
        let mut attempts = Vec::new();
        schedule.handle_paths(true, start);
        while let Some(due) = schedule.poll_timeout().filter(|due| *due <= start + until) {
            assert!(schedule.poll_attempt(due) && !schedule.poll_attempt(due));
            attempts.push(due - start);
            match is_found {
                true => schedule.handle_found(),
                false => schedule.handle_failed(),
            }
            schedule.handle_paths(true, due);
        }
        attempts
    }

    #[test]
    fn a_session_has_its_standby_dialed_after_two_to_four_seconds_and_then_less_and_less_often() {
        let start = clock::now();
        for byte in [0, 128, 255] {
            let mut schedule = StandbySchedule::new(SessionId::new([byte; 16]));
            let attempts = attempts(&mut schedule, start, HOUR, false);
            assert!(
                attempts[0] >= FIRST_DELAY && attempts[0] < FIRST_DELAY * 2,
                "{attempts:?}"
            );
            assert!((15..=20).contains(&attempts.len()), "{}", attempts.len());
            let gaps = attempts.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(gaps.max() <= Some(MAX_DELAY + FIRST_DELAY), "{attempts:?}");
        }
    }

    #[test]
    fn a_standby_that_is_found_ends_the_backoff() {
        let start = clock::now();
        let mut schedule = StandbySchedule::new(SessionId::new([0; 16]));
        attempts(&mut schedule, start, HOUR, false);
        schedule.handle_found();
        schedule.handle_paths(false, start + HOUR);
        assert_eq!(schedule.poll_timeout(), None);
        schedule.handle_paths(true, start + HOUR);
        assert_eq!(schedule.poll_timeout(), Some(start + HOUR + FIRST_DELAY));
    }

    #[test]
    fn a_carrier_on_the_leads_own_path_is_no_standby() {
        let is_missing = |lead, standbys: &[u8]| StandbySchedule::is_standby_missing(lead, standbys, |a, b| a == b);
        assert!(is_missing(Some(&1), &[]) && is_missing(Some(&1), &[1, 1]));
        assert!(!is_missing(Some(&1), &[1, 2]) && !is_missing(None, &[]));
        let paths = vec![(3, 'c'), (1, 'a'), (2, 'b')];
        let candidates = StandbySchedule::candidates(paths, |path| path.1 == 'a', |path| path.0);
        assert_eq!(candidates, [(2, 'b'), (3, 'c')]);
    }
}
