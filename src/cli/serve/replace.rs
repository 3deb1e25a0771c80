//! A second `bowline serve` at the same address: says who is there, or takes its place.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tracing::{info, warn};

use super::ServeSettings;
use super::holders::{Holder, holder, holders};
use super::prepare::{Draft, NoPorts, Ports};
use crate::cli::report::{self, Failure};
use crate::clock;
use crate::server::keeper::{Endpoint, Estate, Neighbour, Neighbours, Refusal, TakeOverError, neighbours};

/// A keeper that lives answers within milliseconds, one that asks sshd just now within a second.
const ANSWER: Duration = Duration::from_secs(5);

/// Whoever cannot be replaced by then is not.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two attempts, when the one asked went away or was busy.
const PAUSE: Duration = Duration::from_millis(50);

/// What a keeper starts from.
pub(super) struct Place {
    pub(super) ports: Ports,
    /// What the one before has handed over.
    pub(super) estate: Option<Estate>,
}

/// Everything else is prepared: binds the ports, or with `--replace` takes them over from whoever has them.
///
/// # Errors
/// What must be there and is not; who has the ports.
pub(super) fn take_place(draft: &Draft<'_>, settings: &ServeSettings) -> Result<Place, Failure> {
    // Any port can always be bound: whether somebody is to be replaced must be asked.
    let is_asked = settings.replace && decisive(draft).iter().any(is_any);
    if !is_asked {
        match draft.ports(None) {
            Ok(ports) => return Ok(Place { ports, estate: None }),
            Err(NoPorts::InUse(..)) if settings.replace => {}
            Err(NoPorts::InUse(endpoint, error)) => {
                return Err(who_has(endpoint, &error, &settings.folders.runtime));
            }
            Err(NoPorts::Failed(failure)) => return Err(failure),
        }
    }
    Replacing {
        draft,
        settings,
        end: clock::now() + PATIENCE,
        killed: None,
    }
    .run()
}

/// Where whoever is to be replaced listens. Any port says of nobody that he is meant while another is named.
fn decisive(draft: &Draft<'_>) -> Vec<Endpoint> {
    let all = draft.endpoints();
    let named: Vec<_> = all.iter().copied().filter(|endpoint| !is_any(endpoint)).collect();
    if named.is_empty() { all } else { named }
}

fn is_any(endpoint: &Endpoint) -> bool {
    endpoint.address.port() == 0
}

/// What is said without `--replace`.
fn who_has(endpoint: Endpoint, error: &io::Error, folder: &Path) -> Failure {
    let Neighbours { there, silent } = neighbours(folder, ANSWER, |who| who.is_at(endpoint));
    if let Some(who) = there.iter().map(Neighbour::who).find(|who| who.is_at(endpoint)) {
        return report::another_serves(endpoint, who);
    }
    let holders = holders(endpoint);
    match silent_keeper(&holders, &silent) {
        Some(keeper) => report::does_not_answer(endpoint, keeper, worker(&holders), false),
        None => report::in_use(endpoint, error, &holders, folder),
    }
}

/// Of one that has no door here, nobody knows whether it would answer.
fn silent_keeper<'a>(holders: &'a [Holder], silent: &[PathBuf]) -> Option<&'a Holder> {
    let has_door = |holder: &&Holder| silent.iter().any(|door| holder.holds(door));
    holders.iter().filter(|holder| holder.is_keeper()).find(has_door)
}

fn worker(holders: &[Holder]) -> Option<&Holder> {
    holders.iter().find(|holder| holder.is_worker())
}

/// The attempt to take somebody's place.
struct Replacing<'a> {
    draft: &'a Draft<'a>,
    settings: &'a ServeSettings,
    end: Instant,
    /// A keeper that did not answer and was killed.
    killed: Option<u32>,
}

impl Replacing<'_> {
    fn run(mut self) -> Result<Place, Failure> {
        loop {
            let (neighbour, silent) = self.who_is_there()?;
            let place = match neighbour {
                Some(neighbour) => self.take_over(neighbour)?,
                None => self.take_what_is_free(&silent)?,
            };
            match place {
                Some(place) => return Ok(place),
                None => std::thread::sleep(PAUSE),
            }
        }
    }

    /// The one to be replaced, and doors behind which nobody answers.
    fn who_is_there(&self) -> Result<(Option<Neighbour>, Vec<PathBuf>), Failure> {
        let endpoints = decisive(self.draft);
        let folder = &self.settings.folders.runtime;
        // Of any port there may be several: all are heard.
        let is_one = !endpoints.iter().any(is_any);
        let is_there = |neighbour: &Neighbour| endpoints.iter().any(|endpoint| neighbour.who().is_at(*endpoint));
        let Neighbours { mut there, silent } = neighbours(folder, ANSWER, |who| {
            is_one && endpoints.iter().any(|endpoint| who.is_at(*endpoint))
        });
        there.retain(is_there);
        match there.len() {
            0 | 1 => Ok((there.pop(), silent)),
            _ => Err(report::several_serve(there.iter().map(Neighbour::who))),
        }
    }

    /// `None`: to be tried again.
    fn take_over(&self, neighbour: Neighbour) -> Result<Option<Place>, Failure> {
        let who = neighbour.who().clone();
        let failed = |error: TakeOverError| match error {
            TakeOverError::Lost(_) | TakeOverError::Refused(Refusal::Ending) if clock::now() < self.end => Ok(None),
            error => Err(report::cannot_take_over(&who, &error)),
        };
        let offer = match neighbour.ask_for_estate() {
            Ok(offer) => offer,
            Err(error) => return failed(error),
        };
        // Whatever fails here, the one that runs goes on.
        let ports = match self.draft.ports(Some(offer.estate())) {
            Ok(ports) => ports,
            Err(NoPorts::InUse(endpoint, _)) => return Err(report::overlaps(endpoint, &who)),
            Err(NoPorts::Failed(failure)) => return Err(failure),
        };
        match offer.accept() {
            Ok(estate) => {
                info!(from = who.keeper, "taken over");
                let estate = Some(estate);
                Ok(Some(Place { ports, estate }))
            }
            Err(error) => failed(error),
        }
    }

    /// Between the death of one keeper and the first word of the next.
    fn is_being_raised(&self, worker: &Holder, there: &[Holder]) -> bool {
        worker.runs() && !there.iter().any(Holder::is_keeper) && clock::now() < self.end
    }

    /// Nobody answers: perhaps nobody is there, or somebody who hangs.
    fn take_what_is_free(&mut self, silent: &[PathBuf]) -> Result<Option<Place>, Failure> {
        match self.draft.ports(None) {
            Ok(ports) => Ok(Some(Place { ports, estate: None })),
            Err(NoPorts::Failed(failure)) => Err(failure),
            Err(NoPorts::InUse(endpoint, error)) => {
                let there = holders(endpoint);
                match (silent_keeper(&there, silent), worker(&there)) {
                    (None, Some(worker)) if self.is_being_raised(worker, &there) => Ok(None),
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

/// A worker that has lost its keeper raises another, and so loses nothing.
fn kill(keeper: u32, endpoint: Endpoint) {
    let watch = i32::try_from(keeper).ok().and_then(Pid::from_raw);
    let watch = watch.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Looked at again: from here on it cannot be another.
    let is_keeper = holder(keeper).is_some_and(|holder| holder.is_keeper());
    if let Some(watch) = watch.filter(|_| is_keeper) {
        warn!(
            pid = keeper,
            %endpoint,
            "the running keeper does not answer: killed, its worker raises another and its sessions go on"
        );
        let _ = pidfd_send_signal(&watch, Signal::KILL);
    }
}
