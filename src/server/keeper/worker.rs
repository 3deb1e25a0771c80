//! The keeper's view of its worker: the present one, or when to start the next.

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
    control::{self, FromKeeper, Stop},
    estate::{Inventory, Role, RunningWorker, Terms},
    notice::Notice,
    packet,
    process::{Life, OwnProgram, Process},
    watchdog::Watchdog,
};

/// How long a worker may take to leave its sessions to the next. What it does not manage is as after a crash.
const HAND_OVER_GRACE: Duration = Duration::from_secs(2);

/// The same for what is killed.
const AFTER_KILL: Duration = Duration::from_millis(500);

/// A new worker reads what it gets at once; longer than this means that it died.
const PATIENCE: Duration = Duration::from_secs(2);

/// Our ends of a worker's two connections.
#[derive(Debug)]
pub(super) struct Ends {
    control: OwnedFd,
    notify: OwnedFd,
}

#[derive(Debug)]
pub(super) struct Worker {
    program: OwnProgram,
    life: Life,
    control: Option<OwnedFd>,
    notify: Option<OwnedFd>,
    /// One that has everything, and waits until the present one is dead.
    next: Option<(Process, Ends)>,
    asked: Option<Stop>,
    watchdog: Watchdog,
}

impl Worker {
    /// None yet: one is due.
    pub(super) fn none(program: OwnProgram, now: Instant) -> Self {
        Self {
            program,
            life: Life::new(now),
            control: None,
            notify: None,
            next: None,
            asked: None,
            watchdog: Watchdog::new(now),
        }
    }

    /// One that somebody else has started, and that serves.
    pub(super) fn go_on(&mut self, running: RunningWorker, now: Instant) {
        self.begin(Process::of_another(running.pid, running.process), now);
        (self.control, self.notify) = (Some(running.control), Some(running.notify));
        self.is_ready();
        if let Some(stop) = running.asked {
            self.asked = Some(stop);
            self.life.ask_to_end(now + HAND_OVER_GRACE);
        }
    }

    /// Starts one with everything in `inventory`.
    pub(super) fn start(&self, terms: &Terms, inventory: Inventory<'_>) -> io::Result<(Process, Ends)> {
        let (control, theirs) = packet::pair()?;
        let mut command = self.program.command();
        // In a process group of its own: a terminal's Ctrl-C is for the keeper, which then stops the worker in order.
        command
            .arg0(&terms.program)
            .args(&terms.worker_args)
            .stdin(Stdio::from(theirs))
            .process_group(0);
        if let Some(user) = &terms.user {
            // For root, std drops the supplementary groups as well, and the kernel all capabilities.
            command.uid(user.uid()).gid(user.gid());
        }
        let process = Process::of_child(command.spawn()?)?;
        match give(&control, inventory, PATIENCE) {
            Ok(notify) => Ok((process, Ends { control, notify })),
            Err(error) => {
                process.signal(Signal::KILL);
                Err(error)
            }
        }
    }

    /// It was started.
    pub(super) fn started(&mut self, process: Process, ends: Ends, now: Instant) {
        info!(pid = process.pid(), "worker started");
        self.begin(process, now);
        (self.control, self.notify) = (Some(ends.control), Some(ends.notify));
    }

    /// It has let go of everything that it had. Whether that was asked of it.
    /// The present one has let go of everything: it is killed once the next one has it all, so that it is never this
    /// keeper's alone. The vault's lock keeps the next one waiting until then.
    pub(super) fn replace(&mut self, terms: &Terms, next: io::Result<(Process, Ends)>) {
        match next {
            Ok(next) => self.next = Some(next),
            // It is tried again once the present one is dead.
            Err(error) => warn!(%error, program = %terms.program.display(), "cannot start the next worker"),
        }
        self.kill();
        if let Some(process) = self.life.process() {
            // Before anything else is done that would have to reckon with two of them. What is killed dies at once.
            process.has_ended(AFTER_KILL);
        }
    }

    /// The one that waits, if there is one.
    pub(super) fn take_next(&mut self) -> Option<(Process, Ends)> {
        self.next.take()
    }

    /// There is to be no next one, or another.
    pub(super) fn drop_next(&mut self) {
        if let Some((process, _)) = self.next.take() {
            process.signal(Signal::KILL);
        }
    }

    pub(super) fn was_told_to_hand_over(&self) -> bool {
        self.asked == Some(Stop::HandOver)
    }

    fn begin(&mut self, process: Process, now: Instant) {
        self.life.begin(process, now);
        self.asked = None;
        self.watchdog = Watchdog::new(now);
    }

    /// It could not be started.
    pub(super) fn failed(&mut self, error: &io::Error, now: Instant) {
        warn!(%error, "cannot start the worker");
        self.life.failed(now);
    }

    pub(super) fn list<'a>(&'a self, inventory: &mut Inventory<'a>) {
        let (Some(process), Some(control), Some(notify)) = (self.life.process(), &self.control, &self.notify) else {
            return;
        };
        let (pid, asked) = (process.pid(), self.asked);
        inventory.add(Role::WorkerProcess { pid, asked }, process);
        inventory.add(Role::WorkerControl, control);
        inventory.add(Role::Notify, notify);
    }

    pub(super) fn process(&self) -> Option<&Process> {
        self.life.process()
    }

    /// Our end, while the worker is spoken with.
    pub(super) fn control(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// Where its notices come from.
    pub(super) fn notify(&self) -> Option<BorrowedFd<'_>> {
        self.notify.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.life.is_due(now)
    }

    /// When to look after it at the latest.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let watch = self.life.process().map(|_| self.watchdog.deadline());
        self.life.deadline().into_iter().chain(watch).min()
    }

    /// Its next notice with what came with it; `None` for now, or for ever.
    pub(super) fn next_notice(&mut self) -> Option<(Notice, Vec<OwnedFd>)> {
        loop {
            match packet::receive(self.notify.as_ref()?) {
                Ok(Some((text, descriptors))) => match Notice::of(&text) {
                    Some(notice) => return Some((notice, descriptors)),
                    None => warn!("the worker notifies of something unknown"),
                },
                Ok(None) => self.notify = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => error!(%error, "something that the worker wants kept is lost"),
            }
        }
    }

    pub(super) fn is_alive(&mut self) {
        self.watchdog.heard();
    }

    pub(super) fn is_ready(&mut self) {
        self.watchdog.heard();
        self.life.is_ready();
    }

    /// Whether it has ended; its exit code, if it ended without being asked to. Everything it had to say must have
    /// been heard before.
    pub(super) fn reap(&mut self, now: Instant) -> Option<Option<i32>> {
        let ended = self.life.reap(now)?;
        (self.control, self.notify) = (None, None);
        match self.life.was_asked() {
            true => info!(%ended, "worker ended"),
            false => warn!(%ended, "worker died"),
        }
        Some(ended.code.filter(|_| !self.life.was_asked()))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.life
            .process()
            .is_some_and(|process| process.has_ended(Duration::ZERO))
    }

    /// Asks it to end, and kills it when it takes too long. Does nothing if it was asked already, but that a hand-over
    /// becomes an end.
    pub(super) fn stop(&mut self, stop: Stop, grace: Duration, now: Instant) {
        let deadline = match stop {
            Stop::HandOver => now + HAND_OVER_GRACE.min(grace),
            Stop::End => now + grace,
        };
        let is_first = self.life.ask_to_end(deadline);
        let is_other = self.life.process().is_some() && self.asked == Some(Stop::HandOver) && stop == Stop::End;
        if !is_first && !is_other {
            return;
        }
        self.asked = Some(stop);
        if let Some(Err(error)) = self
            .control
            .as_ref()
            .map(|control| control::send(control, &FromKeeper::Stop(stop)))
        {
            self.hang_up(&error);
        }
    }

    /// It has closed its end: it is about to end, and is killed if it does not.
    pub(super) fn close(&mut self, deadline: Instant) {
        self.control = None;
        self.life.end_by(deadline);
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

    /// Kills it if it is overdue, or hangs.
    pub(super) fn kill_if_needed(&mut self, now: Instant) {
        self.life.kill_if_overdue(now);
        if self.life.process().is_some() && self.watchdog.is_silent(now) {
            warn!("the worker gives no sign of life: killed");
            self.kill();
            self.watchdog = Watchdog::new(now);
        }
    }
}

/// Sends everything, and the other end of what is stored by, whose own end it returns.
fn give(control: &OwnedFd, inventory: Inventory<'_>, patience: Duration) -> io::Result<OwnedFd> {
    let (notify, theirs) = packet::pair()?;
    let mut inventory = inventory;
    inventory.add(Role::Notify, &theirs);
    inventory.send(control, patience)?;
    Ok(notify)
}
