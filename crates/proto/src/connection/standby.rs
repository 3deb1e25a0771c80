//! Decides when a standby carrier is dialed and on which paths, when it is probed, and when it counts as dead. No I/O.
//!
//! A standby carrier is only useful if it does not fail together with the lead. The lead itself is monitored by
//! [`Liveness`](crate::session::Liveness).

use crate::wire::SessionId;
use std::time::{Duration, Instant};

/// Limit for one path, from the first packet to the peer's answer.
pub const STANDBY_TIMEOUT: Duration = Duration::from_secs(5);
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

/// Interval of probes of a standby carrier after something arrived on it. Many NATs drop a UDP mapping after 30 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// An answer may take this, or two round trips if that is longer.
const MIN_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Unanswered probes before the carrier counts as dead.
const MAX_PROBES: u32 = 3;

/// What to do with a standby carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StandbyAction {
    /// Nothing.
    Wait,
    /// Send something that the peer answers.
    Probe,
    /// Close it: it does not answer.
    Dead,
}

/// Monitors one standby carrier.
#[derive(Debug)]
pub(super) struct StandbyMonitor {
    next: Instant,
    asked: u32,
}

impl StandbyMonitor {
    /// For a carrier on which something arrived just now.
    pub(super) fn new(now: Instant) -> StandbyMonitor {
        StandbyMonitor {
            next: now + KEEPALIVE_INTERVAL,
            asked: 0,
        }
    }

    /// Something arrived on it.
    pub(super) fn handle_heard(&mut self, now: Instant) {
        *self = StandbyMonitor::new(now);
    }

    /// The carrier may be dead: probe it at once.
    pub(super) fn handle_doubt(&mut self, now: Instant) {
        if self.asked == 0 {
            self.next = now;
        }
    }

    /// What to do now. `rtt` is the carrier's own.
    pub(super) fn poll(&mut self, now: Instant, rtt: Duration) -> StandbyAction {
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
    pub(super) fn poll_timeout(&self) -> Instant {
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
