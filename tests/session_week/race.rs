//! The client's dials while it has no lead that it trusts, over the simulated network, and how many the documents allow.

use crate::network::Network;
use bowline::connection::{DIAL_TIMEOUT, DialRequest, Redial};
use std::collections::VecDeque;
use std::time::Duration;

/// The cadence as it is documented, with its jitter: how long after the start, or the last sign, which interval holds.
const WAITED_FOR: [(u64, u64); 2] = [(300, 150), (1800, 1000)];
const QUIET: [(u64, u64); 1] = [(1800, 1000)];
const RARE: u64 = 15_000;

pub(crate) struct Race {
    since: Duration,
    is_urgent: bool,
    restarts: u32,
    dials: VecDeque<Dial>,
    ready: usize,
    pub(crate) attempts: u64,
    /// What the cadence allows up to the last restart.
    allowed: u64,
}

struct Dial {
    /// `None` if it is dropped.
    done: Option<Duration>,
    begun: Duration,
}

impl Race {
    pub(crate) fn new(now: Duration, request: DialRequest) -> Race {
        Race {
            since: now,
            is_urgent: request.is_urgent(),
            restarts: request.restarts(),
            dials: VecDeque::new(),
            ready: 0,
            attempts: 0,
            allowed: 0,
        }
    }

    /// The connection wants something else; a key, a wake from sleep, or the loss of what was only suspected restarts the
    /// cadence.
    pub(crate) fn handle_request(&mut self, request: DialRequest, now: Duration) {
        if request != DialRequest::None && request.restarts() != self.restarts {
            self.restarts = request.restarts();
            self.allowed = self.allowed(now);
            (self.since, self.is_urgent) = (now, true);
        }
    }

    /// Longest time to the next attempt.
    pub(crate) fn interval(&self, now: Duration) -> Duration {
        let steps: &[_] = if self.is_urgent { &WAITED_FOR } else { &QUIET };
        let age = (now - self.since).as_secs();
        let step = steps.iter().find(|(until, _)| age < *until);
        Duration::from_millis(step.map_or(RARE, |(_, interval)| *interval) * 11 / 10)
    }

    /// Most attempts so far.
    pub(crate) fn allowed(&self, now: Duration) -> u64 {
        let steps: &[_] = if self.is_urgent { &WAITED_FOR } else { &QUIET };
        let age = (now - self.since).as_millis() as u64;
        let (mut allowed, mut from) = (self.allowed + 1, 0);
        for (until, interval) in steps
            .iter()
            .map(|(until, ms)| (until * 1000, *ms))
            .chain([(u64::MAX, RARE)])
        {
            allowed += (age.clamp(from, until) - from) / (interval * 9 / 10) + 1;
            from = until;
            if age < until {
                break;
            }
        }
        allowed
    }

    /// When a dial is done.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.dials.iter().filter_map(|dial| dial.done).min()
    }

    /// Dials the path through the relay and one of the paths that never answer.
    pub(crate) fn dial(&mut self, net: &Network<'_>, now: Duration) {
        self.attempts += 1;
        for done in [net.dial(now), None] {
            self.dials.retain(|dial| now < dial.begun + DIAL_TIMEOUT);
            if let Some(oldest) = Redial::dial_to_abort(self.dials.len()) {
                self.dials.remove(oldest);
            }
            self.dials.push_back(Dial { done, begun: now });
        }
    }

    /// Counts the handshakes that are complete.
    pub(crate) fn collect(&mut self, now: Duration) {
        let before = self.dials.len();
        self.dials.retain(|dial| dial.done.is_none_or(|done| done > now));
        self.ready += before - self.dials.len();
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready > 0
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.dials.is_empty()
    }

    pub(crate) fn take_ready(&mut self) {
        self.ready -= 1;
    }
}
