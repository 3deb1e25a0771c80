//! The client's dials while it has no trusted lead, as in `client/redial.rs`.

use crate::network::Network;
use bowline::session::RedialPacer;
use bowline::wire::Epoch;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most concurrent dials, and how many of them are never aborted.
const IN_FLIGHT: usize = 12;
const PATIENT: usize = 4;
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// An unanswered resume blocks others for this long.
pub(crate) const RESUME_ALLOWANCE: Duration = Duration::from_millis(400);

/// The documented redial schedule with jitter: time since the start or the last network event, and the interval.
const WAITED_FOR: [(u64, u64); 2] = [(300, 150), (1800, 1000)];
const QUIET: [(u64, u64); 1] = [(300, 1000)];
const RARE: u64 = 15_000;

pub(crate) struct Race {
    pub(crate) pacer: RedialPacer,
    since: Duration,
    is_waited_for: bool,
    dials: VecDeque<Dial>,
    ready: usize,
    resuming_until: Option<Duration>,
    /// Resumes that may have been accepted.
    claims: Vec<Epoch>,
    pub(crate) called_off: bool,
    pub(crate) attempts: u64,
    /// The number of dials that the schedule allows up to the last event.
    allowed: u64,
}

struct Dial {
    /// `None` if it is dropped.
    done: Option<Duration>,
    begun: Duration,
}

impl Race {
    pub(crate) fn new(instant: Instant, now: Duration, is_waited_for: bool, seed: u64) -> Race {
        Race {
            pacer: RedialPacer::new(instant, is_waited_for, seed),
            since: now,
            is_waited_for,
            dials: VecDeque::new(),
            ready: 0,
            resuming_until: None,
            claims: Vec::new(),
            called_off: false,
            attempts: 0,
            allowed: 0,
        }
    }

    /// A key, a wake-up, or the loss of a suspected lead.
    pub(crate) fn handle_sign(&mut self, instant: Instant, now: Duration) {
        self.pacer.handle_sign(instant);
        self.allowed = self.allowed(now);
        (self.since, self.is_waited_for) = (now, true);
    }

    /// Longest time to the next attempt.
    pub(crate) fn interval(&self, now: Duration) -> Duration {
        let steps: &[_] = if self.is_waited_for { &WAITED_FOR } else { &QUIET };
        let age = (now - self.since).as_secs();
        let step = steps.iter().find(|(until, _)| age < *until);
        Duration::from_millis(step.map_or(RARE, |(_, interval)| *interval) * 11 / 10)
    }

    /// Most attempts so far.
    pub(crate) fn allowed(&self, now: Duration) -> u64 {
        let steps: &[_] = if self.is_waited_for { &WAITED_FOR } else { &QUIET };
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

    pub(crate) fn next(&self, pacer: Duration) -> Duration {
        let dials = self.dials.iter().filter_map(|dial| dial.done);
        let resume = self.resuming_until.filter(|_| self.ready > 0);
        dials.chain(resume).fold(pacer, Duration::min)
    }

    /// Dials the path through the relay and one of the paths that never answer.
    pub(crate) fn dial(&mut self, net: &Network<'_>, now: Duration) {
        self.attempts += 1;
        for done in [net.dial(now), None] {
            self.dials.retain(|dial| now < dial.begun + DIAL_TIMEOUT);
            if self.dials.len() >= IN_FLIGHT {
                self.dials.remove(PATIENT);
            }
            self.dials.push_back(Dial { done, begun: now });
        }
    }

    /// Whether to send a resume now.
    pub(crate) fn poll_resume(&mut self, now: Duration) -> bool {
        let before = self.dials.len();
        self.dials.retain(|dial| dial.done.is_none_or(|done| done > now));
        self.ready += before - self.dials.len();
        let may = self.ready > 0 && self.resuming_until.is_none_or(|until| now >= until);
        self.ready -= usize::from(may);
        may
    }

    pub(crate) fn handle_resume_sent(&mut self, epoch: Epoch, rtt: Duration, now: Duration) {
        self.resuming_until = Some(now + RESUME_ALLOWANCE.max(rtt * 3));
        self.claims.push(epoch);
    }

    pub(crate) fn handle_accepted(&mut self, epoch: Epoch, now: Duration) {
        self.claims.retain(|claim| *claim > epoch);
        self.resuming_until = Some(now + RESUME_ALLOWANCE);
    }

    pub(crate) fn handle_refused(&mut self, epoch: Epoch) {
        self.claims.retain(|claim| *claim != epoch);
        self.resuming_until = None;
    }

    pub(crate) fn is_over(&self) -> bool {
        self.called_off && self.claims.is_empty()
    }
}
