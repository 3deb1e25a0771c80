//! A second `bowline serve` at the same address: reports the running one, or replaces it.

use super::ServeSettings;
use super::holders::{Holder, holder, holders};
use super::prepare::{Draft, NoPorts, Ports};
use crate::cli::report::{self, Failure};
use crate::clock;
use crate::server::handover::{Endpoint, Handover, Listener};
use crate::server::ipc::{ControlListener, TakeoverRefusal};
use crate::server::supervisor::ServiceManager;
use crate::server::takeover::{RunningKeeper, RunningKeepers, TakeoverError, find_running_keepers};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// A running keeper answers within milliseconds, or within a second if it is just asking sshd.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for replacing a server half.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(20);

/// Delay between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// What a keeper starts from.
pub(super) struct StartingPoint {
    pub(super) ports: Ports,
    /// The handover of the replaced keeper.
    pub(super) handover: Option<Handover>,
}

/// Binds the ports, or takes them over from their owner with `--replace`. Everything else is prepared before.
///
/// # Errors
/// Something is missing; the ports have another owner.
pub(super) fn acquire_ports(draft: &Draft<'_>, settings: &ServeSettings) -> Result<StartingPoint, Failure> {
    // With port 0 binding always succeeds, so running keepers must be asked.
    let must_ask = settings.replace && identifying_endpoints(draft).iter().any(is_any);
    if !must_ask {
        match draft.ports(None) {
            Ok(ports) => return Ok(StartingPoint { ports, handover: None }),
            Err(NoPorts::InUse(..)) if settings.replace => {}
            Err(NoPorts::InUse(endpoint, error)) => {
                return Err(in_use_error(endpoint, &error, &settings.folders.runtime));
            }
            Err(NoPorts::Failed(failure)) => return Err(failure),
        }
    }
    Replacement {
        draft,
        settings,
        end: clock::now() + REPLACE_TIMEOUT,
        killed: None,
    }
    .run()
}

/// The addresses by which the keeper to be replaced is recognized. If some have a port, those with port 0 do not
/// count.
fn identifying_endpoints(draft: &Draft<'_>) -> Vec<Endpoint> {
    let all = draft.endpoints();
    let named: Vec<_> = all.iter().copied().filter(|endpoint| !is_any(endpoint)).collect();
    if named.is_empty() { all } else { named }
}

fn is_any(endpoint: &Endpoint) -> bool {
    endpoint.address.port() == 0
}

/// The error without `--replace`.
fn in_use_error(endpoint: Endpoint, error: &io::Error, folder: &Path) -> Failure {
    let RunningKeepers {
        responding: there,
        unresponsive: silent,
    } = find_running_keepers(folder, ANSWER_TIMEOUT, |who| who.is_at(endpoint));
    if let Some(who) = there.iter().map(RunningKeeper::info).find(|who| who.is_at(endpoint)) {
        return report::another_serves(endpoint, who);
    }
    let holders = holders(endpoint);
    match silent_keeper(&holders, &silent) {
        Some(keeper) => report::does_not_answer(endpoint, keeper, worker(&holders), false),
        None => report::in_use(endpoint, error, &holders, folder),
    }
}

/// A keeper without a socket in this folder is not counted: it is unknown whether it would answer.
fn silent_keeper<'a>(holders: &'a [Holder], silent: &[PathBuf]) -> Option<&'a Holder> {
    let has_socket = |holder: &&Holder| silent.iter().any(|file| holder.holds(file));
    holders.iter().filter(|holder| holder.is_keeper()).find(has_socket)
}

fn worker(holders: &[Holder]) -> Option<&Holder> {
    holders.iter().find(|holder| holder.is_worker())
}

/// An attempt to replace a running keeper.
struct Replacement<'a> {
    draft: &'a Draft<'a>,
    settings: &'a ServeSettings,
    end: Instant,
    /// A keeper that did not answer and was killed.
    killed: Option<u32>,
}

impl Replacement<'_> {
    fn run(mut self) -> Result<StartingPoint, Failure> {
        loop {
            let (keeper, silent) = self.find_running_keeper()?;
            let place = match keeper {
                Some(keeper) => self.take_over(keeper)?,
                None => self.bind_or_kill(&silent)?,
            };
            match place {
                Some(place) => return Ok(place),
                None => std::thread::sleep(RETRY_DELAY),
            }
        }
    }

    /// The keeper to be replaced, and sockets of keepers that do not answer.
    fn find_running_keeper(&self) -> Result<(Option<RunningKeeper>, Vec<PathBuf>), Failure> {
        let endpoints = identifying_endpoints(self.draft);
        let folder = &self.settings.folders.runtime;
        // With port 0 there may be several: waits for all.
        let is_one = !endpoints.iter().any(is_any);
        let is_there = |keeper: &RunningKeeper| endpoints.iter().any(|endpoint| keeper.info().is_at(*endpoint));
        let RunningKeepers {
            responding: mut there,
            unresponsive: silent,
        } = find_running_keepers(folder, ANSWER_TIMEOUT, |who| {
            is_one && endpoints.iter().any(|endpoint| who.is_at(*endpoint))
        });
        there.retain(is_there);
        match there.len() {
            0 | 1 => Ok((there.pop(), silent)),
            _ => Err(report::several_serve(there.iter().map(RunningKeeper::info))),
        }
    }

    /// `None`: try again.
    fn take_over(&self, keeper: RunningKeeper) -> Result<Option<StartingPoint>, Failure> {
        let who = keeper.info().clone();
        let failed = |error: TakeoverError| match error {
            TakeoverError::Lost(_) | TakeoverError::Refused(TakeoverRefusal::Ending) if clock::now() < self.end => {
                Ok(None)
            }
            error => Err(report::cannot_take_over(&who, &error)),
        };
        let offer = match keeper.request_handover() {
            Ok(offer) => offer,
            Err(error) => return failed(error),
        };
        // If anything fails from here on, the running keeper continues.
        let ports = match self.draft.ports(Some(offer.handover())) {
            Ok(ports) => ports,
            Err(NoPorts::InUse(endpoint, _)) => return Err(report::overlaps(endpoint, &who)),
            Err(NoPorts::Failed(failure)) => return Err(failure),
        };
        match offer.accept() {
            Ok(handover) => {
                info!(from = who.keeper, "took over from another keeper");
                let handover = Some(handover);
                Ok(Some(StartingPoint { ports, handover }))
            }
            Err(error) => failed(error),
        }
    }

    /// Whether a worker is just starting a new keeper because the previous one has died.
    fn is_being_restarted(&self, worker: &Holder, there: &[Holder]) -> bool {
        worker.runs() && !there.iter().any(Holder::is_keeper) && clock::now() < self.end
    }

    /// No keeper answers: there may be none, or one that hangs.
    fn bind_or_kill(&mut self, silent: &[PathBuf]) -> Result<Option<StartingPoint>, Failure> {
        match self.draft.ports(None) {
            Ok(ports) => Ok(Some(StartingPoint { ports, handover: None })),
            Err(NoPorts::Failed(failure)) => Err(failure),
            Err(NoPorts::InUse(endpoint, error)) => {
                let there = holders(endpoint);
                match (silent_keeper(&there, silent), worker(&there)) {
                    (None, Some(worker)) if self.is_being_restarted(worker, &there) => Ok(None),
                    (Some(keeper), _) if self.killed == Some(keeper.pid) && clock::now() < self.end => Ok(None),
                    (Some(keeper), Some(worker)) if self.killed.is_none() && worker.runs() => {
                        self.killed = Some(keeper.pid);
                        kill(keeper.pid, endpoint);
                        Ok(None)
                    }
                    (Some(keeper), worker) => Err(report::does_not_answer(endpoint, keeper, worker, true)),
                    _ => Err(report::in_use(endpoint, &error, &there, &self.settings.folders.runtime)),
                }
            }
        }
    }
}

/// Kills a keeper that hangs. Its worker starts another one, so no session is lost.
fn kill(keeper: u32, endpoint: Endpoint) {
    let watch = i32::try_from(keeper).ok().and_then(Pid::from_raw);
    let watch = watch.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Checked again: the pidfd exists, so the process cannot be another one any more.
    let is_keeper = holder(keeper).is_some_and(|holder| holder.is_keeper());
    if let Some(watch) = watch.filter(|_| is_keeper) {
        warn!(
            pid = keeper,
            %endpoint,
            "the running keeper does not answer: killed; its worker starts another keeper and the sessions continue"
        );
        let _ = pidfd_send_signal(&watch, Signal::KILL);
    }
}

/// The source of a keeper's existing sockets and sessions.
pub(super) enum Predecessor<'a> {
    /// A service manager, which may have stored descriptors of the previous keeper.
    Manager(ServiceManager),
    /// Another keeper.
    Keeper(&'a mut Handover),
}

impl Predecessor<'_> {
    /// Bound sockets.
    pub(super) fn listeners(&self) -> &[Listener] {
        match self {
            Predecessor::Manager(manager) => manager.listeners(),
            Predecessor::Keeper(handover) => handover.listeners(),
        }
    }

    /// The built-in SSH server's listening socket.
    pub(super) fn sidecar_input(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Predecessor::Manager(_) => None,
            Predecessor::Keeper(handover) => handover.sidecar_input(),
        }
    }

    /// The socket on which other keepers ask who is running.
    pub(super) fn control_listener(&self) -> Option<&ControlListener> {
        match self {
            Predecessor::Manager(_) => None,
            Predecessor::Keeper(handover) => handover.control_listener(),
        }
    }

    /// How many sessions the service manager can store, of `wanted`; `None` if it stores none.
    pub(super) fn max_stored_sessions(&mut self, wanted: usize) -> Option<usize> {
        match self {
            Predecessor::Manager(manager) => manager.max_stored_sessions(wanted),
            Predecessor::Keeper(handover) => handover.max_stored_sessions(wanted),
        }
    }

    /// The service manager. With another keeper's handover it is part of that.
    pub(super) fn into_manager(self) -> ServiceManager {
        match self {
            Predecessor::Manager(manager) => manager,
            Predecessor::Keeper(_) => ServiceManager::default(),
        }
    }
}
