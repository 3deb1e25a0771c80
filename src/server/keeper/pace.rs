//! When to start a process again that has died.
//!
//! Pure: time is an argument.

use std::time::Duration;

/// A process that lived this long did not die of its start. Short: one that is killed every second is answered at
/// once, for ever.
const LONG_LIFE: Duration = Duration::from_millis(200);

/// Bad starts in a row that are answered at once.
const FREE: u32 = 5;

const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Pace {
    bad_starts: u32,
}

impl Pace {
    /// How long to wait after a death: nothing, but after bad starts in a row 20 ms, doubling up to 1 s. A start was
    /// bad when the process died of it, or never got ready.
    pub(super) fn after_death(&mut self, lived: Duration, got_ready: bool) -> Duration {
        if lived >= LONG_LIFE && got_ready {
            self.bad_starts = 0;
            return Duration::ZERO;
        }
        self.bad_starts = self.bad_starts.saturating_add(1);
        match self.bad_starts.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => (SHORTEST * 2u32.pow(doublings.min(16))).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bad_starts_are_answered_at_once_then_ever_more_slowly() {
        for (lived, got_ready) in [(Duration::ZERO, true), (LONG_LIFE, false)] {
            let mut pace = Pace::default();
            let waits: Vec<u128> = (0..13)
                .map(|_| pace.after_death(lived, got_ready).as_millis())
                .collect();
            assert_eq!(waits, [0, 0, 0, 0, 0, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        }
    }

    #[test]
    fn a_kill_every_second_for_an_hour_is_answered_at_once_each_time() {
        let mut pace = Pace::default();
        assert!((0..3600).all(|_| pace.after_death(Duration::from_secs(1), true).is_zero()));
    }

    #[test]
    fn good_start_makes_up_for_earlier_bad_ones() {
        let mut pace = Pace::default();
        (0..100).for_each(|_| assert!(pace.after_death(Duration::ZERO, true) <= LONGEST));
        assert_eq!(pace.after_death(LONG_LIFE, true), Duration::ZERO);
        assert_eq!(pace.after_death(Duration::ZERO, true), Duration::ZERO);
    }
}
