//! The worker, as its keeper sees it: the current process, or when to start the next one.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tracing::{error, info, warn};

use super::{
    process::{OwnProgram, Process, SupervisedProcess},
    watchdog::Watchdog,
};
use crate::server::{
    handover::{Inventory, KeeperConfig, Role, RunningWorker},
    ipc::{self, KeeperMessage, Notification, Stop, seqpacket},
};

/// How long a worker may take to leave its sessions to the next one. After that it is killed, and they are recovered
/// as after a crash.
const HAND_OVER_GRACE: Duration = Duration::from_secs(2);

/// How long a killed worker may take to end.
const KILL_TIMEOUT: Duration = Duration::from_millis(500);

/// A new worker reads the handover at once; if it takes longer than this, it has died.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// The keeper's ends of a worker's two connections.
#[derive(Debug)]
pub(super) struct WorkerSockets {
    control: OwnedFd,
    notify: OwnedFd,
}

#[derive(Debug)]
pub(super) struct Worker {
    program: OwnProgram,
    supervised: SupervisedProcess,
    control: Option<OwnedFd>,
    notify: Option<OwnedFd>,
    /// The next worker. It has everything, and waits until the current one is dead.
    next: Option<(Process, WorkerSockets)>,
    asked: Option<Stop>,
    watchdog: Watchdog,
}

impl Worker {
    /// No process yet; one is due.
    pub(super) fn none(program: OwnProgram, now: Instant) -> Self {
        Self {
            program,
            supervised: SupervisedProcess::new(now),
            control: None,
            notify: None,
            next: None,
            asked: None,
            watchdog: Watchdog::new(now),
        }
    }

    /// A worker that another keeper has started, and that serves.
    pub(super) fn adopt(&mut self, running: RunningWorker, now: Instant) {
        self.begin(Process::of_another(running.pid, running.process), now);
        (self.control, self.notify) = (Some(running.control), Some(running.notify));
        self.is_ready();
        if let Some(stop) = running.asked {
            self.asked = Some(stop);
            self.supervised.ask_to_end(now + HAND_OVER_GRACE);
        }
    }

    /// Starts a worker and gives it everything in `inventory`.
    pub(super) fn start(
        &self,
        config: &KeeperConfig,
        inventory: Inventory<'_>,
    ) -> io::Result<(Process, WorkerSockets)> {
        let (control, theirs) = seqpacket::pair()?;
        let mut command = self.program.command();
        // In a process group of its own: a terminal's Ctrl-C is for the keeper, which then stops the worker
        // gracefully.
        command
            .arg0(&config.program)
            .args(&config.worker_args)
            .stdin(Stdio::from(theirs))
            .process_group(0);
        if let Some(user) = &config.user {
            // If the keeper is root, std drops the supplementary groups as well, and the kernel all capabilities.
            command.uid(user.uid()).gid(user.gid());
        }
        let process = Process::of_child(command.spawn()?)?;
        match give(&control, inventory, SEND_TIMEOUT) {
            Ok(notify) => Ok((process, WorkerSockets { control, notify })),
            Err(error) => {
                process.signal(Signal::KILL);
                Err(error)
            }
        }
    }

    /// Makes a worker the current one.
    pub(super) fn started(&mut self, process: Process, sockets: WorkerSockets, now: Instant) {
        info!(pid = process.pid(), "worker started");
        self.begin(process, now);
        (self.control, self.notify) = (Some(sockets.control), Some(sockets.notify));
    }

    /// Kills the current worker, which has left everything to the next one. The next one has received everything
    /// before, so that at no moment only this keeper has it. It waits for the lock of the session store.
    pub(super) fn replace(&mut self, config: &KeeperConfig, next: io::Result<(Process, WorkerSockets)>) {
        match next {
            Ok(next) => self.next = Some(next),
            // Another start is tried once the current one is dead.
            Err(error) => warn!(%error, program = %config.program.display(), "cannot start the next worker"),
        }
        self.kill();
        if let Some(process) = self.supervised.process() {
            // Waits for the end before anything else is done, so that there are never two workers. A killed process
            // ends at once.
            process.has_ended(KILL_TIMEOUT);
        }
    }

    /// The next worker, if there is one.
    pub(super) fn take_next(&mut self) -> Option<(Process, WorkerSockets)> {
        self.next.take()
    }

    /// Kills the next worker, if there is one.
    pub(super) fn drop_next(&mut self) {
        if let Some((process, _)) = self.next.take() {
            process.signal(Signal::KILL);
        }
    }

    pub(super) fn was_told_to_hand_over(&self) -> bool {
        self.asked == Some(Stop::HandOver)
    }

    fn begin(&mut self, process: Process, now: Instant) {
        self.supervised.begin(process, now);
        self.asked = None;
        self.watchdog.restart(now);
    }

    /// A start failed.
    pub(super) fn failed(&mut self, error: &io::Error, now: Instant) {
        warn!(%error, "cannot start the worker");
        self.supervised.failed(now);
    }

    pub(super) fn list<'a>(&'a self, inventory: &mut Inventory<'a>) {
        let (Some(process), Some(control), Some(notify)) = (self.supervised.process(), &self.control, &self.notify)
        else {
            return;
        };
        let (pid, asked) = (process.pid(), self.asked);
        inventory.add(Role::WorkerProcess { pid, asked }, process);
        inventory.add(Role::WorkerControl, control);
        inventory.add(Role::Notify, notify);
    }

    pub(super) fn process(&self) -> Option<&Process> {
        self.supervised.process()
    }

    /// The keeper's end of the control connection, if it is in use.
    pub(super) fn control(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// The connection on which notifications arrive.
    pub(super) fn notify(&self) -> Option<BorrowedFd<'_>> {
        self.notify.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.supervised.is_due(now)
    }

    /// When to call [`Self::kill_if_needed`] at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let watch = self.supervised.process().map(|_| self.watchdog.deadline());
        self.supervised.deadline().into_iter().chain(watch).min()
    }

    /// The next notification and its descriptors; `None`: there is none now, or the connection has ended.
    pub(super) fn next_notification(&mut self) -> Option<(Notification, Vec<OwnedFd>)> {
        loop {
            match seqpacket::receive(self.notify.as_ref()?) {
                Ok(Some((text, descriptors))) => match Notification::of(&text) {
                    Some(notification) => return Some((notification, descriptors)),
                    None => warn!("ignored an unknown notification of the worker"),
                },
                Ok(None) => self.notify = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => error!(%error, "cannot receive a notification of the worker: what it stores is lost"),
            }
        }
    }

    pub(super) fn is_alive(&mut self) {
        self.watchdog.heard();
    }

    pub(super) fn is_ready(&mut self) {
        self.watchdog.handle_ready();
        self.supervised.is_ready();
    }

    /// Whether it has ended; the exit code if it was not asked to end. To be called after all its messages were
    /// handled.
    pub(super) fn reap(&mut self, now: Instant) -> Option<Option<i32>> {
        let ended = self.supervised.reap(now)?;
        (self.control, self.notify) = (None, None);
        match self.supervised.was_asked() {
            true => info!(%ended, "worker ended"),
            false => warn!(%ended, "worker died"),
        }
        Some(ended.code.filter(|_| !self.supervised.was_asked()))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.supervised
            .process()
            .is_some_and(|process| process.has_ended(Duration::ZERO))
    }

    /// Asks it to end, and kills it if it takes too long. Does nothing if it was asked before, except that a hand-over
    /// may become an end.
    pub(super) fn stop(&mut self, stop: Stop, grace: Duration, now: Instant) {
        let deadline = match stop {
            Stop::HandOver => now + HAND_OVER_GRACE.min(grace),
            Stop::End => now + grace,
        };
        let is_first = self.supervised.ask_to_end(deadline);
        let is_other = self.supervised.process().is_some() && self.asked == Some(Stop::HandOver) && stop == Stop::End;
        if !is_first && !is_other {
            return;
        }
        self.asked = Some(stop);
        if let Some(Err(error)) = self
            .control
            .as_ref()
            .map(|control| ipc::send(control, &KeeperMessage::Stop(stop)))
        {
            self.hang_up(&error);
        }
    }

    /// It has closed its end: it is about to end, and is killed if it does not.
    pub(super) fn close(&mut self, deadline: Instant) {
        self.control = None;
        self.supervised.end_by(deadline);
    }

    /// Kills a worker that violates the protocol.
    pub(super) fn hang_up(&mut self, error: &io::Error) {
        warn!(%error, "the worker violated the protocol: killed");
        self.control = None;
        self.kill();
    }

    pub(super) fn kill(&mut self) {
        self.supervised.kill();
    }

    /// Kills it if it is overdue or hangs.
    pub(super) fn kill_if_needed(&mut self, now: Instant) {
        self.supervised.kill_if_overdue(now);
        if self.supervised.process().is_some() && self.watchdog.is_silent(now) {
            warn!("the worker does not respond: killed");
            self.kill();
            self.watchdog.handle_killed(now);
        }
    }
}

/// Sends everything, with the worker's end of the notification connection. Returns the keeper's end.
fn give(control: &OwnedFd, inventory: Inventory<'_>, timeout: Duration) -> io::Result<OwnedFd> {
    let (notify, theirs) = seqpacket::pair()?;
    let mut inventory = inventory;
    inventory.add(Role::Notify, &theirs);
    inventory.send(control, timeout)?;
    Ok(notify)
}
