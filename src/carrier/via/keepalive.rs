//! When to ping a relay, and how long to wait for the answer.
//!
//! Pure: the time is an argument.

use std::time::{Duration, Instant};

/// Interval while no session runs over a relay: a dead relay does no harm for this long, and NATs
/// keep the binding.
const IDLE_INTERVAL: Duration = Duration::from_secs(15);
/// Interval while sessions run over relays: they may need this relay one second after they lost
/// another one.
const NEEDED_INTERVAL: Duration = Duration::from_secs(1);

/// An answer is overdue after three round trips, within these limits.
const MIN_RESPONSE_TIMEOUT: Duration = Duration::from_millis(300);
const MAX_RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A relay that has not answered for this long is dead. Equal to QUIC's idle timeout.
const DEAD_TIMEOUT: Duration = Duration::from_secs(45);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepaliveAction {
    /// Send a ping.
    Ping,
    /// The answer is overdue: open another connection.
    Suspect,
    /// The relay is dead: close the connection.
    Close,
}

/// Keepalive state of one connection.
#[derive(Debug)]
pub struct Keepalive {
    rtt: Duration,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Idle { due: Instant },
    Waiting { at: Instant, suspected: bool },
}

impl Keepalive {
    /// Starts after an answer that arrived now, `rtt` after its request.
    pub fn new(now: Instant, rtt: Duration, is_needed: bool) -> Keepalive {
        Keepalive {
            rtt,
            phase: Phase::Idle {
                due: now + interval(is_needed),
            },
        }
    }

    /// Sessions need the relay from now on.
    pub fn mark_needed(&mut self, now: Instant) {
        if let Phase::Idle { due } = &mut self.phase {
            *due = (*due).min(now + NEEDED_INTERVAL);
        }
    }

    /// When to call [`Keepalive::handle_timeout`].
    pub fn poll_timeout(&self) -> Instant {
        match self.phase {
            Phase::Idle { due } => due,
            Phase::Waiting { at, suspected: false } => at + self.response_timeout(),
            Phase::Waiting { at, suspected: true } => at + DEAD_TIMEOUT,
        }
    }

    /// What is due, if anything.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<KeepaliveAction> {
        if now < self.poll_timeout() {
            return None;
        }
        match &mut self.phase {
            Phase::Idle { .. } => {
                self.phase = Phase::Waiting {
                    at: now,
                    suspected: false,
                };
                Some(KeepaliveAction::Ping)
            }
            Phase::Waiting { suspected, .. } if !*suspected => {
                *suspected = true;
                Some(KeepaliveAction::Suspect)
            }
            Phase::Waiting { .. } => Some(KeepaliveAction::Close),
        }
    }

    /// The relay answered. Returns whether the answer had been overdue.
    pub fn handle_pong(&mut self, now: Instant, is_needed: bool) -> bool {
        let Phase::Waiting { at, suspected } = self.phase else {
            return false;
        };
        let sample = now.saturating_duration_since(at);
        // The weights of RFC 6298. Its variance is not needed, because the timeout has limits of
        // its own.
        self.rtt = (self.rtt * 7 + sample) / 8;
        self.phase = Phase::Idle {
            due: now + interval(is_needed),
        };
        suspected
    }

    fn response_timeout(&self) -> Duration {
        (self.rtt * 3).clamp(MIN_RESPONSE_TIMEOUT, MAX_RESPONSE_TIMEOUT)
    }
}

fn interval(is_needed: bool) -> Duration {
    if is_needed { NEEDED_INTERVAL } else { IDLE_INTERVAL }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const RTT: Duration = Duration::from_millis(20);

    #[test]
    fn needed_relay_is_suspected_within_two_seconds_of_its_failure() {
        let start = clock::now();
        let mut keepalive = Keepalive::new(start, RTT, true);
        let asked = keepalive.poll_timeout();
        assert_eq!(keepalive.handle_timeout(asked), Some(KeepaliveAction::Ping));
        let suspected = keepalive.poll_timeout();
        assert_eq!(keepalive.handle_timeout(suspected), Some(KeepaliveAction::Suspect));
        assert!(suspected - start < Duration::from_secs(2));
        assert_eq!(keepalive.handle_timeout(suspected), None);
        assert_eq!(
            keepalive.handle_timeout(asked + DEAD_TIMEOUT),
            Some(KeepaliveAction::Close)
        );
    }

    #[test]
    fn pong_clears_suspicion_and_an_unexpected_pong_changes_nothing() {
        let start = clock::now();
        let mut keepalive = Keepalive::new(start, RTT, false);
        assert!(!keepalive.handle_pong(start, false));
        assert_eq!(keepalive.poll_timeout(), start + IDLE_INTERVAL);
        keepalive.handle_timeout(start + IDLE_INTERVAL);
        keepalive.handle_timeout(start + IDLE_INTERVAL + MAX_RESPONSE_TIMEOUT);
        let late = start + IDLE_INTERVAL + Duration::from_secs(5);
        assert!(keepalive.handle_pong(late, false));
        assert_eq!(keepalive.poll_timeout(), late + IDLE_INTERVAL);
    }

    #[test]
    fn idle_relay_is_pinged_sooner_once_it_is_needed() {
        let start = clock::now();
        let mut keepalive = Keepalive::new(start, RTT, false);
        keepalive.mark_needed(start);
        assert_eq!(keepalive.poll_timeout(), start + NEEDED_INTERVAL);
    }
}
