//! When to restart a process that has died.
//!
//! Pure: time is an argument.

use std::time::Duration;

/// A process that ran for at least this long did not fail at its start. Short on purpose: a process that is killed
/// every second is restarted at once each time.
const MIN_UPTIME: Duration = Duration::from_millis(200);

/// Failed starts in a row that are followed by a restart at once.
const IMMEDIATE_RESTARTS: u32 = 5;

const MIN_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Backoff {
    bad_starts: u32,
}

impl Backoff {
    /// How long to wait after a process has ended. Zero in general; after more than five failed starts in a row 20 ms,
    /// doubled each time up to 1 s. A start has failed if the process ended early or never became ready.
    pub(super) fn delay_after_exit(&mut self, lived: Duration, got_ready: bool) -> Duration {
        if lived >= MIN_UPTIME && got_ready {
            self.bad_starts = 0;
            return Duration::ZERO;
        }
        self.bad_starts = self.bad_starts.saturating_add(1);
        match self.bad_starts.checked_sub(IMMEDIATE_RESTARTS + 1) {
            None => Duration::ZERO,
            Some(doublings) => (MIN_DELAY * 2u32.pow(doublings.min(16))).min(MAX_DELAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bad_starts_are_answered_at_once_then_ever_more_slowly() {
        for (lived, got_ready) in [(Duration::ZERO, true), (MIN_UPTIME, false)] {
            let mut backoff = Backoff::default();
            let waits: Vec<u128> = (0..13)
                .map(|_| backoff.delay_after_exit(lived, got_ready).as_millis())
                .collect();
            assert_eq!(waits, [0, 0, 0, 0, 0, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        }
    }

    #[test]
    fn a_kill_every_second_for_an_hour_is_answered_at_once_each_time() {
        let mut backoff = Backoff::default();
        assert!((0..3600).all(|_| backoff.delay_after_exit(Duration::from_secs(1), true).is_zero()));
    }

    #[test]
    fn good_start_makes_up_for_earlier_bad_ones() {
        let mut backoff = Backoff::default();
        (0..100).for_each(|_| assert!(backoff.delay_after_exit(Duration::ZERO, true) <= MAX_DELAY));
        assert_eq!(backoff.delay_after_exit(MIN_UPTIME, true), Duration::ZERO);
        assert_eq!(backoff.delay_after_exit(Duration::ZERO, true), Duration::ZERO);
    }
}
