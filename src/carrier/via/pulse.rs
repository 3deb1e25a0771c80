//! When to ask a relay whether it is there, and what to make of its silence.
//!
//! Pure: the present comes as an argument.

use std::time::{Duration, Instant};

/// While nothing runs through any relay, a dead one costs nobody anything for as long; and NATs forget no binding.
const QUIET: Duration = Duration::from_secs(15);
/// Sessions may need this relay a second after they lost another.
const NEEDED: Duration = Duration::from_secs(1);

/// An answer is overdue after three round trips, within these bounds.
const LEAST_PATIENCE: Duration = Duration::from_millis(300);
const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// A relay that does not answer for so long is not there: QUIC's own idle timeout.
const GIVE_UP: Duration = Duration::from_secs(45);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Ask.
    Ping,
    /// The answer is overdue: have another connection at hand.
    Suspect,
    /// It is dead.
    GiveUp,
}

/// The state of asking.
#[derive(Debug)]
pub struct Pulse {
    rtt: Duration,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Quiet { due: Instant },
    Asked { at: Instant, suspected: bool },
}

impl Pulse {
    /// A relay that has answered just now, `rtt` after it was asked.
    pub fn new(now: Instant, rtt: Duration, is_needed: bool) -> Pulse {
        Pulse {
            rtt,
            phase: Phase::Quiet {
                due: now + interval(is_needed),
            },
        }
    }

    /// Somebody needs the relay from now on.
    pub fn hurry(&mut self, now: Instant) {
        if let Phase::Quiet { due } = &mut self.phase {
            *due = (*due).min(now + NEEDED);
        }
    }

    /// When to look again.
    pub fn poll_timeout(&self) -> Instant {
        match self.phase {
            Phase::Quiet { due } => due,
            Phase::Asked { at, suspected: false } => at + self.patience(),
            Phase::Asked { at, suspected: true } => at + GIVE_UP,
        }
    }

    /// What is due.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Beat> {
        if now < self.poll_timeout() {
            return None;
        }
        match &mut self.phase {
            Phase::Quiet { .. } => {
                self.phase = Phase::Asked {
                    at: now,
                    suspected: false,
                };
                Some(Beat::Ping)
            }
            Phase::Asked { suspected, .. } if !*suspected => {
                *suspected = true;
                Some(Beat::Suspect)
            }
            Phase::Asked { .. } => Some(Beat::GiveUp),
        }
    }

    /// The relay answered. Whether it was under suspicion.
    pub fn handle_pong(&mut self, now: Instant, is_needed: bool) -> bool {
        let Phase::Asked { at, suspected } = self.phase else {
            return false;
        };
        let sample = now.saturating_duration_since(at);
        // RFC 6298's weight, without its variance: the patience has its own bounds.
        self.rtt = (self.rtt * 7 + sample) / 8;
        self.phase = Phase::Quiet {
            due: now + interval(is_needed),
        };
        suspected
    }

    fn patience(&self) -> Duration {
        (self.rtt * 3).clamp(LEAST_PATIENCE, MOST_PATIENCE)
    }
}

fn interval(is_needed: bool) -> Duration {
    if is_needed { NEEDED } else { QUIET }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const RTT: Duration = Duration::from_millis(20);

    #[test]
    fn a_relay_that_is_needed_is_suspected_within_two_seconds_of_its_death() {
        let start = clock::now();
        let mut pulse = Pulse::new(start, RTT, true);
        let asked = pulse.poll_timeout();
        assert_eq!(pulse.handle_timeout(asked), Some(Beat::Ping));
        let suspected = pulse.poll_timeout();
        assert_eq!(pulse.handle_timeout(suspected), Some(Beat::Suspect));
        assert!(suspected - start < Duration::from_secs(2));
        assert_eq!(pulse.handle_timeout(suspected), None);
        assert_eq!(pulse.handle_timeout(asked + GIVE_UP), Some(Beat::GiveUp));
    }

    #[test]
    fn an_answer_clears_suspicion_and_a_stray_one_changes_nothing() {
        let start = clock::now();
        let mut pulse = Pulse::new(start, RTT, false);
        assert!(!pulse.handle_pong(start, false));
        assert_eq!(pulse.poll_timeout(), start + QUIET);
        pulse.handle_timeout(start + QUIET);
        pulse.handle_timeout(start + QUIET + MOST_PATIENCE);
        let late = start + QUIET + Duration::from_secs(5);
        assert!(pulse.handle_pong(late, false));
        assert_eq!(pulse.poll_timeout(), late + QUIET);
    }

    #[test]
    fn a_quiet_relay_that_comes_to_be_needed_is_asked_sooner() {
        let start = clock::now();
        let mut pulse = Pulse::new(start, RTT, false);
        pulse.hurry(start);
        assert_eq!(pulse.poll_timeout(), start + NEEDED);
    }
}
