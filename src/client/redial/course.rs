//! What a race is still for: when to dial, when to say `Resume`, and when it is over. Without I/O.

use crate::pump::Need;
use crate::session::RedialPacer;
use crate::wire::{Answer, Epoch};
use std::time::{Duration, Instant};

/// After this a resume without an answer no longer keeps others from being sent.
const RESUME_ALLOWANCE: Duration = Duration::from_millis(400);

/// The course of one race. All times are those of [`crate::clock::now`].
pub(super) struct Course {
    pacer: RedialPacer,
    signs: u32,
    /// The peer's host itself ended the lead.
    heard_from_peer: bool,
    claims: Claims,
    /// Nothing is needed any more, or was.
    called_off: bool,
    /// Until when a better path than that of a well lead is waited for.
    improving_until: Option<Instant>,
    resuming_until: Option<Instant>,
}

/// What the caller has at hand.
#[derive(Clone, Copy)]
pub(super) struct AtHand {
    /// Whether a finished handshake waits for its `Resume`.
    pub(super) ready: bool,
    /// Whether a dial or a resume is under way.
    pub(super) running: bool,
}

impl Course {
    /// For one outage, or one suspicion: goes on until nothing is needed any more.
    pub(super) fn of_outage(pacer: RedialPacer, need: Need, now: Instant) -> Course {
        let mut course = Course {
            pacer,
            signs: need.signs(),
            heard_from_peer: false,
            claims: Claims::default(),
            called_off: false,
            improving_until: None,
            resuming_until: None,
        };
        course.handle_need(need, now);
        course
    }

    /// For a better path, while nothing is wrong: goes on for as long as dials run, and until then at most.
    pub(super) fn of_improvement(pacer: RedialPacer, now: Instant, until: Instant) -> Course {
        Course {
            improving_until: Some(until),
            ..Course::of_outage(pacer, Need::Nothing, now)
        }
    }

    pub(super) fn is_over(&self, now: Instant, at_hand: AtHand) -> bool {
        self.called_off && self.claims.are_settled() && !self.is_improving(now, at_hand)
    }

    /// When to look again at the latest. Whoever then calls [`Course::poll_attempt`] and [`Course::may_resume`] moves
    /// it on, or finds the race over: it never stands still in the past.
    pub(super) fn poll_timeout(&self, now: Instant, at_hand: AtHand) -> Instant {
        let improving = self.improving_until.filter(|_| self.is_improving(now, at_hand));
        let attempt = improving.unwrap_or_else(|| self.pacer.poll_timeout());
        match self.resuming_until.filter(|_| at_hand.ready) {
            Some(until) => attempt.min(until),
            None => attempt,
        }
    }

    /// Whether to dial now. A race that was called off dials on while a resume may have been accepted without a word.
    pub(super) fn poll_attempt(&mut self, now: Instant, at_hand: AtHand) -> bool {
        !self.is_improving(now, at_hand) && !self.is_over(now, at_hand) && self.pacer.poll_attempt(now)
    }

    /// Whether no earlier resume may still be answered.
    pub(super) fn may_resume(&self, now: Instant) -> bool {
        self.resuming_until.is_none_or(|until| now >= until)
    }

    pub(super) fn handle_need(&mut self, need: Need, now: Instant) {
        self.called_off = need == Need::Nothing;
        if !self.called_off {
            self.improving_until = None;
        }
        let Need::Carrier { by_peer, signs, .. } = need else {
            return;
        };
        if by_peer != self.heard_from_peer {
            self.heard_from_peer = by_peer;
            self.pacer.set_peer_heard(by_peer.then_some(now));
        }
        if signs != self.signs {
            self.signs = signs;
            self.pacer.handle_sign(now);
        }
    }

    pub(super) fn handle_resume_sent(&mut self, epoch: Epoch, rtt: Duration, now: Instant) {
        self.resuming_until = Some(now + RESUME_ALLOWANCE.max(rtt * 3));
        self.claims.handle_sent(epoch);
    }

    /// `answer` is `None` where the carrier was lost first.
    pub(super) fn handle_answered(&mut self, epoch: Epoch, answer: Option<&Answer>, now: Instant) {
        self.claims.handle_answered(epoch, answer);
        let accepted = matches!(answer, Some(Answer::Accepted(_)));
        // After an `Accepted` the pump says in a moment that it needs no other.
        self.resuming_until = accepted.then(|| now + RESUME_ALLOWANCE);
        if accepted {
            self.improving_until = None;
        }
    }

    fn is_improving(&self, now: Instant, at_hand: AtHand) -> bool {
        (at_hand.ready || at_hand.running) && self.improving_until.is_some_and(|until| now < until)
    }
}

/// Resumes that may have made their carrier the server half's lead, for all we know.
///
/// A race must not be called off over one: the server half would send on a carrier that nobody reads, and the old
/// one, which still answers probes, would look well for ever.
#[derive(Debug, Default)]
struct Claims(Vec<Epoch>);

impl Claims {
    fn handle_sent(&mut self, epoch: Epoch) {
        self.0.push(epoch);
    }

    /// `answer` is `None` where the carrier was lost first: whether the resume arrived is then open, until a later
    /// one is accepted.
    fn handle_answered(&mut self, epoch: Epoch, answer: Option<&Answer>) {
        match answer {
            Some(Answer::Accepted(_)) => self.0.retain(|claim| *claim > epoch),
            Some(
                Answer::Refused(_)
                | Answer::Standing
                | Answer::Probed(_)
                | Answer::Reaped
                | Answer::Asking
                | Answer::KeyOk(_),
            ) => self.0.retain(|claim| *claim != epoch),
            None => {}
        }
    }

    fn are_settled(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::wire::{Accepted, Refusal, RefusalCode};

    fn claims(epochs: &[u32]) -> Claims {
        let mut claims = Claims::default();
        epochs.iter().for_each(|epoch| claims.handle_sent(Epoch::new(*epoch)));
        claims
    }

    fn accepted() -> Answer {
        Answer::Accepted(Accepted {
            received: Default::default(),
            window: 0,
            ttl: 0,
            key: None,
        })
    }

    #[test]
    fn a_resume_that_may_have_arrived_keeps_the_race_open() {
        let mut claims = claims(&[2]);
        assert!(!claims.are_settled());
        claims.handle_answered(Epoch::new(2), None);
        assert!(!claims.are_settled(), "lost before its answer: it may have arrived");
        claims.handle_sent(Epoch::new(3));
        claims.handle_answered(Epoch::new(3), Some(&accepted()));
        assert!(claims.are_settled(), "the later one leads on both sides");
    }

    #[test]
    fn an_accepted_resume_does_not_settle_a_later_one() {
        let mut claims = claims(&[2, 3]);
        claims.handle_answered(Epoch::new(2), Some(&accepted()));
        assert!(!claims.are_settled());
        let refused = Answer::Refused(Refusal {
            code: RefusalCode::RetryLater,
            message: "".into(),
        });
        claims.handle_answered(Epoch::new(3), Some(&refused));
        assert!(claims.are_settled());
    }

    const IDLE: AtHand = AtHand {
        ready: false,
        running: false,
    };
    const BUSY: AtHand = AtHand {
        ready: false,
        running: true,
    };

    const NEED: Need = Need::Carrier {
        by_peer: false,
        waited_for: true,
        signs: 0,
    };

    fn pacer(now: Instant) -> RedialPacer {
        RedialPacer::new(now, true, 1)
    }

    /// Drives a race that hears nothing for ten seconds as its owner does; the moments of its dials.
    fn dials(course: &mut Course, mut now: Instant, at_hand: AtHand) -> Vec<Instant> {
        let end = now + Duration::from_secs(10);
        let mut dials = vec![];
        for _ in 0..1000 {
            if course.is_over(now, at_hand) || now >= end {
                return dials;
            }
            now = now.max(course.poll_timeout(now, at_hand));
            if course.poll_attempt(now, at_hand) {
                dials.push(now);
            }
        }
        panic!("it stands still after {} dials", dials.len());
    }

    #[test]
    fn a_race_called_off_over_an_open_resume_dials_on_until_a_later_one_is_accepted() {
        let start = clock::now();
        for at_hand in [BUSY, IDLE] {
            let mut course = Course::of_outage(pacer(start), NEED, start);
            course.handle_resume_sent(Epoch::new(2), Duration::ZERO, start);
            course.handle_need(Need::Nothing, start);
            assert!(!course.is_over(start, at_hand));
            assert!(dials(&mut course, start, at_hand).len() > 10);
            course.handle_answered(Epoch::new(2), None, start);
            let later = start + Duration::from_secs(10);
            assert!(dials(&mut course, later, at_hand).len() > 10, "it may have arrived");
            course.handle_resume_sent(Epoch::new(3), Duration::ZERO, later);
            course.handle_answered(Epoch::new(3), Some(&accepted()), later);
            assert!(course.is_over(later, at_hand));
        }
    }

    #[test]
    fn a_host_that_was_heard_is_not_pressed_until_the_network_changes() {
        let start = clock::now();
        let heard = Need::Carrier {
            by_peer: true,
            waited_for: true,
            signs: 0,
        };
        let mut course = Course::of_outage(pacer(start), heard, start);
        let busy = dials(&mut course, start, BUSY).len();
        assert!(busy < 10, "{busy}");
        let later = start + Duration::from_secs(10);
        let mut course = Course::of_outage(pacer(later), heard, later);
        course.handle_need(NEED, later);
        assert!(dials(&mut course, later, BUSY).len() > 50);
    }

    #[test]
    fn a_better_path_is_waited_for_and_not_dialled_again() {
        let start = clock::now();
        let until = start + Duration::from_secs(5);
        let mut course = Course::of_improvement(pacer(start), start, until);
        assert_eq!(course.poll_timeout(start, BUSY), until);
        assert!(dials(&mut course, start, BUSY).is_empty());
        assert!(course.is_over(until, BUSY) && !course.is_over(start, BUSY) && course.is_over(start, IDLE));
    }

    #[test]
    fn a_resume_to_a_better_path_that_stays_open_is_followed_by_another() {
        let start = clock::now();
        let mut course = Course::of_improvement(pacer(start), start, start + Duration::from_secs(5));
        course.handle_resume_sent(Epoch::new(2), Duration::ZERO, start);
        assert!(!dials(&mut course, start, BUSY).is_empty());
        course.handle_answered(Epoch::new(2), None, start);
        assert!(dials(&mut course, start + Duration::from_secs(10), IDLE).len() > 10);
    }
}
