//! A program that runs beside the workers and is stopped by SIGTERM: the built-in SSH server.
//!
//! It outlives workers and keepers, because sessions are connected to it.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    time::Instant,
};

use rustix::process::Signal;
use tracing::{info, warn};

use super::{
    KeeperError, SidecarPlan,
    process::{Process, SupervisedProcess},
};
use crate::server::handover::{Inventory, Role};

#[derive(Debug)]
pub(super) struct Sidecar {
    plan: SidecarPlan,
    supervised: SupervisedProcess,
    /// Whether this keeper may start it: only with the rights that the sidecar is meant to have.
    startable: bool,
    /// It runs as another user: this keeper cannot end it.
    out_of_reach: bool,
}

impl Sidecar {
    pub(super) fn start(plan: SidecarPlan, now: Instant) -> Result<Self, KeeperError> {
        let mut sidecar = Self {
            plan,
            supervised: SupervisedProcess::new(now),
            startable: true,
            out_of_reach: false,
        };
        sidecar.spawn(now).map_err(|source| KeeperError::Start {
            program: sidecar.plan.program.clone(),
            source,
        })?;
        Ok(sidecar)
    }

    /// A sidecar that another keeper has started. It may have ended meanwhile.
    pub(super) fn adopt(plan: SidecarPlan, running: Option<(u32, OwnedFd)>, startable: bool, now: Instant) -> Self {
        let mut supervised = SupervisedProcess::new(now);
        if let Some((pid, watch)) = running {
            supervised.begin(Process::of_another(pid, watch), now);
        }
        Self {
            plan,
            supervised,
            startable,
            out_of_reach: false,
        }
    }

    pub(super) fn list<'a>(&'a self, inventory: &mut Inventory<'a>) {
        if let Some(stdin) = &self.plan.stdin {
            inventory.add(Role::SidecarInput, stdin);
        }
        if let Some(process) = self.supervised.process() {
            inventory.add(Role::SidecarProcess { pid: process.pid() }, process);
        }
    }

    pub(super) fn process(&self) -> Option<&Process> {
        self.supervised.process()
    }

    /// Whether it has been stopped and has ended, or cannot be ended by this keeper.
    pub(super) fn has_ended(&self) -> bool {
        self.out_of_reach || self.supervised.process().is_none() && (self.supervised.was_asked() || !self.startable)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.supervised.deadline().filter(|_| !self.has_ended())
    }

    pub(super) fn reap(&mut self, now: Instant) {
        if let Some(ended) = self.supervised.reap(now) {
            info!(program = %self.plan.program.display(), %ended, "ended");
            if !self.startable && !self.supervised.was_asked() {
                warn!("only a keeper that is root can start it again");
            }
        }
    }

    /// Returns whether it was started.
    pub(super) fn start_if_due(&mut self, now: Instant) -> bool {
        if self.supervised.was_asked() || !self.startable || !self.supervised.is_due(now) {
            return false;
        }
        match self.spawn(now) {
            Ok(()) => true,
            Err(error) => {
                warn!(program = %self.plan.program.display(), %error, "cannot start the sidecar");
                self.supervised.failed(now);
                false
            }
        }
    }

    pub(super) fn stop(&mut self, deadline: Instant) {
        if self.supervised.ask_to_end(deadline) {
            self.out_of_reach = !self.supervised.signal(Signal::TERM);
        }
    }

    pub(super) fn kill(&mut self) {
        self.supervised.kill();
    }

    pub(super) fn kill_if_overdue(&mut self, now: Instant) {
        self.supervised.kill_if_overdue(now);
    }

    fn spawn(&mut self, now: Instant) -> io::Result<()> {
        let stdin = match &self.plan.stdin {
            Some(stdin) => Stdio::from(stdin.as_fd().try_clone_to_owned()?),
            None => Stdio::null(),
        };
        let mut command = Command::new(&self.plan.program);
        let child = command.args(&self.plan.args).stdin(stdin).process_group(0).spawn()?;
        let process = Process::of_child(child)?;
        info!(pid = process.pid(), program = %self.plan.program.display(), "started");
        self.supervised.begin(process, now);
        // It sends no message when it is ready.
        self.supervised.is_ready();
        Ok(())
    }
}
