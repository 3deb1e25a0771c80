//! A program that is kept running beside the workers, and stopped by SIGTERM: the built-in SSH server.
//!
//! It outlives workers and keepers alike: its sessions are theirs.

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
    CompanionPlan, KeeperError,
    estate::{Inventory, Role},
    process::{Life, Process},
};

#[derive(Debug)]
pub(super) struct Companion {
    plan: CompanionPlan,
    life: Life,
    /// Whether this keeper may start it: with the rights it is meant to have.
    startable: bool,
    /// It is another user's: this keeper cannot end it.
    out_of_reach: bool,
}

impl Companion {
    pub(super) fn start(plan: CompanionPlan, now: Instant) -> Result<Self, KeeperError> {
        let mut companion = Self {
            plan,
            life: Life::new(now),
            startable: true,
            out_of_reach: false,
        };
        companion.spawn(now).map_err(|source| KeeperError::Start {
            program: companion.plan.program.clone(),
            source,
        })?;
        Ok(companion)
    }

    /// One that runs already, unless it has died with nobody there to see it.
    pub(super) fn go_on(plan: CompanionPlan, running: Option<(u32, OwnedFd)>, startable: bool, now: Instant) -> Self {
        let mut life = Life::new(now);
        if let Some((pid, watch)) = running {
            life.begin(Process::of_another(pid, watch), now);
        }
        Self {
            plan,
            life,
            startable,
            out_of_reach: false,
        }
    }

    pub(super) fn list<'a>(&'a self, inventory: &mut Inventory<'a>) {
        if let Some(stdin) = &self.plan.stdin {
            inventory.add(Role::CompanionInput, stdin);
        }
        if let Some(process) = self.life.process() {
            inventory.add(Role::CompanionProcess { pid: process.pid() }, process);
        }
    }

    pub(super) fn process(&self) -> Option<&Process> {
        self.life.process()
    }

    /// For good: it was stopped, and is not running any more, or will not end by our will.
    pub(super) fn has_ended(&self) -> bool {
        self.out_of_reach || self.life.process().is_none() && (self.life.was_asked() || !self.startable)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.life.deadline().filter(|_| !self.has_ended())
    }

    pub(super) fn reap(&mut self, now: Instant) {
        if let Some(ended) = self.life.reap(now) {
            info!(program = %self.plan.program.display(), %ended, "ended");
            if !self.startable && !self.life.was_asked() {
                warn!("only a keeper with root's rights can start it again");
            }
        }
    }

    /// Whether it was started.
    pub(super) fn start_if_due(&mut self, now: Instant) -> bool {
        if self.life.was_asked() || !self.startable || !self.life.is_due(now) {
            return false;
        }
        match self.spawn(now) {
            Ok(()) => true,
            Err(error) => {
                warn!(program = %self.plan.program.display(), %error, "cannot start");
                self.life.failed(now);
                false
            }
        }
    }

    pub(super) fn stop(&mut self, deadline: Instant) {
        if self.life.ask_to_end(deadline) {
            self.out_of_reach = !self.life.signal(Signal::TERM);
        }
    }

    pub(super) fn kill(&mut self) {
        self.life.kill();
    }

    pub(super) fn kill_if_overdue(&mut self, now: Instant) {
        self.life.kill_if_overdue(now);
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
        self.life.begin(process, now);
        // There is nothing that it would have to say first.
        self.life.is_ready();
        Ok(())
    }
}
