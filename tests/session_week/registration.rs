//! Simulates the registration of the server half at the relay, with the real keepalive and backoff, driven as in
//! `carrier/via/registration.rs`.

use crate::conditions::{Conditions, Interval, Intervals, WEEK};
use crate::network::{FIRST_REPEAT, IDLE};
use bowline::carrier::via::{Backoff, Keepalive, KeepaliveAction};
use std::time::{Duration, Instant};

/// Limit of an attempt.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The longest interval between two packets of an attempt: at 3.15 s and at 6.75 s.
const MAX_RETRANSMIT_INTERVAL: Duration = Duration::from_millis(3600);
/// A relay is probed after one second, and has one second to answer.
const NOTICED: Duration = Duration::from_secs(2);
const MIN_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// After this time a registration resets the backoff.
const STEADY: Duration = Duration::from_secs(5);

/// The intervals in which the relay has a working connection to the server half.
pub(crate) fn registrations(conditions: &Conditions, leg: Duration, seed: u64) -> Intervals {
    let mut registrar = Registrar::new(conditions, leg, seed);
    while registrar.now < WEEK {
        registrar.step();
    }
    let listed = Intervals::new(registrar.listed);
    check(conditions, &listed, leg);
    listed
}

/// Checks that the server half is registered again within the backoff that follows from the length of the outage.
fn check(conditions: &Conditions, listed: &Intervals, leg: Duration) {
    let cut_off = conditions.server_is_cut_off();
    let mut since = Duration::ZERO;
    let mut before = Duration::ZERO;
    for trouble in &cut_off.0 {
        if trouble.from > before + MAX_BACKOFF + ATTEMPT {
            since = trouble.from;
        }
        before = trouble.until;
        let failed = (trouble.until - since).as_secs() / ATTEMPT.as_secs() + 1;
        let pause = (MIN_BACKOFF * (1 << failed.min(7))).min(MAX_BACKOFF);
        let by = trouble.until + NOTICED + MAX_RETRANSMIT_INTERVAL + pause + 5 * leg;
        assert!(
            !cut_off.spare(trouble.until, by) || listed.has(by),
            "not listed {:?} after {trouble:?}",
            by - trouble.until
        );
    }
}

struct Registered {
    keepalive: Keepalive,
    since: Duration,
    /// When the relay drops it or dies.
    ends: Duration,
    is_suspect: bool,
    /// When the answer to the last probe arrives.
    pong: Option<Duration>,
    /// When a restarted relay resets it.
    told: Option<Duration>,
}

/// An attempt in progress.
struct Attempt {
    ends: Duration,
    succeeds: bool,
}

struct Registrar<'a> {
    conditions: &'a Conditions,
    cut_off: Intervals,
    leg: Duration,
    beginning: Instant,
    now: Duration,
    place: Option<Registered>,
    attempt: Option<Attempt>,
    due: Option<Duration>,
    backoff: Backoff,
    listed: Vec<Interval>,
}

impl<'a> Registrar<'a> {
    fn new(conditions: &'a Conditions, leg: Duration, seed: u64) -> Registrar<'a> {
        Registrar {
            conditions,
            cut_off: conditions.server_is_cut_off(),
            leg,
            beginning: bowline::clock::now(),
            now: Duration::ZERO,
            place: None,
            attempt: None,
            due: Some(Duration::ZERO),
            backoff: Backoff::new(seed),
            listed: Vec::new(),
        }
    }

    /// Advances to the next event.
    fn step(&mut self) {
        let keepalive = self
            .place
            .iter()
            .map(|place| place.keepalive.poll_timeout() - self.beginning);
        let words = self.place.iter().flat_map(|place| [place.pong, place.told]).flatten();
        let attempt = self.attempt.iter().map(|attempt| attempt.ends);
        let due = self.due.filter(|_| self.attempt.is_none());
        let next = keepalive
            .chain(words)
            .chain(attempt)
            .chain(due)
            .fold(WEEK, Duration::min);
        if let Some(death) = self.conditions.worker.from(self.now).filter(|death| death.from <= next) {
            // The next worker starts without state.
            (self.place, self.attempt) = (None, None);
            (self.now, self.due) = (death.until, Some(death.until));
            return;
        }
        self.now = next;
        self.hear();
        self.keepalive();
        if self.attempt.as_ref().is_some_and(|attempt| attempt.ends <= self.now) {
            self.end_attempt();
        } else if self.attempt.is_none() && self.due.is_some_and(|due| due <= self.now) {
            self.due = None;
            self.attempt = Some(self.try_to_be_listed());
        }
    }

    fn hear(&mut self) {
        let now = self.now;
        let Some(place) = &mut self.place else { return };
        if place.pong.is_some_and(|pong| pong <= now) {
            place.pong = None;
            if place.keepalive.handle_pong(self.beginning + now, true) {
                place.is_suspect = false;
                (self.attempt, self.due) = (None, None);
                self.backoff.reset();
            }
        } else if place.told.is_some_and(|told| told <= now) {
            self.lose();
        }
    }

    fn keepalive(&mut self) {
        let Some(place) = &mut self.place else { return };
        match place.keepalive.handle_timeout(self.beginning + self.now) {
            Some(KeepaliveAction::Ping) => self.ask(),
            Some(KeepaliveAction::Suspect) => {
                place.is_suspect = true;
                (self.attempt, self.due) = (None, Some(self.now));
            }
            Some(KeepaliveAction::Close) => self.lose(),
            None => {}
        }
    }

    fn lose(&mut self) {
        let Some(place) = self.place.take() else { return };
        let pause = if self.now - place.since >= STEADY {
            self.backoff.reset();
            Duration::ZERO
        } else {
            self.backoff.next_delay(false)
        };
        let due = self.now + pause;
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// A probe, retransmitted as QUIC does.
    fn ask(&mut self) {
        let Some(place) = &mut self.place else { return };
        let (mut at, mut pause) = (self.now, 6 * self.leg);
        while at < self.now + IDLE {
            if self.cut_off.spare(at, at + 2 * self.leg) {
                let answer = Some(at + 2 * self.leg);
                let lives = at + self.leg < place.ends;
                (place.pong, place.told) = if lives { (answer, None) } else { (None, answer) };
                return;
            }
            at += pause;
            pause *= 2;
        }
    }

    fn end_attempt(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        if !attempt.succeeds {
            // Streams work while the connection lives.
            let pause = self.backoff.next_delay(self.place.is_some());
            self.due = Some(self.now + pause);
            return;
        }
        let ends = self.end_of_place();
        self.place = Some(Registered {
            keepalive: Keepalive::new(self.beginning + self.now, 2 * self.leg, true),
            since: self.now,
            ends,
            is_suspect: false,
            pong: None,
            told: None,
        });
        self.due = None;
        let from = self.now - self.leg;
        self.listed.push(Interval {
            from,
            until: ends.max(from),
        });
    }

    /// The death of either side, or a silence longer than QUIC's idle timeout.
    fn end_of_place(&self) -> Duration {
        let deaths = [&self.conditions.relay, &self.conditions.worker].map(|deaths| deaths.next_beginning(self.now));
        let silence = self.conditions.far.iter().flat_map(|way| {
            let long = way
                .0
                .iter()
                .find(|hole| hole.until > self.now + IDLE && hole.lasts() > IDLE);
            long.map(|hole| hole.from.max(self.now) + IDLE)
        });
        deaths
            .into_iter()
            .flatten()
            .chain(silence)
            .fold(2 * WEEK, Duration::min)
    }

    fn try_to_be_listed(&self) -> Attempt {
        let (mut at, mut pause) = (self.now, FIRST_REPEAT);
        while at < self.now + ATTEMPT {
            // QUIC's handshake and the request.
            if self.cut_off.spare(at, at + 4 * self.leg) {
                return Attempt {
                    ends: at + 4 * self.leg,
                    succeeds: true,
                };
            }
            at += pause;
            pause *= 2;
        }
        Attempt {
            ends: self.now + ATTEMPT,
            succeeds: false,
        }
    }
}
