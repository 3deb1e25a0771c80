//! Whether predictions are displayed, and whether they are underlined: thresholds with hysteresis, as in mosh.

use std::time::{Duration, Instant};

use crate::display::PredictMode;

/// Above this round-trip time predictions are displayed, and below the second one they are not.
const DISPLAY_ABOVE: Duration = Duration::from_millis(60);
const HIDE_BELOW: Duration = Duration::from_millis(40);
/// Above this round-trip time predictions are underlined, and below the second one they are not.
const UNDERLINE_ABOVE: Duration = Duration::from_millis(160);
const PLAIN_BELOW: Duration = Duration::from_millis(100);
/// A prediction that waits so long switches the display on.
pub(super) const SLOW_ANSWER: Duration = Duration::from_millis(250);
/// A prediction that waits so long is underlined.
pub(super) const VERY_SLOW_ANSWER: Duration = Duration::from_secs(5);
/// So many quick confirmations end the display that a slow answer began.
const QUICK_CONFIRMATIONS: u32 = 10;
/// Quick confirmations are counted once in this time.
const COUNT_INTERVAL: Duration = Duration::from_millis(150);

#[derive(Debug)]
pub(super) struct Policy {
    mode: PredictMode,
    is_slow: bool,
    is_underlined: bool,
    /// Quick confirmations that are missing.
    missing: u32,
    counted_at: Option<Instant>,
}

impl Policy {
    pub(super) fn new(mode: PredictMode) -> Self {
        Self {
            mode,
            is_slow: false,
            is_underlined: false,
            missing: 0,
            counted_at: None,
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.mode == PredictMode::Never
    }

    pub(super) fn is_displayed(&self) -> bool {
        match self.mode {
            PredictMode::Never => false,
            PredictMode::Always => true,
            PredictMode::Adaptive => self.is_slow || self.missing > 0,
        }
    }

    pub(super) fn is_underlined(&self) -> bool {
        self.is_underlined || self.missing > QUICK_CONFIRMATIONS
    }

    pub(super) fn handle_rtt(&mut self, rtt: Duration, is_pending: bool) {
        if rtt > DISPLAY_ABOVE {
            self.is_slow = true;
        } else if rtt < HIDE_BELOW && !is_pending {
            self.is_slow = false;
        }
        if rtt > UNDERLINE_ABOVE {
            self.is_underlined = true;
        } else if rtt < PLAIN_BELOW {
            self.is_underlined = false;
        }
    }

    /// A prediction has been pending for `age`.
    pub(super) fn handle_pending(&mut self, age: Duration) {
        if age >= VERY_SLOW_ANSWER {
            self.missing = 2 * QUICK_CONFIRMATIONS;
        } else if age >= SLOW_ANSWER {
            self.missing = self.missing.max(QUICK_CONFIRMATIONS);
        }
    }

    /// A prediction was confirmed `age` after it was made.
    pub(super) fn handle_confirmed(&mut self, age: Duration, now: Instant) {
        let is_counted = self.counted_at.is_none_or(|at| now >= at + COUNT_INTERVAL);
        if age < SLOW_ANSWER && self.missing > 0 && is_counted {
            self.missing -= 1;
            self.counted_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn display_and_underline_have_hysteresis() {
        let mut policy = Policy::new(PredictMode::Adaptive);
        for (rtt, is_pending, is_displayed, is_underlined) in [
            (60, false, false, false),
            (61, false, true, false),
            (160, false, true, false),
            (161, false, true, true),
            (100, false, true, true),
            (99, false, true, false),
            (40, false, true, false),
            (39, true, true, false),
            (39, false, false, false),
        ] {
            policy.handle_rtt(ms(rtt), is_pending);
            assert_eq!(policy.is_displayed(), is_displayed, "{rtt}");
            assert_eq!(policy.is_underlined(), is_underlined, "{rtt}");
        }
    }

    #[test]
    fn a_slow_answer_displays_until_ten_were_quick() {
        let start = crate::test_tools::start();
        let mut policy = Policy::new(PredictMode::Adaptive);
        policy.handle_pending(ms(249));
        assert!(!policy.is_displayed());
        policy.handle_pending(ms(250));
        assert!(policy.is_displayed() && !policy.is_underlined());
        for count in 0..10 {
            assert!(policy.is_displayed(), "{count}");
            policy.handle_confirmed(ms(10), start + ms(200 * count));
            policy.handle_confirmed(ms(10), start + ms(200 * count + 1));
        }
        assert!(!policy.is_displayed());
        policy.handle_pending(ms(5000));
        assert!(policy.is_underlined());
    }

    #[test]
    fn the_modes_always_and_never_ignore_the_round_trip_time() {
        let mut never = Policy::new(PredictMode::Never);
        never.handle_rtt(ms(500), false);
        never.handle_pending(ms(9000));
        assert!(!never.is_displayed());
        let mut always = Policy::new(PredictMode::Always);
        always.handle_rtt(ms(1), false);
        assert!(always.is_displayed());
    }
}
