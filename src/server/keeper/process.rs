//! The keeper's child processes: how one is started, stopped and started again.

use std::{
    ffi::OsString,
    io::{self, Write},
    net::UdpSocket,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags},
    io::FdFlags,
    process::{Pid, Signal, kill_process},
};
use tracing::{info, warn};

use super::{
    CompanionPlan, KeeperError,
    control::{self, FromKeeper, Greeting},
    pace::Pace,
    user::WorkerUser,
};

/// How long after a start that failed another is tried at the earliest: nothing has changed by then, most likely.
const RETRY: Duration = Duration::from_millis(100);

/// A killed process is gone within this time, or hangs in the kernel.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// What every worker gets.
#[derive(Debug)]
pub(super) struct Handover {
    settings: OwnedFd,
    listeners: Vec<UdpSocket>,
}

impl Handover {
    pub(super) fn new(settings: &[u8], listeners: Vec<UdpSocket>) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut memory = std::fs::File::from(rustix::fs::memfd_create("bowline-worker-settings", flags)?);
        memory.write_all(settings)?;
        // One worker must not be able to change what the next one reads.
        rustix::fs::fcntl_add_seals(
            &memory,
            SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
        )?;
        Ok(Self {
            settings: memory.into(),
            listeners,
        })
    }

    /// A control socket for a new worker, with everything in it: its end, and ours.
    fn control(&self, unprivileged: bool) -> io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) = control::pair()?;
        let descriptors: Vec<BorrowedFd<'_>> = std::iter::once(self.settings.as_fd())
            .chain(self.listeners.iter().map(AsFd::as_fd))
            .collect();
        control::send_with(
            &ours,
            &Greeting {
                version: control::VERSION,
                unprivileged,
            },
            &descriptors,
        )?;
        Ok((ours, theirs))
    }
}

/// The worker: the present one, or when to start the next.
#[derive(Debug)]
pub(super) struct Worker {
    program: PathBuf,
    args: Vec<OsString>,
    user: Option<WorkerUser>,
    handover: Handover,
    life: Life,
    control: Option<OwnedFd>,
}

impl Worker {
    pub(super) fn start(
        program: PathBuf,
        args: Vec<OsString>,
        user: Option<WorkerUser>,
        handover: Handover,
        now: Instant,
    ) -> Result<Self, KeeperError> {
        let mut worker = Self {
            program,
            args,
            user,
            handover,
            life: Life::new(now),
            control: None,
        };
        worker.spawn(now).map_err(|source| KeeperError::Start {
            program: worker.program.clone(),
            source,
        })?;
        Ok(worker)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.life.process.as_ref().map(Child::id)
    }

    /// Our end, while the worker is spoken with.
    pub(super) fn control(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.life.deadline()
    }

    /// Whether it has ended; its exit code, if it ended without being asked to.
    pub(super) fn reap(&mut self, now: Instant) -> Option<i32> {
        let status = self.life.reap(now)?;
        self.control = None;
        let (code, signal) = (status.code(), status.signal());
        match self.life.asked {
            true => info!(code, signal, "worker ended"),
            false => warn!(code, signal, "worker died"),
        }
        code.filter(|_| !self.life.asked)
    }

    pub(super) fn start_if_due(&mut self, now: Instant) {
        if self.life.is_due(now)
            && let Err(error) = self.spawn(now)
        {
            warn!(program = %self.program.display(), %error, "cannot start the worker");
            self.life.failed(now);
        }
    }

    /// Asks it to end, and kills it at the deadline. Does nothing if it was asked already.
    pub(super) fn stop(&mut self, deadline: Instant) {
        if !self.life.ask_to_end(deadline) {
            return;
        }
        let told = self
            .control
            .as_ref()
            .map(|control| control::send(control, &FromKeeper::Stop));
        if let Some(Err(error)) = told {
            self.hang_up(&error);
        }
    }

    /// It has closed its end: it is about to end, and is killed if it does not.
    pub(super) fn close(&mut self, deadline: Instant) {
        self.control = None;
        self.life.kill_at.get_or_insert(deadline);
    }

    /// Ends what cannot be spoken with.
    pub(super) fn hang_up(&mut self, error: &io::Error) {
        warn!(%error, "the worker does not keep to the protocol: killed");
        self.control = None;
        self.kill();
    }

    pub(super) fn kill(&mut self) {
        self.life.kill();
    }

    pub(super) fn kill_if_overdue(&mut self, now: Instant) {
        self.life.kill_if_overdue(now);
    }

    fn spawn(&mut self, now: Instant) -> io::Result<()> {
        let (ours, theirs) = self.handover.control(self.user.is_some())?;
        let process = self.launch(theirs)?;
        info!(pid = process.id(), "worker started");
        self.life.begin(process, now);
        self.control = Some(ours);
        Ok(())
    }

    fn launch(&self, control: OwnedFd) -> io::Result<Child> {
        let again = control.try_clone()?;
        match self.command(&self.program, control).spawn() {
            // The worker's user may not enter the folder (a home, a build folder) of a program that it may run.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.user.is_some() => {
                let program = rustix::fs::open(&self.program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
                rustix::io::fcntl_setfd(&program, FdFlags::empty())?;
                let path = format!("/proc/self/fd/{}", program.as_raw_fd());
                self.command(Path::new(&path), again).spawn()
            }
            result => result,
        }
    }

    /// In a process group of its own: a terminal's Ctrl-C is for the keeper, which then stops the worker in order.
    fn command(&self, program: &Path, control: OwnedFd) -> Command {
        let mut command = Command::new(program);
        command
            .arg0(&self.program)
            .args(&self.args)
            .stdin(Stdio::from(control))
            .process_group(0);
        if let Some(user) = &self.user {
            // For root, std drops the supplementary groups as well, and the kernel all capabilities.
            command.uid(user.uid()).gid(user.gid());
        }
        command
    }
}

/// A program that is kept running, and stopped by SIGTERM.
#[derive(Debug)]
pub(super) struct Companion {
    plan: CompanionPlan,
    life: Life,
}

impl Companion {
    pub(super) fn start(plan: CompanionPlan, now: Instant) -> Result<Self, KeeperError> {
        let mut companion = Self {
            plan,
            life: Life::new(now),
        };
        companion.spawn(now).map_err(|source| KeeperError::Start {
            program: companion.plan.program.clone(),
            source,
        })?;
        Ok(companion)
    }

    /// For good: it was stopped, and is not running any more.
    pub(super) fn has_ended(&self) -> bool {
        self.life.process.is_none() && self.life.asked
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.life.deadline().filter(|_| !self.has_ended())
    }

    pub(super) fn reap(&mut self, now: Instant) {
        if let Some(status) = self.life.reap(now) {
            info!(program = %self.plan.program.display(), %status, "ended");
        }
    }

    pub(super) fn start_if_due(&mut self, now: Instant) {
        if !self.life.asked
            && self.life.is_due(now)
            && let Err(error) = self.spawn(now)
        {
            warn!(program = %self.plan.program.display(), %error, "cannot start");
            self.life.failed(now);
        }
    }

    pub(super) fn stop(&mut self, deadline: Instant) {
        if self.life.ask_to_end(deadline) {
            self.life.signal(Signal::TERM);
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
            Some(stdin) => Stdio::from(stdin.try_clone()?),
            None => Stdio::null(),
        };
        let mut command = Command::new(&self.plan.program);
        let process = command.args(&self.plan.args).stdin(stdin).process_group(0).spawn()?;
        info!(pid = process.id(), program = %self.plan.program.display(), "started");
        self.life.begin(process, now);
        Ok(())
    }
}

/// One process after the other.
#[derive(Debug)]
struct Life {
    process: Option<Child>,
    pace: Pace,
    since: Instant,
    /// When the next may start.
    due: Instant,
    /// Whether the present, or last, process was asked to end.
    asked: bool,
    /// When to kill the present one.
    kill_at: Option<Instant>,
}

impl Life {
    fn new(now: Instant) -> Self {
        Self {
            process: None,
            pace: Pace::default(),
            since: now,
            due: now,
            asked: false,
            kill_at: None,
        }
    }

    fn begin(&mut self, process: Child, now: Instant) {
        self.process = Some(process);
        self.since = now;
        self.asked = false;
        self.kill_at = None;
    }

    fn is_due(&self, now: Instant) -> bool {
        self.process.is_none() && now >= self.due
    }

    fn deadline(&self) -> Option<Instant> {
        if self.process.is_some() {
            self.kill_at
        } else {
            Some(self.due)
        }
    }

    /// `false` if it was asked already, or there is none to be told.
    fn ask_to_end(&mut self, deadline: Instant) -> bool {
        let is_first = !self.asked;
        self.asked = true;
        self.kill_at.get_or_insert(deadline);
        is_first && self.process.is_some()
    }

    fn reap(&mut self, now: Instant) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        // One that was asked to end did not die of a fault.
        self.due = match self.asked {
            true => now,
            false => now + self.pace.after_death(now.saturating_duration_since(self.since)),
        };
        Some(status)
    }

    /// A start failed: as if it had died at once.
    fn failed(&mut self, now: Instant) {
        self.due = now + self.pace.after_death(Duration::ZERO).max(RETRY);
    }

    fn kill_if_overdue(&mut self, now: Instant) {
        if self.process.is_some() && self.kill_at.is_some_and(|deadline| now >= deadline) {
            warn!("did not end in time: killed");
            self.kill();
            self.kill_at = Some(now + AFTER_KILL);
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    /// Our own child that has not been waited for: its process id cannot be another's.
    fn signal(&mut self, signal: Signal) {
        let pid = self
            .process
            .as_ref()
            .and_then(|process| Pid::from_raw(process.id() as i32));
        if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
            warn!(%error, "cannot signal a child");
        }
    }
}
