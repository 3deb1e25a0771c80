//! Decides which carriers the client half dials to lead a session: in an outage, and on a better path than the lead's. No I/O.
//!
//! The driver reports the session's paths and what its dials lead to, and does what [`Redial::poll`] says until there is
//! nothing left to do. Paths are numbered as in the ranks that it passes: the first is the one that worked last.

use super::Accepted;
use super::dial_race::{DialProgress, DialRace, MAX_DIALS};
use super::path_monitor::DialRequest;
use super::path_upgrade::{PathUpgrade, UPGRADE_TIMEOUT};
use crate::session::RedialPacer;
use crate::wire::{Answer, Epoch, Refusal};
use std::time::{Duration, Instant};

/// Attempts per set of sockets. A NAT or firewall may block a flow by its source port.
const ATTEMPTS_PER_SOCKET: usize = 16;

/// The dials of one session, while it exists.
pub struct Redial {
    seed: u64,
    request: DialRequest,
    /// The rank of the latest lead; the least is the best.
    lead: Option<u8>,
    path_upgrade: PathUpgrade,
    race: Option<Race>,
}

/// The dials of one outage, or of one attempt to upgrade.
struct Race {
    dial_race: DialRace,
    attempts: usize,
    /// `None` in an outage.
    upgrade: Option<Upgrade>,
}

struct Upgrade {
    /// The rank of the lead that is to be replaced.
    from: u8,
    /// The better paths; empty once they are dialed.
    paths: Vec<usize>,
    /// A better path leads.
    is_done: bool,
}

/// What the driver does next.
#[derive(Debug, PartialEq, Eq)]
pub enum RedialAction {
    /// Dials begin. In an outage, look all addresses up again beside the dials.
    Begin {
        /// Whether to look them up.
        resolves: bool,
    },
    /// Dial these paths.
    Dial {
        /// Their numbers.
        paths: Vec<usize>,
        /// Whether to open new UDP sockets before.
        renews_sockets: bool,
    },
    /// Send `Resume` on the newest completed handshake.
    Resume,
    /// Abort all dials.
    End {
        /// Whether the session has switched to a better path.
        upgraded: bool,
    },
}

/// What follows from the answer to a `Resume`.
#[derive(Debug)]
pub enum Resumed {
    /// The carrier becomes the lead.
    Lead(Accepted),
    /// The peer no longer has the session or refuses it permanently.
    Lost(Refusal),
    /// Not resumed yet: the dials go on.
    NotYet,
}

impl Redial {
    /// Which of the dials in progress to abort for a new one, counted from the oldest; `None` while there is room.
    pub fn dial_to_abort(in_progress: usize) -> Option<usize> {
        DialRace::dial_to_abort(in_progress)
    }

    /// For a session that begins. `seed`: random, so that many clients do not dial in step.
    pub fn new(seed: u64, now: Instant) -> Redial {
        Redial {
            seed,
            request: DialRequest::None,
            lead: None,
            path_upgrade: PathUpgrade::new(now),
            race: None,
        }
    }

    /// The lead or the dial request may have changed. `lead`: the rank of the lead's path.
    pub fn handle_paths(&mut self, lead: Option<u8>, request: DialRequest, now: Instant) {
        self.lead = lead.or(self.lead);
        self.request = request;
        if let Some(race) = &mut self.race {
            race.dial_race.handle_request(request, now);
        }
    }

    /// The peer refused a dial because it has too many of them.
    pub fn handle_refused(&mut self, now: Instant) {
        if let Some(race) = &mut self.race {
            race.dial_race.handle_refused(now);
        }
    }

    /// Something arrived from the peer, but no dial has completed.
    pub fn handle_heard(&mut self, now: Instant) {
        if let Some(race) = &mut self.race {
            race.dial_race.handle_heard(now);
        }
    }

    /// A `Resume` was sent on a path with this round-trip time.
    pub fn handle_resume_sent(&mut self, epoch: Epoch, rtt: Duration, now: Instant) {
        if let Some(race) = &mut self.race {
            race.dial_race.handle_resume_sent(epoch, rtt, now);
        }
    }

    /// A `Resume` on a path of this rank was answered. `answer` is `None` if the carrier was lost before the answer.
    pub fn handle_answered(&mut self, epoch: Epoch, rank: u8, answer: Option<Answer>, now: Instant) -> Resumed {
        let Some(race) = &mut self.race else {
            return Resumed::NotYet;
        };
        race.dial_race.handle_answered(epoch, answer.as_ref(), now);
        match answer {
            Some(Answer::Accepted(accepted)) => {
                if let Some(upgrade) = &mut race.upgrade {
                    upgrade.is_done = rank < upgrade.from;
                }
                Resumed::Lead(Accepted {
                    epoch,
                    received: accepted.received,
                    window: accepted.window,
                })
            }
            Some(Answer::Refused(refusal)) if refusal.code.is_final() => Resumed::Lost(refusal),
            _ => Resumed::NotYet,
        }
    }

    /// What to do now, if anything. `ranks`: of all paths, in the order in which they are preferred.
    pub fn poll(&mut self, ranks: &[u8], progress: DialProgress, now: Instant) -> Option<RedialAction> {
        let Some(race) = &mut self.race else {
            return self.begin(ranks, now);
        };
        if let Some(upgrade) = race.upgrade.as_mut().filter(|upgrade| !upgrade.paths.is_empty()) {
            return Some(RedialAction::Dial {
                paths: std::mem::take(&mut upgrade.paths),
                renews_sockets: true,
            });
        }
        if race.dial_race.is_over(now, progress) {
            return Some(self.end(now));
        }
        if progress.ready && race.dial_race.may_resume(now) {
            return Some(RedialAction::Resume);
        }
        if !race.dial_race.poll_attempt(now, progress) {
            return None;
        }
        let attempt = race.attempts;
        race.attempts += 1;
        Some(RedialAction::Dial {
            paths: race.dial_race.paths_to_dial(attempt, ranks, now).collect(),
            renews_sockets: attempt.is_multiple_of(ATTEMPTS_PER_SOCKET),
        })
    }

    /// When to call [`Redial::poll`] next, if nothing happens before; `None` while there is nothing to wait for.
    pub fn poll_timeout(&self, ranks: &[u8], progress: DialProgress, now: Instant) -> Option<Instant> {
        match &self.race {
            Some(race) => Some(race.dial_race.poll_timeout(now, progress)),
            None => self.better_path(ranks).map(|_| self.path_upgrade.due()),
        }
    }

    fn begin(&mut self, ranks: &[u8], now: Instant) -> Option<RedialAction> {
        if let Some(rank) = self.lead {
            self.path_upgrade.handle_lead(rank, now);
        }
        let (dial_race, upgrade) = if self.request != DialRequest::None {
            self.path_upgrade.handle_outage(now);
            let pacer = self.pacer(self.request.is_urgent(), now);
            (DialRace::for_outage(pacer, self.request, now), None)
        } else {
            let from = self.better_path(ranks).filter(|_| self.path_upgrade.due() <= now)?;
            let better = ranks.iter().enumerate().filter(|(_, rank)| **rank < from);
            let upgrade = Upgrade {
                from,
                paths: better.map(|(path, _)| path).take(MAX_DIALS).collect(),
                is_done: false,
            };
            let pacer = self.pacer(false, now);
            (DialRace::for_upgrade(pacer, now, now + UPGRADE_TIMEOUT), Some(upgrade))
        };
        let resolves = upgrade.is_none();
        self.race = Some(Race {
            dial_race,
            attempts: 0,
            upgrade,
        });
        Some(RedialAction::Begin { resolves })
    }

    fn end(&mut self, now: Instant) -> RedialAction {
        let upgrade = self.race.take().and_then(|race| race.upgrade);
        let upgraded = upgrade.as_ref().is_some_and(|upgrade| upgrade.is_done);
        if upgraded {
            self.path_upgrade.handle_taken(now);
        } else if upgrade.is_some() {
            self.path_upgrade.handle_failed(now);
        }
        RedialAction::End { upgraded }
    }

    /// The lead's rank, if there is a path of a better kind.
    fn better_path(&self, ranks: &[u8]) -> Option<u8> {
        self.lead.filter(|lead| ranks.iter().any(|rank| rank < lead))
    }

    fn pacer(&mut self, is_urgent: bool, now: Instant) -> RedialPacer {
        // The step of a Weyl sequence: each race draws other numbers.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        RedialPacer::new(now, is_urgent, self.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tools as clock;
    use crate::wire::{self, RefusalCode};

    const REQUEST: DialRequest = DialRequest::Dial {
        peer_reachable: false,
        is_urgent: true,
        restarts: 1,
        network_changes: 0,
    };
    /// The path that worked last is not of the best kind.
    const RANKS: [u8; 4] = [1, 0, 4, 0];

    /// With a lead on the first of [`RANKS`].
    fn redial(now: Instant) -> Redial {
        let mut redial = Redial::new(1, now);
        redial.handle_paths(Some(RANKS[0]), DialRequest::None, now);
        redial
    }

    /// The actions up to the time when there is nothing to do, which becomes the time.
    fn actions(redial: &mut Redial, now: &mut Instant, progress: DialProgress) -> Vec<RedialAction> {
        let due = redial.poll_timeout(&RANKS, progress, *now);
        *now = due.map_or(*now, |due| due.max(*now));
        std::iter::from_fn(|| redial.poll(&RANKS, progress, *now))
            .take(9)
            .collect()
    }

    fn accepted() -> Option<Answer> {
        Some(Answer::Accepted(wire::Accepted {
            received: Default::default(),
            window: 7,
            ttl: 0,
            key: None,
        }))
    }

    #[test]
    fn an_outage_looks_addresses_up_and_opens_new_sockets_every_16_attempts() {
        let mut now = clock::now();
        let mut redial = redial(now);
        redial.handle_paths(None, REQUEST, now);
        assert_eq!(
            redial.poll(&RANKS, DialProgress::IDLE, now),
            Some(RedialAction::Begin { resolves: true })
        );
        let mut renewals = Vec::new();
        for attempt in 0..40 {
            let action = actions(&mut redial, &mut now, DialProgress::BUSY).pop();
            let Some(RedialAction::Dial { paths, renews_sockets }) = action else {
                panic!("attempt {attempt}: {action:?}");
            };
            assert_eq!((paths.len(), paths[0]), (2, 0));
            renewals.extend(renews_sockets.then_some(attempt));
        }
        assert_eq!(renewals, [0, 16, 32]);
        redial.handle_paths(None, DialRequest::None, now);
        assert_eq!(
            redial.poll(&RANKS, DialProgress::BUSY, now),
            Some(RedialAction::End { upgraded: false })
        );
    }

    #[test]
    fn every_better_path_is_dialed_at_once_and_no_addresses_are_looked_up() {
        let mut now = clock::now();
        let mut redial = redial(now);
        assert_eq!(redial.poll(&RANKS, DialProgress::IDLE, now), None);
        let dials = RedialAction::Dial {
            paths: vec![1, 3],
            renews_sockets: true,
        };
        let begin = RedialAction::Begin { resolves: false };
        assert_eq!(
            redial.poll_timeout(&RANKS[..1], DialProgress::IDLE, now),
            None,
            "no better path"
        );
        now = redial
            .poll_timeout(&RANKS, DialProgress::IDLE, now)
            .expect("an attempt");
        assert_eq!(redial.poll(&RANKS, DialProgress::BUSY, now), Some(begin));
        assert_eq!(redial.poll(&RANKS, DialProgress::BUSY, now), Some(dials));
        assert_eq!(redial.poll(&RANKS, DialProgress::BUSY, now), None);
        let ready = DialProgress {
            ready: true,
            ..DialProgress::BUSY
        };
        assert_eq!(redial.poll(&RANKS, ready, now), Some(RedialAction::Resume));
        redial.handle_resume_sent(Epoch::new(2), Duration::ZERO, now);
        assert_eq!(redial.poll(&RANKS, ready, now), None, "one resume at a time");
        let resumed = redial.handle_answered(Epoch::new(2), RANKS[1], accepted(), now);
        assert!(matches!(resumed, Resumed::Lead(Accepted { window: 7, .. })));
        assert_eq!(
            redial.poll(&RANKS, DialProgress::BUSY, now),
            Some(RedialAction::End { upgraded: true })
        );
    }

    #[test]
    fn an_outage_that_interrupts_an_upgrade_is_no_upgrade_if_it_ends_on_another_path() {
        let mut now = clock::now();
        let mut redial = redial(now);
        now = redial
            .poll_timeout(&RANKS, DialProgress::IDLE, now)
            .expect("an attempt");
        assert_eq!(
            std::iter::from_fn(|| redial.poll(&RANKS, DialProgress::BUSY, now)).count(),
            2
        );
        redial.handle_paths(None, REQUEST, now);
        let attempt = actions(&mut redial, &mut now, DialProgress::BUSY).pop();
        assert!(matches!(attempt, Some(RedialAction::Dial { ref paths, renews_sockets: true }) if paths[0] == 0));
        redial.handle_resume_sent(Epoch::new(2), Duration::ZERO, now);
        redial.handle_answered(Epoch::new(2), RANKS[0], accepted(), now);
        redial.handle_paths(Some(RANKS[0]), DialRequest::None, now);
        assert_eq!(
            redial.poll(&RANKS, DialProgress::BUSY, now),
            Some(RedialAction::End { upgraded: false })
        );
    }

    #[test]
    fn only_a_final_refusal_ends_the_session() {
        let now = clock::now();
        for (code, is_final) in [
            (RefusalCode::Gone, true),
            (RefusalCode::RetryLater, false),
            (RefusalCode::Stale, false),
        ] {
            let mut redial = redial(now);
            redial.handle_paths(None, REQUEST, now);
            redial.poll(&RANKS, DialProgress::IDLE, now);
            redial.handle_resume_sent(Epoch::new(2), Duration::ZERO, now);
            let message = "".into();
            let refused = Some(Answer::Refused(Refusal { code, message }));
            let resumed = redial.handle_answered(Epoch::new(2), RANKS[0], refused, now);
            assert_eq!(matches!(resumed, Resumed::Lost(_)), is_final, "{code:?}");
        }
    }
}
