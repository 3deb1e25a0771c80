//! Dials new carriers for a running session if its lead is lost or suspected to be lost.
//!
//! Dials new connections instead of waiting for the old one: during a loss of connectivity QUIC's probe timeout backs
//! off to tens of seconds, and a new handshake takes one round trip. Handshakes race; `Resume` is sent on the first
//! that completes, and on another one only if the answer is late. If the lead is not of the best kind, a better path
//! is tried at intervals.

use super::dialer::Dialer;
use super::paths::Paths;
use crate::carrier::{Carrier, CarrierError, DialError, Dialed, Path};
use crate::clock;
use crate::connection::{self, DIAL_TIMEOUT, DialProgress, DialRace, MAX_DIALS, PathUpgrade, UPGRADE_TIMEOUT};
use crate::identity::raw_key::ServerKey;
use crate::pump::{ActivePaths, DialRequest, Epochs, NewLead, PathEvent, SessionStats};
use crate::session::RedialPacer;
use crate::wire::{Accepted, Answer, DecodeError, Epoch, Hello, Resume, SessionId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, info};

/// Attempts per socket. A NAT or firewall may block a flow by its source port.
const DIALS_PER_SOCKET: usize = 16;

/// Redials one session while it exists.
pub(super) struct Redialer {
    pub(super) session: SessionId,
    pub(super) dialer: Dialer,
    pub(super) server_key: Vec<u8>,
    pub(super) paths: Paths,
    pub(super) path_upgrade: PathUpgrade,
    pub(super) epochs: Arc<Epochs>,
    pub(super) stats: Arc<SessionStats>,
    pub(super) path_events: mpsc::Sender<PathEvent>,
}

impl Redialer {
    /// Runs until the session ends.
    pub(super) async fn run(mut self) {
        let mut active = self.stats.active_paths();
        let mut better = Vec::new();
        loop {
            let ActivePaths { lead, dial_request, .. } = active.borrow_and_update().clone();
            if let Some(lead) = lead {
                self.path_upgrade.handle_lead(lead.rank as u8, clock::now());
                better = self.paths.better_than(lead.rank);
            }
            let finished = if dial_request == DialRequest::None {
                tokio::select! {
                    changed = active.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => None,
                    },
                    () = clock::sleep_until(self.path_upgrade.due()), if !better.is_empty() => {
                        self.upgrade(&better, &mut active).await
                    }
                }
            } else {
                self.recover(dial_request, &mut active).await
            };
            if finished.is_none() {
                return;
            }
        }
    }

    /// `None` if the session has ended.
    async fn recover(&mut self, requested: DialRequest, active: &mut watch::Receiver<ActivePaths>) -> Option<Finished> {
        self.path_upgrade.handle_outage(clock::now());
        let paths = self.paths.clone();
        let mut driver = DialDriver::new(
            self,
            DialRace::for_outage(pacer(requested.is_urgent()), requested, clock::now()),
        );
        tokio::select! {
            ended = driver.run(active) => ended,
            // The DNS lookup runs beside the dials and must not delay them.
            never = async { paths.refresh().await; std::future::pending().await } => never,
        }
    }

    /// Tries to switch to a better path. The lead stays active until the switch.
    async fn upgrade(&mut self, better: &[Path], active: &mut watch::Receiver<ActivePaths>) -> Option<Finished> {
        let mut driver = DialDriver::for_upgrade(self, better);
        let finished = driver.run(active).await;
        let (now, taken) = (clock::now(), driver.taken.take());
        match taken.filter(|path| better.contains(path)) {
            Some(path) => {
                info!(event = "path_upgraded", %path, "session switched to a better path");
                self.path_upgrade.handle_taken(now);
            }
            None => self.path_upgrade.handle_failed(now),
        }
        finished
    }

    fn resume(&mut self) -> Resume {
        let (received, window) = self.stats.room();
        Resume {
            session: self.session,
            epoch: self.epochs.next(),
            received,
            window,
        }
    }
}

/// Runs the dials of one outage, or of one upgrade attempt.
struct DialDriver<'a> {
    redialer: &'a mut Redialer,
    dial_race: DialRace,
    steps: JoinSet<Step>,
    dials: VecDeque<AbortHandle>,
    ready: VecDeque<(Dialed, Path)>,
    /// The path of the carrier that was handed to the pump last.
    taken: Option<Path>,
    attempts: usize,
    /// Set once anything arrives at a UDP socket of the dialer.
    heard: Arc<AtomicBool>,
}

/// The result of a task.
enum Step {
    /// The error is `None` if the peer did not answer in time.
    Dialed(Box<Result<Dialed, Option<DialError>>>, Path),
    Answered(Box<Result<(Carrier, Answer), CarrierError>>, Epoch, Path),
}

/// The session needs no more dials.
struct Finished;

impl<'a> DialDriver<'a> {
    fn new(redialer: &'a mut Redialer, dial_race: DialRace) -> DialDriver<'a> {
        let heard = redialer.dialer.heard();
        heard.store(false, Relaxed);
        DialDriver {
            redialer,
            dial_race,
            steps: JoinSet::new(),
            dials: VecDeque::new(),
            ready: VecDeque::new(),
            taken: None,
            attempts: 0,
            heard,
        }
    }

    /// For an upgrade attempt.
    fn for_upgrade(redialer: &'a mut Redialer, better: &[Path]) -> DialDriver<'a> {
        let until = clock::now() + UPGRADE_TIMEOUT;
        let mut driver = DialDriver::new(redialer, DialRace::for_upgrade(pacer(false), clock::now(), until));
        driver.redialer.dialer.renew_sockets();
        better
            .iter()
            .take(MAX_DIALS)
            .for_each(|path| driver.dial_one(path.clone()));
        driver
    }

    /// `None` if the session has ended.
    async fn run(&mut self, active: &mut watch::Receiver<ActivePaths>) -> Option<Finished> {
        loop {
            if self.dial_race.is_over(clock::now(), self.progress()) {
                return Some(Finished);
            }
            self.resume_next();
            let wake = self.dial_race.poll_timeout(clock::now(), self.progress());
            tokio::select! {
                changed = active.changed() => {
                    changed.ok()?;
                    let request = active.borrow_and_update().dial_request;
                    self.dial_race.handle_request(request, clock::now());
                }
                Some(step) = self.steps.join_next() => match step {
                    Ok(Step::Dialed(dialed, path)) => self.handle_dialed(*dialed, path),
                    Ok(Step::Answered(answered, epoch, path)) => self.handle_answered(*answered, epoch, path).await?,
                    // A dial that was aborted for a newer one.
                    Err(_) => {}
                },
                () = clock::sleep_until(wake) => {
                    if self.heard.swap(false, Relaxed) {
                        self.dial_race.handle_heard(clock::now());
                    }
                    let progress = self.progress();
                    if self.dial_race.poll_attempt(clock::now(), progress) {
                        self.dial();
                    }
                }
            }
        }
    }

    fn progress(&self) -> DialProgress {
        DialProgress {
            ready: !self.ready.is_empty(),
            running: !self.steps.is_empty(),
        }
    }

    fn dial(&mut self) {
        if self.attempts.is_multiple_of(DIALS_PER_SOCKET) {
            self.redialer.dialer.renew_sockets();
        }
        let paths = self.redialer.paths.all();
        let ranks: Vec<u8> = paths.iter().map(|path| path.rank() as u8).collect();
        for path in self
            .dial_race
            .paths_to_dial(self.attempts, &ranks, clock::now())
            .filter_map(|index| paths.get(index))
        {
            self.dial_one(path.clone());
        }
        self.attempts += 1;
    }

    fn dial_one(&mut self, path: Path) {
        self.dials.retain(|dial| !dial.is_finished());
        if let Some(oldest) = DialRace::dial_to_abort(self.dials.len())
            && let Some(given_up) = self.dials.remove(oldest)
        {
            given_up.abort();
        }
        let accept = ServerKey::Exactly(self.redialer.server_key.clone());
        let dialing = self.redialer.dialer.dial_once(&path, accept);
        self.dials.push_back(self.steps.spawn(async move {
            let dialed = match timeout(DIAL_TIMEOUT, dialing).await {
                Ok(dialed) => dialed.map_err(Some),
                Err(_) => Err(None),
            };
            Step::Dialed(Box::new(dialed), path)
        }));
    }

    fn handle_dialed(&mut self, dialed: Result<Dialed, Option<DialError>>, path: Path) {
        match dialed {
            Ok(dialed) => self.ready.push_back((dialed, path)),
            Err(Some(error)) => {
                debug!(%path, %error, "dial failed");
                if matches!(error, DialError::Busy) {
                    self.dial_race.handle_refused(clock::now());
                }
            }
            Err(None) => debug!(%path, "dial failed: no answer"),
        }
    }

    /// Sends `Resume` on the newest completed handshake, unless an earlier resume may still be answered.
    fn resume_next(&mut self) {
        let now = clock::now();
        if !self.dial_race.may_resume(now) {
            return;
        }
        let Some((dialed, path)) = self.ready.pop_back() else {
            return;
        };
        let rtt = dialed.carrier().rtt().unwrap_or_default();
        let resume = self.redialer.resume();
        self.dial_race.handle_resume_sent(resume.epoch, rtt, now);
        self.steps.spawn(async move {
            let hello = Hello::Resume(resume);
            let answered = timeout(DIAL_TIMEOUT, dialed.ask(&hello)).await;
            let answered = answered.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()));
            Step::Answered(Box::new(answered), resume.epoch, path)
        });
    }

    /// `None` if the session has ended.
    async fn handle_answered(
        &mut self,
        answered: Result<(Carrier, Answer), CarrierError>,
        epoch: Epoch,
        path: Path,
    ) -> Option<()> {
        let answer = answered.as_ref().ok().map(|(_, answer)| answer);
        self.dial_race.handle_answered(epoch, answer, clock::now());
        match answered {
            Ok((carrier, Answer::Accepted(accepted))) => {
                self.redialer.paths.prefer(path.clone());
                self.taken = Some(path);
                self.deliver(carrier, accepted, epoch).await
            }
            Ok((_, Answer::Refused(refusal))) if refusal.code.is_final() => {
                info!(event = "refused", %refusal, "the server half refused to resume the session");
                let lost = PathEvent::Lost(refusal.to_string());
                // An error means that the session has ended.
                let _ = self.redialer.path_events.send(lost).await;
                None
            }
            Ok((_, Answer::Refused(refusal))) => {
                debug!(%refusal, "not resumed yet");
                Some(())
            }
            Ok((_, Answer::Standing | Answer::Probed(_) | Answer::Reaped | Answer::Asking(_) | Answer::KeyOk(_))) => {
                let error = CarrierError::Protocol(DecodeError::Unexpected {
                    what: "answer to a resume",
                });
                debug!(%error, "not resumed");
                Some(())
            }
            Err(error) => {
                debug!(%error, "carrier lost before the answer");
                Some(())
            }
        }
    }

    async fn deliver(&mut self, carrier: Carrier, accepted: Accepted, epoch: Epoch) -> Option<()> {
        let lead = NewLead {
            carrier,
            accepted: connection::Accepted {
                epoch,
                received: accepted.received,
                window: accepted.window,
            },
            first: Bytes::new(),
        };
        let lead = PathEvent::Lead(Box::new(lead));
        self.redialer.path_events.send(lead).await.ok()
    }
}

fn pacer(is_urgent: bool) -> RedialPacer {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).expect("the system provides random bytes");
    RedialPacer::new(clock::now(), is_urgent, u64::from_ne_bytes(seed))
}
