//! Brings a running session fresh carriers when its lead is lost or under suspicion.
//!
//! Always a new connection beside the old one: QUIC's own probe timeout backs off for tens of seconds in a hole,
//! a new handshake takes a round trip. Handshakes are raced; `Resume` goes on the first to finish, and on another
//! only once that one is slow to answer. Now and then, where the lead is not of the best kind, a better one is tried.

mod course;

use self::course::{AtHand, Course};
use super::dialer::Dialer;
use super::improvement::Improvement;
use super::paths::Paths;
use crate::carrier::{Carrier, CarrierError, Dialed, Path, Rank};
use crate::clock;
use crate::identity::raw_key::ServerKey;
use crate::pump::{Arrival, Epochs, Facts, Need, Order};
use crate::session::RedialPacer;
use crate::wire::{Accepted, Answer, DecodeError, Epoch, Hello, Resume, SessionId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info};

/// Dials under way at once. At 150 ms between attempts, two each, twelve cover dials that take 900 ms: a round trip of as
/// much on a direct path, a third of it by way of a relay.
const IN_FLIGHT: usize = 12;
/// Of these the oldest are left alone, so that even the slowest path gets one through.
const PATIENT: usize = 4;
/// Longest that one dial, and one resume, may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest that a better path may take; meanwhile the lead does its work.
const IMPROVEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts from one socket. Something between the ends may have taken a dislike to a port.
const ATTEMPTS_PER_SOCKET: usize = 16;

/// Redials one session for as long as it lives.
pub(super) struct Redialer {
    pub(super) session: SessionId,
    pub(super) dialer: Dialer,
    pub(super) server_key: Vec<u8>,
    pub(super) paths: Paths,
    pub(super) improvement: Improvement,
    pub(super) epochs: Arc<Epochs>,
    pub(super) facts: Arc<Facts>,
    pub(super) arrivals: mpsc::Sender<Box<Arrival>>,
    pub(super) orders: mpsc::Sender<Order>,
}

impl Redialer {
    /// Runs until the session is gone.
    pub(super) async fn run(mut self, mut need: watch::Receiver<Need>) {
        let mut roster = self.facts.roster();
        let mut best = Rank::Direct;
        loop {
            let rank = roster.borrow_and_update().lead.as_ref().map_or(best, |lead| lead.rank);
            if rank > best {
                // A carrier that stood by has taken the place of a better one.
                self.improvement.handle_outage(clock::now());
            }
            best = rank;
            let better = self.paths.better_than(rank);
            let needed = tokio::select! {
                biased;
                needed = need.wait_for(|need| *need != Need::Nothing) => needed.map(|need| *need).ok(),
                changed = roster.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => None,
                },
                () = clock::sleep_until(self.improvement.due()), if !better.is_empty() => Some(Need::Nothing),
            };
            let settled = match needed {
                Some(Need::Nothing) => self.improve(&better, &mut need).await,
                Some(needed) => self.recover(needed, &mut need).await,
                None => None,
            };
            if settled.is_none() {
                return;
            }
        }
    }

    /// `None` when the session is gone.
    async fn recover(&mut self, needed: Need, need: &mut watch::Receiver<Need>) -> Option<Settled> {
        self.improvement.handle_outage(clock::now());
        let paths = self.paths.clone();
        let mut outage = Outage::new(
            self,
            Course::of_outage(pacer(needed.is_waited_for()), needed, clock::now()),
        );
        tokio::select! {
            ended = outage.run(need) => ended,
            // Looking the name up again is a side line; it must not hold up a dial.
            never = async { paths.refresh().await; std::future::pending().await } => never,
        }
    }

    /// Tries to lead by a better path. The lead goes on until that one does.
    async fn improve(&mut self, better: &[Path], need: &mut watch::Receiver<Need>) -> Option<Settled> {
        let mut outage = Outage::none(self, better);
        let settled = outage.run(need).await;
        let (now, taken) = (clock::now(), outage.taken.take());
        match taken.filter(|path| better.contains(path)) {
            Some(path) => {
                info!(event = "improved", %path, "session has a better path");
                self.improvement.handle_taken(now);
            }
            None => self.improvement.handle_failed(now),
        }
        settled
    }

    fn resume(&mut self) -> Resume {
        let (received, window) = self.facts.room();
        Resume {
            session: self.session,
            epoch: self.epochs.next(),
            received,
            window,
        }
    }
}

/// One outage, or one suspicion; or none, while a better path is tried.
struct Outage<'a> {
    redialer: &'a mut Redialer,
    course: Course,
    steps: JoinSet<Step>,
    dials: VecDeque<AbortHandle>,
    ready: VecDeque<(Dialed, Path)>,
    /// Where the latest carrier goes that was handed to the pump.
    taken: Option<Path>,
    attempts: usize,
}

/// What came of a task.
enum Step {
    Dialed(Box<Result<Dialed, String>>, Path),
    Answered(Box<Result<(Carrier, Answer), CarrierError>>, Epoch, Path),
}

/// The session has what it needs, or is gone.
struct Settled;

impl<'a> Outage<'a> {
    fn new(redialer: &'a mut Redialer, course: Course) -> Outage<'a> {
        Outage {
            redialer,
            course,
            steps: JoinSet::new(),
            dials: VecDeque::new(),
            ready: VecDeque::new(),
            taken: None,
            attempts: 0,
        }
    }

    /// Nothing is wrong, but there are better paths.
    fn none(redialer: &'a mut Redialer, better: &[Path]) -> Outage<'a> {
        let until = clock::now() + IMPROVEMENT_TIMEOUT;
        let mut outage = Outage::new(redialer, Course::of_improvement(pacer(false), clock::now(), until));
        outage.redialer.dialer.renew();
        better
            .iter()
            .take(IN_FLIGHT)
            .for_each(|path| outage.dial_one(path.clone()));
        outage
    }

    /// `None` when the session is gone.
    async fn run(&mut self, need: &mut watch::Receiver<Need>) -> Option<Settled> {
        loop {
            if self.course.is_over(clock::now(), self.at_hand()) {
                return Some(Settled);
            }
            self.resume_next();
            let wake = self.course.poll_timeout(clock::now(), self.at_hand());
            tokio::select! {
                changed = need.changed() => {
                    changed.ok()?;
                    let now_needed = *need.borrow_and_update();
                    self.course.handle_need(now_needed, clock::now());
                }
                Some(step) = self.steps.join_next() => match step {
                    Ok(Step::Dialed(dialed, path)) => self.handle_dialed(*dialed, path),
                    Ok(Step::Answered(answered, epoch, path)) => self.handle_answered(*answered, epoch, path).await?,
                    // A dial that was given up for a newer one.
                    Err(_) => {}
                },
                () = clock::sleep_until(wake) => {
                    let at_hand = self.at_hand();
                    if self.course.poll_attempt(clock::now(), at_hand) {
                        self.dial();
                    }
                }
            }
        }
    }

    fn at_hand(&self) -> AtHand {
        AtHand {
            ready: !self.ready.is_empty(),
            running: !self.steps.is_empty(),
        }
    }

    /// The path that worked last, and beside it one of the others in turn: a host that moved, or UDP that is blocked, is
    /// found as well.
    fn dial(&mut self) {
        if self.attempts.is_multiple_of(ATTEMPTS_PER_SOCKET) {
            self.redialer.dialer.renew();
        }
        let mut paths = self.redialer.paths.all();
        let Some((best, others)) = paths.split_first_mut() else {
            return;
        };
        // What was as good as the lead is as likely to be well: another relay, if it was one.
        others.sort_by_key(|other| (other.rank() as u8).abs_diff(best.rank() as u8));
        self.dial_one(best.clone());
        if let Some(other) = others.get(self.attempts.checked_rem(others.len()).unwrap_or(0)) {
            self.dial_one(other.clone());
        }
        self.attempts += 1;
    }

    fn dial_one(&mut self, path: Path) {
        self.dials.retain(|dial| !dial.is_finished());
        if self.dials.len() >= IN_FLIGHT
            && let Some(given_up) = self.dials.remove(PATIENT)
        {
            given_up.abort();
        }
        let accept = ServerKey::Exactly(self.redialer.server_key.clone());
        let dialing = self.redialer.dialer.dial(&path, accept);
        self.dials.push_back(self.steps.spawn(async move {
            let dialed = match timeout(DIAL_TIMEOUT, dialing).await {
                Ok(dialed) => dialed.map_err(|error| error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            };
            Step::Dialed(Box::new(dialed), path)
        }));
    }

    fn handle_dialed(&mut self, dialed: Result<Dialed, String>, path: Path) {
        match dialed {
            Ok(dialed) => self.ready.push_back((dialed, path)),
            Err(error) => debug!(%path, error, "dial failed"),
        }
    }

    /// Sends `Resume` on the freshest finished handshake, unless an earlier one may still be answered.
    fn resume_next(&mut self) {
        let now = clock::now();
        if !self.course.may_resume(now) {
            return;
        }
        let Some((dialed, path)) = self.ready.pop_back() else {
            return;
        };
        let rtt = dialed.carrier().rtt().unwrap_or_default();
        let resume = self.redialer.resume();
        self.course.handle_resume_sent(resume.epoch, rtt, now);
        self.steps.spawn(async move {
            let hello = Hello::Resume(resume);
            let answered = timeout(DIAL_TIMEOUT, dialed.ask(&hello)).await;
            let answered = answered.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
            Step::Answered(Box::new(answered), resume.epoch, path)
        });
    }

    /// `None` when the session is gone for good.
    async fn handle_answered(
        &mut self,
        answered: Result<(Carrier, Answer), CarrierError>,
        epoch: Epoch,
        path: Path,
    ) -> Option<()> {
        let answer = answered.as_ref().ok().map(|(_, answer)| answer);
        self.course.handle_answered(epoch, answer, clock::now());
        match answered {
            Ok((carrier, Answer::Accepted(accepted))) => {
                self.redialer.paths.prefer(path.clone());
                self.taken = Some(path);
                self.deliver(carrier, accepted, epoch).await
            }
            Ok((_, Answer::Refused(refusal))) if refusal.code.is_final() => {
                info!(event = "refused", %refusal, "the server half will not resume the session");
                self.redialer.orders.send(Order::Lost(refusal.to_string())).await.ok()?;
                None
            }
            Ok((_, Answer::Refused(refusal))) => {
                debug!(%refusal, "not resumed yet");
                Some(())
            }
            Ok((_, Answer::Standing | Answer::Probed(_) | Answer::Reaped | Answer::Asking | Answer::KeyOk(_))) => {
                let error = CarrierError::Protocol(DecodeError::UnknownType {
                    what: "answer to a resume",
                    value: 0,
                });
                debug!(%error, "not resumed");
                Some(())
            }
            Err(error) => {
                debug!(%error, "carrier lost before its answer");
                Some(())
            }
        }
    }

    async fn deliver(&mut self, carrier: Carrier, accepted: Accepted, epoch: Epoch) -> Option<()> {
        let arrival = Arrival {
            carrier,
            epoch,
            peer_received: accepted.received,
            peer_window: accepted.window,
            first: Bytes::new(),
        };
        self.redialer.arrivals.send(Box::new(arrival)).await.ok()
    }
}

fn pacer(waited_for: bool) -> RedialPacer {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).expect("the system gives random bytes");
    RedialPacer::new(clock::now(), waited_for, u64::from_ne_bytes(seed))
}
