//! Whether a worker still lives, from what it says and the keeper's own ticks.
//!
//! Pure: time is an argument. Ticks are counted rather than time measured: what the keeper itself slept through (a
//! suspended machine, a stopped process, a slow answer) is one tick and no fault of the worker's.

use std::time::{Duration, Instant};

/// Between two looks. A worker says twice as often that it lives.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Silent ticks after which a worker hangs: 3 to 4 s.
const SILENT: u32 = 4;

/// The same before its first word: it may have many sessions to recover.
const SILENT_AT_START: u32 = 15;

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

    /// It said something.
    pub(super) fn heard(&mut self) {
        self.silent = 0;
        self.heard = true;
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Instant {
        self.next
    }

    /// Whether the worker hangs. To be asked after everything that it has said was heard.
    pub(super) fn is_silent(&mut self, now: Instant) -> bool {
        if now >= self.next {
            self.silent += 1;
            self.next = now + TICK;
        }
        self.silent >= if self.heard { SILENT } else { SILENT_AT_START }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Ticks until it is taken to hang.
    fn ticks(watchdog: &mut Watchdog, start: Instant) -> u32 {
        (1..100)
            .find(|&count| watchdog.is_silent(start + TICK * count))
            .unwrap()
    }

    #[test]
    fn silence_is_noticed_after_four_ticks_and_later_before_the_first_word() {
        let start = clock::now();
        assert_eq!(ticks(&mut Watchdog::new(start), start), SILENT_AT_START);
        let mut watchdog = Watchdog::new(start);
        watchdog.heard();
        assert_eq!(ticks(&mut watchdog, start), SILENT);
    }

    #[test]
    fn a_night_of_sleep_is_one_tick() {
        let start = clock::now();
        let mut watchdog = Watchdog::new(start);
        watchdog.heard();
        let morning = start + Duration::from_secs(8 * 3600);
        assert!(!watchdog.is_silent(morning));
        assert_eq!(ticks(&mut watchdog, morning), SILENT - 1);
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
