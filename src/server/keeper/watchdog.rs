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

/// The same before its first message: it may have many sessions to recover.
const MAX_SILENT_TICKS_AT_START: u32 = 15;

#[derive(Debug)]
pub(super) struct Watchdog {
    silent: u32,
    heard: bool,
    next: Instant,
}

impl Watchdog {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            silent: 0,
            heard: false,
            next: now + TICK,
        }
    }

    /// A message has arrived.
    pub(super) fn heard(&mut self) {
        self.silent = 0;
        self.heard = true;
    }

    /// When the next check is due.
    pub(super) fn deadline(&self) -> Instant {
        self.next
    }

    /// Whether the worker hangs. To be called after all its messages were handled.
    pub(super) fn is_silent(&mut self, now: Instant) -> bool {
        if now >= self.next {
            self.silent += 1;
            self.next = now + TICK;
        }
        self.silent
            >= if self.heard {
                MAX_SILENT_TICKS
            } else {
                MAX_SILENT_TICKS_AT_START
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Number of ticks until it is taken to hang.
    fn ticks(watchdog: &mut Watchdog, start: Instant) -> u32 {
        (1..100)
            .find(|&count| watchdog.is_silent(start + TICK * count))
            .unwrap()
    }

    #[test]
    fn silence_is_noticed_after_four_ticks_and_later_before_the_first_word() {
        let start = clock::now();
        assert_eq!(ticks(&mut Watchdog::new(start), start), MAX_SILENT_TICKS_AT_START);
        let mut watchdog = Watchdog::new(start);
        watchdog.heard();
        assert_eq!(ticks(&mut watchdog, start), MAX_SILENT_TICKS);
    }

    #[test]
    fn a_night_of_sleep_is_one_tick() {
        let start = clock::now();
        let mut watchdog = Watchdog::new(start);
        watchdog.heard();
        let morning = start + Duration::from_secs(8 * 3600);
        assert!(!watchdog.is_silent(morning));
        assert_eq!(ticks(&mut watchdog, morning), MAX_SILENT_TICKS - 1);
    }

    #[test]
    fn a_word_starts_the_count_anew() {
        let start = clock::now();
        let mut watchdog = Watchdog::new(start);
        for count in 1..100 {
            watchdog.heard();
            assert!(!watchdog.is_silent(start + TICK * count));
        }
    }
}
