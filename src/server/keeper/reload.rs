//! A keeper becomes the program that is on disk by now, with all it holds: exec, so that neither its process id nor
//! its children change.
//!
//! Nothing is given up before the kernel has done it: whatever fails, the keeper goes on as it was.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tracing::{info, warn};

use super::{
    Keeper, Stop,
    estate::{Inventory, Terms, leave_stdin},
    manager::Manager,
    packet,
    process::{Ended, OwnProgram, Process},
    signals::Signals,
};

/// How long a program may take to say that it understands its arguments.
const TRIAL: Duration = Duration::from_secs(3);

/// Why the keeper is still the old one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// Neither the program on disk nor the running one understands the arguments.
    #[error("{} cannot be used: {why}", program.display())]
    Program { program: OsString, why: TrialError },
    /// What is to be handed over found no room.
    #[error("cannot hand over to the new keeper: {0}")]
    HandOver(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot become the new keeper: {0}")]
    Exec(#[source] io::Error),
}

/// Why a program is not one to become.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    #[error("{0}")]
    Start(#[from] io::Error),
    #[error("asked for help with the same arguments, it ended with {0}")]
    Ended(Ended),
    #[error("asked for help with the same arguments, it did not end")]
    Hangs,
}

impl Keeper {
    /// Becomes the program that is on disk by now, which reads everything anew and replaces the worker.
    pub(super) fn reload(&mut self, now: Instant) {
        let has_rights = !self.terms.privileged || rustix::process::geteuid().is_root();
        let Some(args) = self.terms.reload_args.clone().filter(|_| has_rights) else {
            info!("replacing the worker, by the settings there are");
            return self.worker.stop(Stop::HandOver, self.terms.grace, now);
        };
        info!("reloading");
        self.worker.drop_next();
        self.manager.iter().for_each(Manager::reloading);
        let mut inventory = self.inventory();
        self.worker.list(&mut inventory);
        let error = become_new(&inventory, &self.terms, &args, &self.program, &self.signals);
        warn!("reload failed: {error}, going on with the old settings");
        if let Some(manager) = &self.manager {
            manager.still_ready(&format!("reload failed: {error}"));
        }
    }
}

/// Becomes the new keeper. Returns only if that failed.
pub(super) fn become_new(
    inventory: &Inventory<'_>,
    terms: &Terms,
    args: &[OsString],
    own: &OwnProgram,
    signals: &Signals,
) -> ReloadError {
    let mut command = match choose(terms, args, own) {
        Ok(command) => command,
        Err(error) => return error,
    };
    let mut exec = || -> Result<ReloadError, io::Error> {
        let (ours, theirs) = packet::pair()?;
        if let Err(error) = inventory.send(&ours, Duration::ZERO) {
            return Ok(ReloadError::HandOver(error));
        }
        signals.hold()?;
        let error = command.arg0(&terms.program).stdin(Stdio::from(theirs)).exec();
        signals.release()?;
        leave_stdin()?;
        Err(error)
    };
    exec().unwrap_or_else(ReloadError::Exec)
}

/// The program on disk if it is good for it, else the running one: it reads its configuration anew at least.
fn choose(terms: &Terms, args: &[OsString], own: &OwnProgram) -> Result<Command, ReloadError> {
    let with_args = |mut command: Command| {
        command.args(args);
        command
    };
    let Err(why) = try_out(with_args(Command::new(&terms.program))) else {
        return Ok(with_args(Command::new(&terms.program)));
    };
    if try_out(with_args(own.command())).is_ok() {
        warn!(program = %terms.program.display(), %why, "the program on disk cannot be used: the running one goes on");
        return Ok(with_args(own.command()));
    }
    let program = terms.program.clone();
    Err(ReloadError::Program { program, why })
}

/// Asked for help after all its arguments, a program shows that it runs here and knows them, and does nothing.
fn try_out(mut command: Command) -> Result<(), TrialError> {
    command
        .arg("--help")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = Process::of_child(command.spawn()?)?;
    if !process.has_ended(TRIAL) {
        process.signal(Signal::KILL);
        process.has_ended(TRIAL);
        process.ended();
        return Err(TrialError::Hangs);
    }
    match process.ended() {
        Some(Ended { code: Some(0), .. }) => Ok(()),
        Some(ended) => Err(TrialError::Ended(ended)),
        None => Err(TrialError::Hangs),
    }
}
