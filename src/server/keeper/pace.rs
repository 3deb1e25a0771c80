//! When to start a process again that has died.
//!
//! Pure: time is an argument.

use std::time::Duration;

/// A process that lived this long did not die of its start.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// Fast deaths in a row that are answered at once: a crash that sessions cause now and then costs them nothing.
const FREE: u32 = 5;

const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Pace {
    fast_deaths: u32,
}

impl Pace {
    /// How long to wait after a death: nothing at first, then 20 ms, doubling up to 1 s.
    pub(super) fn after_death(&mut self, lived: Duration) -> Duration {
        if lived >= LONG_LIFE {
            self.fast_deaths = 0;
            return Duration::ZERO;
        }
        self.fast_deaths = self.fast_deaths.saturating_add(1);
        match self.fast_deaths.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => (SHORTEST * 2u32.pow(doublings.min(16))).min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_deaths_are_answered_at_once_then_ever_more_slowly() {
        let mut pace = Pace::default();
        let waits: Vec<u128> = (0..13).map(|_| pace.after_death(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn long_life_makes_up_for_earlier_deaths() {
        let mut pace = Pace::default();
        (0..100).for_each(|_| assert!(pace.after_death(Duration::ZERO) <= LONGEST));
        assert_eq!(pace.after_death(LONG_LIFE), Duration::ZERO);
        assert_eq!(pace.after_death(Duration::ZERO), Duration::ZERO);
    }
}
