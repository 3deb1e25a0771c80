//! Reload: the keeper becomes the program that is on disk now, by exec, so that neither its process id nor its
//! children change.
//!
//! Until the kernel has executed the new program nothing is given up: if anything fails, the keeper continues as
//! before.

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
    Keeper,
    process::{Ended, OwnProgram, Process},
    signals::Signals,
    systemd::Manager,
};
use crate::server::{
    handover::{Inventory, KeeperConfig, replace_stdin},
    ipc::{Stop, seqpacket},
};

/// How long a program may take to show that it understands its arguments.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a reload failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// Neither the program on disk nor the running one understands the arguments.
    #[error("{} cannot be used: {why}", program.display())]
    Program { program: OsString, why: TrialError },
    /// The handover could not be sent.
    #[error("cannot hand over to the new keeper: {0}")]
    HandOver(#[source] io::Error),
    /// The exec failed.
    #[error("cannot become the new keeper: {0}")]
    Exec(#[source] io::Error),
}

/// Why a program cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    #[error("{0}")]
    Start(#[from] io::Error),
    #[error("with the same arguments and --help it ended with {0}")]
    Ended(Ended),
    #[error("with the same arguments and --help it did not end")]
    Hangs,
}

impl Keeper {
    /// Becomes the program that is on disk now, which reads its configuration and replaces the worker.
    pub(super) fn reload(&mut self, now: Instant) {
        let has_rights = !self.config.privileged || rustix::process::geteuid().is_root();
        let Some(args) = self.config.reload_args.clone().filter(|_| has_rights) else {
            info!("replacing the worker; the settings do not change");
            return self.worker.stop(Stop::HandOver, self.config.grace, now);
        };
        info!("reloading");
        self.worker.drop_next();
        self.manager.iter().for_each(Manager::reloading);
        let mut inventory = self.inventory();
        self.worker.list(&mut inventory);
        let error = exec_keeper(&inventory, &self.config, &args, &self.program, &self.signals);
        warn!("reload failed: {error}; continuing with the old settings");
        if let Some(manager) = &self.manager {
            manager.still_ready(&format!("reload failed: {error}"));
        }
    }
}

/// Becomes the new keeper. Returns only if that failed.
pub(super) fn exec_keeper(
    inventory: &Inventory<'_>,
    config: &KeeperConfig,
    args: &[OsString],
    own: &OwnProgram,
    signals: &Signals,
) -> ReloadError {
    let mut command = match choose(config, args, own) {
        Ok(command) => command,
        Err(error) => return error,
    };
    let mut exec = || -> Result<ReloadError, io::Error> {
        let (ours, theirs) = seqpacket::pair()?;
        if let Err(error) = inventory.send(&ours, Duration::ZERO) {
            return Ok(ReloadError::HandOver(error));
        }
        signals.block()?;
        let error = command.arg0(&config.program).stdin(Stdio::from(theirs)).exec();
        signals.unblock()?;
        replace_stdin()?;
        Err(error)
    };
    exec().unwrap_or_else(ReloadError::Exec)
}

/// The program on disk if it can be used, otherwise the running one, which at least reads its configuration again.
fn choose(config: &KeeperConfig, args: &[OsString], own: &OwnProgram) -> Result<Command, ReloadError> {
    let with_args = |mut command: Command| {
        command.args(args);
        command
    };
    let Err(why) = try_out(with_args(Command::new(&config.program))) else {
        return Ok(with_args(Command::new(&config.program)));
    };
    if try_out(with_args(own.command())).is_ok() {
        warn!(program = %config.program.display(), %why, "the program on disk cannot be used: continuing with the running one");
        return Ok(with_args(own.command()));
    }
    let program = config.program.clone();
    Err(ReloadError::Program { program, why })
}

/// Runs a program with all its arguments and `--help`, which does nothing. This shows that it runs on this machine and
/// knows the arguments.
fn try_out(mut command: Command) -> Result<(), TrialError> {
    command
        .arg("--help")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = Process::of_child(command.spawn()?)?;
    if !process.has_ended(TRIAL_TIMEOUT) {
        process.signal(Signal::KILL);
        process.has_ended(TRIAL_TIMEOUT);
        process.ended();
        return Err(TrialError::Hangs);
    }
    match process.ended() {
        Some(Ended { code: Some(0), .. }) => Ok(()),
        Some(ended) => Err(TrialError::Ended(ended)),
        None => Err(TrialError::Hangs),
    }
}
