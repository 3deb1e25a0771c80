//! Dials new carriers for a running session if its lead is lost or suspected to be lost, and better paths than the lead's.
//! [`Redial`] decides when, and on which paths.
//!
//! Dials new connections instead of waiting for the old one: during a loss of connectivity QUIC's probe timeout backs
//! off to tens of seconds, and a new handshake takes one round trip. Handshakes race; `Resume` is sent on the first
//! that completes, and on another one only if the answer is late.

use super::dialer::Dialer;
use super::paths::Paths;
use crate::carrier::{Carrier, CarrierError, DialError, Dialed, Path};
use crate::clock::{self, Timer};
use crate::connection::{DIAL_TIMEOUT, DialProgress, Redial, RedialAction, Resumed};
use crate::identity::raw_key::ServerKey;
use crate::pump::{Epochs, NewLead, PathEvent, SessionStats};
use crate::random;
use crate::wire::{Answer, Epoch, Hello, Resume, SessionId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{Instrument, debug, info};

/// Redials one session while it exists.
pub(super) struct Redialer {
    pub(super) session: SessionId,
    pub(super) dialer: Dialer,
    pub(super) server_key: Vec<u8>,
    pub(super) paths: Paths,
    pub(super) epochs: Arc<Epochs>,
    pub(super) stats: Arc<SessionStats>,
    pub(super) path_events: mpsc::Sender<PathEvent>,
}

/// The dials of one outage, or of one attempt to upgrade. They are aborted when it is dropped.
#[derive(Default)]
struct Dials {
    steps: JoinSet<Step>,
    running: VecDeque<AbortHandle>,
    /// Completed handshakes, the newest last.
    ready: Vec<(Dialed, Path)>,
    /// The DNS lookup runs beside the dials and must not delay them.
    lookup: JoinSet<()>,
    /// The path of the carrier that became the lead last.
    taken: Option<Path>,
}

/// The result of a task.
enum Step {
    /// The error is `None` if the peer did not answer in time.
    Dialed(Box<Result<Dialed, Option<DialError>>>, Path),
    Answered(Box<Result<(Carrier, Answer), CarrierError>>, Epoch, Path),
}

impl Redialer {
    /// Runs until the session ends.
    pub(super) async fn run(mut self) {
        let mut active = self.stats.active_paths();
        let mut redial = Redial::new(u64::from_ne_bytes(random::bytes()), clock::now());
        let mut dials = Dials::default();
        let mut timer = Timer::new();
        loop {
            {
                let active = active.borrow_and_update();
                let lead = active.lead.as_ref().map(|lead| lead.rank as u8);
                redial.handle_paths(lead, active.dial_request, clock::now());
            }
            let paths = self.paths.all();
            let ranks: Vec<u8> = paths.iter().map(|path| path.rank() as u8).collect();
            while let Some(action) = redial.poll(&ranks, dials.progress(), clock::now()) {
                self.act(action, &paths, &mut redial, &mut dials);
            }
            timer.set(redial.poll_timeout(&ranks, dials.progress(), clock::now()));
            tokio::select! {
                // The statistics keep its sender: the task ends with its owner, or when nobody takes its events.
                _ = active.changed() => {}
                () = self.path_events.closed() => return,
                Some(step) = dials.steps.join_next() => {
                    // An error means that a dial was aborted for a newer one.
                    let event = step.ok().and_then(|step| self.handle_step(step, &mut redial, &mut dials));
                    if let Some(event) = event {
                        let is_lost = matches!(event, PathEvent::Lost(_));
                        if self.path_events.send(event).await.is_err() || is_lost {
                            return;
                        }
                    }
                }
                () = poll_fn(|cx| timer.poll(cx)) => {
                    if self.dialer.heard().swap(false, Relaxed) {
                        redial.handle_heard(clock::now());
                    }
                }
            }
        }
    }

    /// `paths`: as they are numbered in the action.
    fn act(&mut self, action: RedialAction, paths: &[Path], redial: &mut Redial, dials: &mut Dials) {
        match action {
            RedialAction::Begin { resolves } => {
                self.dialer.heard().store(false, Relaxed);
                if resolves {
                    let paths = self.paths.clone();
                    dials
                        .lookup
                        .spawn(async move { paths.refresh().await }.in_current_span());
                }
            }
            RedialAction::Dial {
                paths: numbers,
                renews_sockets,
            } => {
                if renews_sockets {
                    self.dialer.renew_sockets();
                }
                let paths = numbers.iter().filter_map(|number| paths.get(*number));
                paths.for_each(|path| self.dial(path, dials));
            }
            RedialAction::Resume => self.resume(redial, dials),
            RedialAction::End { upgraded } => {
                if let Some(path) = std::mem::take(dials).taken.filter(|_| upgraded) {
                    info!(event = "path_upgraded", %path, "session switched to a better path");
                }
            }
        }
    }

    fn dial(&mut self, path: &Path, dials: &mut Dials) {
        dials.running.retain(|dial| !dial.is_finished());
        if let Some(oldest) = Redial::dial_to_abort(dials.running.len())
            && let Some(given_up) = dials.running.remove(oldest)
        {
            given_up.abort();
        }
        let accept = ServerKey::Exactly(self.server_key.clone());
        let (dialing, path) = (self.dialer.dial_once(path, accept), path.clone());
        dials.running.push_back(dials.steps.spawn(async move {
            let dialed = match timeout(DIAL_TIMEOUT, dialing).await {
                Ok(dialed) => dialed.map_err(Some),
                Err(_) => Err(None),
            };
            Step::Dialed(Box::new(dialed), path)
        }));
    }

    /// Sends `Resume` on the newest completed handshake.
    fn resume(&mut self, redial: &mut Redial, dials: &mut Dials) {
        let Some((dialed, path)) = dials.ready.pop() else {
            return;
        };
        let (epoch, (received, window)) = (self.epochs.next(), self.stats.room());
        let rtt = dialed.carrier().rtt().unwrap_or_default();
        redial.handle_resume_sent(epoch, rtt, clock::now());
        let hello = Hello::Resume(Resume {
            session: self.session,
            epoch,
            received,
            window,
        });
        dials.steps.spawn(async move {
            let answered = timeout(DIAL_TIMEOUT, dialed.ask(&hello)).await;
            let answered = answered.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
            Step::Answered(Box::new(answered), epoch, path)
        });
    }

    /// What the pump must know of it, if anything.
    fn handle_step(&mut self, step: Step, redial: &mut Redial, dials: &mut Dials) -> Option<PathEvent> {
        match step {
            Step::Dialed(dialed, path) => {
                match *dialed {
                    Ok(dialed) => dials.ready.push((dialed, path)),
                    Err(Some(error)) => {
                        debug!(%path, %error, "dial failed");
                        if error.is_busy() {
                            redial.handle_refused(clock::now());
                        }
                    }
                    Err(None) => debug!(%path, "dial failed: no answer"),
                }
                None
            }
            Step::Answered(answered, epoch, path) => {
                let (carrier, answer) = match *answered {
                    Ok((carrier, answer)) => (Some(carrier), Some(answer)),
                    Err(error) => {
                        debug!(%error, "carrier lost before the answer");
                        (None, None)
                    }
                };
                if let Some(Answer::Refused(refusal)) = &answer {
                    debug!(%refusal, "not resumed");
                }
                match redial.handle_answered(epoch, path.rank() as u8, answer, clock::now()) {
                    Resumed::Lead(accepted) => {
                        self.paths.prefer(path.clone());
                        dials.taken = Some(path);
                        Some(PathEvent::Lead(Box::new(NewLead {
                            carrier: carrier?,
                            accepted,
                            first: Bytes::new(),
                        })))
                    }
                    Resumed::Lost(refusal) => {
                        info!(event = "refused", %refusal, "the server half refused to resume the session");
                        Some(PathEvent::Lost(refusal.to_string()))
                    }
                    Resumed::NotYet => None,
                }
            }
        }
    }
}

impl Dials {
    fn progress(&self) -> DialProgress {
        DialProgress {
            ready: !self.ready.is_empty(),
            running: !self.steps.is_empty(),
        }
    }
}
