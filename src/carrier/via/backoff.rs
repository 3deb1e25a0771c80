//! Delay before the next attempt to reach a relay.
//!
//! Pure: randomness comes from a seed.

use std::time::Duration;

use fastrand::Rng;

const MIN_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(30);
/// While sessions run over relays, any relay may be needed at any moment.
const MAX_DELAY_WHILE_NEEDED: Duration = Duration::from_secs(4);

/// Exponential backoff with jitter: each delay is drawn from the upper half of its range, so that a
/// thousand server halves do not all return at once to a relay that was restarted.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    random: Rng,
}

impl Backoff {
    /// Starts with the shortest delay.
    pub fn new(seed: u64) -> Backoff {
        Backoff {
            next: MIN_DELAY,
            random: Rng::with_seed(seed),
        }
    }

    /// After a success: the next failure starts with the shortest delay again.
    pub fn reset(&mut self) {
        self.next = MIN_DELAY;
    }

    /// The delay after one more failure.
    pub fn next_delay(&mut self, is_needed: bool) -> Duration {
        let most = if is_needed { MAX_DELAY_WHILE_NEEDED } else { MAX_DELAY };
        let wait = self.next.min(most);
        self.next = (self.next * 2).min(MAX_DELAY);
        wait / 2 + wait.mul_f64(self.random.f64() / 2.0)
    }

    /// The longest delay, for refusals that are not likely to change soon.
    pub fn max_delay(&mut self) -> Duration {
        self.next = MAX_DELAY;
        self.next_delay(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_half_a_minute_and_restart_after_a_success() {
        let mut backoff = Backoff::new(7);
        let mut range = MIN_DELAY;
        for _ in 0..12 {
            let wait = backoff.next_delay(false);
            assert!(wait >= range / 2 && wait <= range, "{wait:?} of {range:?}");
            range = (range * 2).min(MAX_DELAY);
        }
        assert!(backoff.next_delay(true) <= MAX_DELAY_WHILE_NEEDED);
        backoff.reset();
        assert!(backoff.next_delay(false) <= MIN_DELAY);
    }

    #[test]
    fn delays_of_two_halves_differ() {
        // As different from each other as random seeds.
        let seeds = (1..=100u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut waits: Vec<Duration> = seeds.map(|seed| Backoff::new(seed).next_delay(false)).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 90, "{} of 100 differ", waits.len());
    }
}
