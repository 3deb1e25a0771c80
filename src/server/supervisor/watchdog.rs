//! Detects a worker that hangs, from its messages and the keeper's own ticks.
//!
//! Pure: time is an argument. Ticks are counted instead of measuring time, so that a time when the keeper itself did
//! not run (a suspended machine, a stopped process, a slow request) counts as one tick and is not blamed on the
//! worker.

use std::time::{Duration, Instant};

/// The interval between two checks. A worker sends a message twice as often.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Ticks without a message after which a worker hangs: 3 to 4 s.
const MAX_SILENT_TICKS: u32 = 4;

/// The same until it serves: it may have many sessions to recover.
const MAX_SILENT_TICKS_AT_START: u32 = 15;

/// A worker that was killed may have been slow: on a machine that is overloaded, the next one would be killed at the
/// same point. So from the second kill in a row on, each one doubles the limits, up to this factor.
const MAX_FACTOR: u32 = 16;

/// Ticks in a row of a serving worker with a message each, after which the kills before are forgotten.
const GOOD_TICKS: u32 = 60;

#[derive(Debug)]
pub(super) struct Watchdog {
    silent: u32,
    good: u32,
    is_ready: bool,
    kills: u32,
    next: Instant,
}

impl Watchdog {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            silent: 0,
            good: 0,
            is_ready: false,
            kills: 0,
            next: now + TICK,
        }
    }

    /// Another worker has started.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Self {
            kills: self.kills,
            ..Self::new(now)
        };
    }

    /// The worker was killed because it was silent.
    pub(super) fn handle_killed(&mut self, now: Instant) {
        self.kills = self.kills.saturating_add(1);
        self.restart(now);
    }

    /// A message has arrived.
    pub(super) fn heard(&mut self) {
        self.silent = 0;
    }

    /// The worker serves.
    pub(super) fn handle_ready(&mut self) {
        self.heard();
        self.is_ready = true;
    }

    /// When the next check is due.
    pub(super) fn deadline(&self) -> Instant {
        self.next
    }

    /// Whether the worker hangs. To be called after all its messages were handled.
    pub(super) fn is_silent(&mut self, now: Instant) -> bool {
        if now >= self.next {
            self.good = if self.is_ready && self.silent == 0 {
                self.good + 1
            } else {
                0
            };
            if self.good >= GOOD_TICKS {
                self.kills = 0;
            }
            self.silent += 1;
            self.next = now + TICK;
        }
        let max = if self.is_ready {
            MAX_SILENT_TICKS
        } else {
            MAX_SILENT_TICKS_AT_START
        };
        let factor = 2u32.saturating_pow(self.kills.saturating_sub(1)).min(MAX_FACTOR);
        self.silent >= max * factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Number of ticks until it is taken to hang.
    fn ticks(watchdog: &mut Watchdog, start: Instant) -> u32 {
        (1..1000)
            .find(|&count| watchdog.is_silent(start + TICK * count))
            .unwrap()
    }

    #[test]
    fn silence_is_noticed_after_four_ticks_and_later_until_it_serves() {
        let start = clock::now();
        let mut watchdog = Watchdog::new(start);
        watchdog.heard();
        assert_eq!(
            ticks(&mut watchdog, start),
            MAX_SILENT_TICKS_AT_START,
            "it recovers sessions"
        );
        let mut watchdog = Watchdog::new(start);
        watchdog.handle_ready();
        assert_eq!(ticks(&mut watchdog, start), MAX_SILENT_TICKS);
    }

    #[test]
    fn a_worker_that_may_only_be_slow_gets_more_time_after_each_kill_until_one_works() {
        let start = clock::now();
        let mut watchdog = Watchdog::new(start);
        let mut limits = Vec::new();
        for _ in 0..7 {
            limits.push(ticks(&mut watchdog, start));
            watchdog.handle_killed(start);
        }
        assert_eq!(
            limits,
            [1, 1, 2, 4, 8, 16, 16].map(|factor| MAX_SILENT_TICKS_AT_START * factor)
        );
        watchdog.handle_ready();
        assert_eq!(ticks(&mut watchdog, start), MAX_SILENT_TICKS * MAX_FACTOR);
        watchdog.restart(start);
        watchdog.handle_ready();
        let mut now = start;
        for _ in 0..=GOOD_TICKS {
            watchdog.heard();
            now += TICK;
            assert!(!watchdog.is_silent(now));
        }
        watchdog.heard();
        assert_eq!(ticks(&mut watchdog, now), MAX_SILENT_TICKS);
    }

    #[test]
    fn a_night_of_sleep_is_one_tick() {
        let start = clock::now();
        let mut watchdog = Watchdog::new(start);
        watchdog.handle_ready();
        let morning = start + Duration::from_secs(8 * 3600);
        assert!(!watchdog.is_silent(morning));
        assert_eq!(ticks(&mut watchdog, morning), MAX_SILENT_TICKS - 1);
    }

    #[test]
    fn a_word_starts_the_count_anew() {
        let start = clock::now();
        let mut watchdog = Watchdog::new(start);
        watchdog.handle_ready();
        for count in 1..100 {
            watchdog.heard();
            assert!(!watchdog.is_silent(start + TICK * count));
        }
    }
}
