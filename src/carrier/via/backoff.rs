//! How long to wait before the next attempt at a relay.
//!
//! Pure: chance comes as a seed.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const MOST: Duration = Duration::from_secs(30);
/// While sessions run through relays, any of them may be needed in the next moment.
const MOST_WHILE_NEEDED: Duration = Duration::from_secs(4);

/// Waits that double, each drawn from the upper half of its range, so that a thousand server halves do not return in
/// step to a relay that was restarted.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    random: u64,
}

impl Backoff {
    /// Begins with the shortest wait.
    pub fn new(seed: u64) -> Backoff {
        Backoff {
            next: FIRST,
            random: seed | 1,
        }
    }

    /// All is well: the next failure begins anew.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }

    /// The wait after one more failure.
    pub fn wait(&mut self, is_needed: bool) -> Duration {
        let most = if is_needed { MOST_WHILE_NEEDED } else { MOST };
        let wait = self.next.min(most);
        self.next = (self.next * 2).min(MOST);
        wait / 2 + wait.mul_f64(self.draw() / 2.0)
    }

    /// The longest one: after a refusal that will not change soon.
    pub fn longest(&mut self) -> Duration {
        self.next = MOST;
        self.wait(false)
    }

    /// From 0 to 1. xorshift64 (Marsaglia 2003): spreading needs no better source.
    fn draw(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(7);
        let mut range = FIRST;
        for _ in 0..12 {
            let wait = backoff.wait(false);
            assert!(wait >= range / 2 && wait <= range, "{wait:?} of {range:?}");
            range = (range * 2).min(MOST);
        }
        assert!(backoff.wait(true) <= MOST_WHILE_NEEDED);
        backoff.reset();
        assert!(backoff.wait(false) <= FIRST);
    }

    #[test]
    fn two_halves_do_not_wait_in_step() {
        // As far apart as random ones.
        let seeds = (1..=100u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut waits: Vec<Duration> = seeds.map(|seed| Backoff::new(seed).wait(false)).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 90, "{} of 100 differ", waits.len());
    }
}
