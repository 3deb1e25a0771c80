//! Decides when to dial, when to send `Resume`, and when a race of dials is over. No I/O.

use super::path_monitor::DialRequest;
use crate::session::RedialPacer;
use crate::wire::{Answer, Epoch};
use std::time::{Duration, Instant};

/// Most concurrent dials. At 150 ms between attempts and two dials per attempt, twelve cover dials of 900 ms: one
/// round trip of a direct path, or three through a relay of 300 ms each.
pub(super) const MAX_DIALS: usize = 12;
/// The oldest dials are never aborted for newer ones, so that even the slowest path completes.
const PROTECTED_DIALS: usize = 4;
/// While the peer refuses dials, one attempt in this many also dials another path.
const REFUSED_ATTEMPTS_PER_OTHER: usize = 4;
/// Limit for one dial, and for one resume.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// After this time, or three round trips, an unanswered resume no longer blocks the next one.
pub const RESUME_TIMEOUT: Duration = Duration::from_millis(400);

/// The race in which a session opens: the numbers of the paths with these ranks, in the order in which they are dialed, and how
/// many of them start at once. The first path worked last. If it is not of the best kind, the best path starts together with
/// it.
pub fn opening_order(ranks: &[u8]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    match order.iter().copied().min_by_key(|path| ranks[*path]) {
        Some(best @ 1..) => {
            order[1..=best].rotate_right(1);
            (order, 2)
        }
        _ => (order, 1),
    }
}

/// The state of one race. The driver starts and aborts the dials.
pub(super) struct DialRace {
    pacer: RedialPacer,
    restarts: u32,
    network_changes: u32,
    /// The peer's host itself closed the lead.
    heard_from_peer: bool,
    pending: PendingResumes,
    /// No carrier is needed, or no longer.
    cancelled: bool,
    /// Deadline of an upgrade attempt, while the lead is healthy.
    upgrade_until: Option<Instant>,
    resume_until: Option<Instant>,
}

/// What the driver has in progress.
#[derive(Clone, Copy)]
pub struct DialProgress {
    /// Whether a completed handshake waits for its `Resume`.
    pub ready: bool,
    /// Whether a dial or a resume is in progress.
    pub running: bool,
}

#[cfg(test)]
impl DialProgress {
    /// Nothing is in progress.
    pub(super) const IDLE: DialProgress = DialProgress {
        ready: false,
        running: false,
    };
    /// No dial has completed.
    pub(super) const BUSY: DialProgress = DialProgress {
        ready: false,
        running: true,
    };
}

impl DialRace {
    /// For an outage or a suspected one: runs until no carrier is needed.
    pub(super) fn for_outage(pacer: RedialPacer, request: DialRequest, now: Instant) -> DialRace {
        let mut dial_race = DialRace {
            pacer,
            restarts: request.restarts(),
            network_changes: request.network_changes(),
            heard_from_peer: false,
            pending: PendingResumes::default(),
            cancelled: false,
            upgrade_until: None,
            resume_until: None,
        };
        dial_race.handle_request(request, now);
        dial_race
    }

    /// For an upgrade while the lead is healthy: runs while dials run, at most until `until`.
    pub(super) fn for_upgrade(pacer: RedialPacer, now: Instant, until: Instant) -> DialRace {
        DialRace {
            upgrade_until: Some(until),
            ..DialRace::for_outage(pacer, DialRequest::None, now)
        }
    }

    /// See [`Redial::dial_to_abort`](super::Redial::dial_to_abort).
    pub(super) fn dial_to_abort(in_progress: usize) -> Option<usize> {
        (in_progress >= MAX_DIALS).then_some(PROTECTED_DIALS)
    }

    /// Which paths to dial at the attempt with this number, given the ranks of all: the first, which worked last, and in turn
    /// one of the others, so that a host with a new address or a network without UDP is covered as well. Among the others,
    /// paths of a kind like the first come first, for example another relay.
    pub(super) fn paths_to_dial(
        &self,
        attempt: usize,
        ranks: &[u8],
        now: Instant,
    ) -> impl Iterator<Item = usize> + use<> {
        let first = ranks.first().copied();
        let mut others: Vec<usize> = (1..ranks.len()).collect();
        others.sort_by_key(|other| ranks[*other].abs_diff(ranks[0]));
        // The other paths lead to the same peer.
        let interval = if self.pacer.is_refused(now) {
            REFUSED_ATTEMPTS_PER_OTHER
        } else {
            1
        };
        let turn = attempt / interval;
        let other = others.get(turn.checked_rem(others.len()).unwrap_or(0)).copied();
        let other = other.filter(|_| attempt.is_multiple_of(interval));
        first.map(|_| 0).into_iter().chain(other)
    }

    /// Whether no carrier is needed and no resume is pending.
    pub(super) fn is_over(&self, now: Instant, progress: DialProgress) -> bool {
        self.cancelled && self.pending.is_empty() && !self.is_upgrading(now, progress)
    }

    /// When to call [`DialRace::poll_attempt`] and [`DialRace::may_resume`] next. They make progress or end the race,
    /// so the timeout never stays in the past.
    pub(super) fn poll_timeout(&self, now: Instant, progress: DialProgress) -> Instant {
        let improving = self.upgrade_until.filter(|_| self.is_upgrading(now, progress));
        let attempt = improving.unwrap_or_else(|| self.pacer.poll_timeout());
        match self.resume_until.filter(|_| progress.ready) {
            Some(until) => attempt.min(until),
            None => attempt,
        }
    }

    /// Whether to dial now. A cancelled race continues to dial while a resume may have been accepted without our
    /// knowledge.
    pub(super) fn poll_attempt(&mut self, now: Instant, progress: DialProgress) -> bool {
        !self.is_upgrading(now, progress) && !self.is_over(now, progress) && self.pacer.poll_attempt(now)
    }

    /// Whether no earlier resume is still waiting for its answer.
    pub(super) fn may_resume(&self, now: Instant) -> bool {
        self.resume_until.is_none_or(|until| now >= until)
    }

    /// The connection wants something else of the dialer.
    pub(super) fn handle_request(&mut self, request: DialRequest, now: Instant) {
        self.cancelled = request == DialRequest::None;
        if !self.cancelled {
            self.upgrade_until = None;
        }
        let DialRequest::Dial {
            peer_reachable,
            restarts,
            network_changes,
            ..
        } = request
        else {
            return;
        };
        if peer_reachable != self.heard_from_peer {
            self.heard_from_peer = peer_reachable;
            self.pacer.set_peer_heard(peer_reachable.then_some(now));
        }
        if network_changes != self.network_changes {
            self.network_changes = network_changes;
            // On another network nothing is known about the peer.
            self.pacer.set_peer_heard(None);
        }
        if restarts != self.restarts {
            self.restarts = restarts;
            self.pacer.restart(now);
        }
    }

    /// The peer refused a dial because it has too many of them.
    pub(super) fn handle_refused(&mut self, now: Instant) {
        self.pacer.handle_refused(now);
    }

    /// Something arrived from the peer, but no dial has completed.
    pub(super) fn handle_heard(&mut self, now: Instant) {
        self.pacer.handle_heard(now);
    }

    /// A `Resume` was sent on a path with this round-trip time.
    pub(super) fn handle_resume_sent(&mut self, epoch: Epoch, rtt: Duration, now: Instant) {
        self.resume_until = Some(now + RESUME_TIMEOUT.max(rtt * 3));
        self.pending.handle_sent(epoch);
    }

    /// A `Resume` was answered. `answer` is `None` if the carrier was lost before the answer.
    pub(super) fn handle_answered(&mut self, epoch: Epoch, answer: Option<&Answer>, now: Instant) {
        self.pending.handle_answered(epoch, answer);
        let accepted = matches!(answer, Some(Answer::Accepted(_)));
        // After an `Accepted` the pump reports in a moment that it needs no other carrier.
        self.resume_until = accepted.then(|| now + RESUME_TIMEOUT);
        if accepted {
            self.upgrade_until = None;
        }
    }

    fn is_upgrading(&self, now: Instant, progress: DialProgress) -> bool {
        (progress.ready || progress.running) && self.upgrade_until.is_some_and(|until| now < until)
    }
}

/// Resumes after which the server half may have switched to their carrier.
///
/// A race must not end while there is one: the server half would send on a carrier that nobody reads, and the old
/// carrier, which still answers probes, would look healthy forever.
#[derive(Debug, Default)]
struct PendingResumes(Vec<Epoch>);

impl PendingResumes {
    fn handle_sent(&mut self, epoch: Epoch) {
        self.0.push(epoch);
    }

    /// `answer` is `None` if the carrier was lost before the answer: then the resume may have arrived, until a later
    /// one is accepted.
    fn handle_answered(&mut self, epoch: Epoch, answer: Option<&Answer>) {
        match answer {
            Some(Answer::Accepted(_)) => self.0.retain(|sent| *sent > epoch),
            Some(
                Answer::Refused(_)
                | Answer::Standing
                | Answer::Probed(_)
                | Answer::Reaped
                | Answer::Asking(_)
                | Answer::KeyOk(_),
            ) => self.0.retain(|sent| *sent != epoch),
            None => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tools as clock;
    use crate::wire::{Accepted, Refusal, RefusalCode};

    fn pending(epochs: &[u32]) -> PendingResumes {
        let mut pending = PendingResumes::default();
        epochs.iter().for_each(|epoch| pending.handle_sent(Epoch::new(*epoch)));
        pending
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
        let mut pending = pending(&[2]);
        assert!(!pending.is_empty());
        pending.handle_answered(Epoch::new(2), None);
        assert!(!pending.is_empty(), "lost before its answer: it may have arrived");
        pending.handle_sent(Epoch::new(3));
        pending.handle_answered(Epoch::new(3), Some(&accepted()));
        assert!(pending.is_empty(), "the later one leads on both sides");
    }

    #[test]
    fn an_accepted_resume_does_not_settle_a_later_one() {
        let mut pending = pending(&[2, 3]);
        pending.handle_answered(Epoch::new(2), Some(&accepted()));
        assert!(!pending.is_empty());
        let refused = Answer::Refused(Refusal {
            code: RefusalCode::RetryLater,
            message: "".into(),
        });
        pending.handle_answered(Epoch::new(3), Some(&refused));
        assert!(pending.is_empty());
    }

    #[test]
    fn a_session_opens_on_the_path_that_worked_last_beside_the_first_of_the_best_kind() {
        assert_eq!(opening_order(&[2, 1, 0, 3, 0]), (vec![0, 2, 1, 3, 4], 2));
        assert_eq!(opening_order(&[0, 1, 0]), (vec![0, 1, 2], 1));
        assert_eq!(opening_order(&[]), (vec![], 1));
    }

    #[test]
    fn every_path_has_its_turn_beside_the_one_that_worked_last() {
        let start = clock::now();
        let mut race = DialRace::for_outage(pacer(start), REQUEST, start);
        let dialed = |attempt| race.paths_to_dial(attempt, &[3, 0, 4], start).collect::<Vec<_>>();
        assert_eq!([dialed(0), dialed(1), dialed(2)], [[0, 2], [0, 1], [0, 2]]);
        assert_eq!(race.paths_to_dial(7, &[3], start).collect::<Vec<_>>(), [0]);
        assert_eq!(race.paths_to_dial(7, &[], start).count(), 0);
        race.handle_refused(start);
        let busy = (0..9).map(|attempt| race.paths_to_dial(attempt, &[3, 0, 4], start).collect::<Vec<_>>());
        let others: Vec<_> = busy.filter_map(|paths| paths.get(1).copied()).collect();
        assert_eq!(
            others,
            [2, 1, 2],
            "one attempt in four dials another path, each in turn"
        );
    }

    const REQUEST: DialRequest = DialRequest::Dial {
        peer_reachable: false,
        is_urgent: true,
        restarts: 0,
        network_changes: 0,
    };

    fn pacer(now: Instant) -> RedialPacer {
        RedialPacer::new(now, true, 1)
    }

    /// Drives a race without answers for ten seconds, as its driver does; returns the times of its dials.
    fn dials(dial_race: &mut DialRace, mut now: Instant, progress: DialProgress) -> Vec<Instant> {
        let end = now + Duration::from_secs(10);
        let mut dials = vec![];
        for _ in 0..1000 {
            if dial_race.is_over(now, progress) || now >= end {
                return dials;
            }
            now = now.max(dial_race.poll_timeout(now, progress));
            if dial_race.poll_attempt(now, progress) {
                dials.push(now);
            }
        }
        panic!("it stands still after {} dials", dials.len());
    }

    #[test]
    fn a_race_called_off_over_an_open_resume_dials_on_until_a_later_one_is_accepted() {
        let start = clock::now();
        for progress in [DialProgress::BUSY, DialProgress::IDLE] {
            let mut dial_race = DialRace::for_outage(pacer(start), REQUEST, start);
            dial_race.handle_resume_sent(Epoch::new(2), Duration::ZERO, start);
            dial_race.handle_request(DialRequest::None, start);
            assert!(!dial_race.is_over(start, progress));
            assert!(dials(&mut dial_race, start, progress).len() > 10);
            dial_race.handle_answered(Epoch::new(2), None, start);
            let later = start + Duration::from_secs(10);
            assert!(dials(&mut dial_race, later, progress).len() > 10, "it may have arrived");
            dial_race.handle_resume_sent(Epoch::new(3), Duration::ZERO, later);
            dial_race.handle_answered(Epoch::new(3), Some(&accepted()), later);
            assert!(dial_race.is_over(later, progress));
        }
    }

    #[test]
    fn a_host_that_was_heard_is_not_pressed_until_the_network_changes() {
        let start = clock::now();
        let heard = DialRequest::Dial {
            peer_reachable: true,
            is_urgent: true,
            restarts: 0,
            network_changes: 0,
        };
        let mut dial_race = DialRace::for_outage(pacer(start), heard, start);
        let busy = dials(&mut dial_race, start, DialProgress::BUSY).len();
        assert!(busy < 10, "{busy}");
        let later = start + Duration::from_secs(10);
        let mut dial_race = DialRace::for_outage(pacer(later), heard, later);
        dial_race.handle_request(REQUEST, later);
        assert!(dials(&mut dial_race, later, DialProgress::BUSY).len() > 50);
    }

    #[test]
    fn a_better_path_is_waited_for_and_not_dialled_again() {
        let start = clock::now();
        let until = start + Duration::from_secs(5);
        let mut dial_race = DialRace::for_upgrade(pacer(start), start, until);
        assert_eq!(dial_race.poll_timeout(start, DialProgress::BUSY), until);
        assert!(dials(&mut dial_race, start, DialProgress::BUSY).is_empty());
        assert!(
            dial_race.is_over(until, DialProgress::BUSY)
                && !dial_race.is_over(start, DialProgress::BUSY)
                && dial_race.is_over(start, DialProgress::IDLE)
        );
    }

    #[test]
    fn a_resume_to_a_better_path_that_stays_open_is_followed_by_another() {
        let start = clock::now();
        let mut dial_race = DialRace::for_upgrade(pacer(start), start, start + Duration::from_secs(5));
        dial_race.handle_resume_sent(Epoch::new(2), Duration::ZERO, start);
        assert!(!dials(&mut dial_race, start, DialProgress::BUSY).is_empty());
        dial_race.handle_answered(Epoch::new(2), None, start);
        assert!(dials(&mut dial_race, start + Duration::from_secs(10), DialProgress::IDLE).len() > 10);
    }
}
