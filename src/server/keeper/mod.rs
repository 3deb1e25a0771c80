//! The keeper: holds what needs privilege, starts the worker and keeps it running.
//!
//! It parses nothing from the network and has neither an async runtime nor threads: one loop over signals and the
//! worker's control socket. Everything a worker needs is made once, before the first one starts, and handed to
//! each: a worker may die at any moment and the next goes on with the same sockets and keys.

mod control;
mod pace;
mod process;
mod signals;
#[cfg(test)]
mod tests;
mod user;
mod worker;

use std::{
    ffi::OsString,
    io,
    net::UdpSocket,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tracing::{info, warn};

pub use self::{
    control::{Difference, Reply, Request, Response},
    user::{WorkerUser, WorkerUserError, choose_worker_user},
    worker::{Control, InheritanceError, KeeperClient, RequestError, WorkerInheritance},
};
use self::{
    control::{FromKeeper, ToKeeper},
    process::{Companion, Handover, Worker},
    signals::{Signal, Signals},
};
use crate::clock;

/// Most listening sockets; the kernel passes 253 descriptors in one message (SCM_MAX_FD, unix(7)).
pub const MOST_LISTENERS: usize = 64;

/// Most bytes of settings and keys handed to a worker.
pub const MOST_HANDOVER: usize = 16 * 1024 * 1024;

/// Exit codes by which a worker says that another start would not help either: sysexits' usage, unavailable,
/// no permission, configuration. Any other end, a panic or a signal is answered by a new worker.
pub const FINAL_EXIT_CODES: [i32; 4] = [64, 69, 77, 78];

/// Requests answered before signals are looked at again.
const REQUESTS_PER_TURN: usize = 16;

/// What to run, and what with.
#[derive(Debug)]
pub struct WorkerPlan {
    /// The worker's program, usually this one. Looked up anew for each worker, so that a reload takes the one that is
    /// on disk then.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Bound sockets, at most [`MOST_LISTENERS`]. Datagrams wait in them while a worker is replaced.
    pub listeners: Vec<UdpSocket>,
    /// Settings, keys and statements, opaque here, at most [`MOST_HANDOVER`]. Never on disk, in arguments or in the
    /// environment.
    pub handover: Vec<u8>,
    /// Whom the worker runs as; `None` is the keeper's own user.
    pub user: Option<WorkerUser>,
    /// A second program to keep running, as the keeper's own user: the built-in SSH server.
    pub companion: Option<CompanionPlan>,
    /// How long a worker that is told to stop may take before it is killed.
    pub grace: Duration,
}

/// A program that runs beside the workers and outlives each of them.
#[derive(Debug)]
pub struct CompanionPlan {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its standard input, for instance a listening socket; `None` is `/dev/null`.
    pub stdin: Option<OwnedFd>,
}

/// Answers a worker's request. It runs in the keeper's loop, which does nothing else meanwhile.
pub type Answer = Box<dyn FnMut(Request) -> Reply>;

/// How the keeper ended. No process of its is left in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeeperEnd {
    /// It was told to by SIGTERM or SIGINT.
    Stopped,
    /// The worker said by its exit code, one of [`FINAL_EXIT_CODES`], that it cannot work.
    WorkerGaveUp {
        /// That exit code.
        code: i32,
    },
}

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// More sockets than can be handed over.
    #[error("{given} listening sockets, at most {MOST_LISTENERS} can be handed to the worker")]
    TooManyListeners {
        /// How many there are.
        given: usize,
    },
    /// More settings than can be handed over.
    #[error("{given} bytes of settings, at most {MOST_HANDOVER} can be handed to the worker")]
    HandoverTooLarge {
        /// How many there are.
        given: usize,
    },
    /// What every worker gets could not be prepared.
    #[error("cannot prepare the worker's settings")]
    Prepare(#[source] io::Error),
    /// Signals could not be caught, or another keeper in this process catches them.
    #[error("cannot catch signals")]
    Signals(#[source] io::Error),
    /// The first worker, or the companion, could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// What starting it failed with.
        source: io::Error,
    },
    /// The kernel refused to wait for events.
    #[error("cannot wait for the worker")]
    Wait(#[source] io::Error),
}

/// Runs workers until it is told to stop: SIGTERM or SIGINT stop it gracefully, a second one at once; SIGHUP
/// replaces the worker.
pub struct Keeper {
    worker: Worker,
    companion: Option<Companion>,
    answer: Answer,
    signals: Signals,
    grace: Duration,
    ending: Option<KeeperEnd>,
}

impl Keeper {
    /// Prepares everything and starts the first worker. From here on this process's signals are the keeper's.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn start(plan: WorkerPlan, answer: Answer) -> Result<Self, KeeperError> {
        if plan.listeners.len() > MOST_LISTENERS {
            return Err(KeeperError::TooManyListeners {
                given: plan.listeners.len(),
            });
        }
        if plan.handover.len() > MOST_HANDOVER {
            return Err(KeeperError::HandoverTooLarge {
                given: plan.handover.len(),
            });
        }
        let handover = Handover::new(&plan.handover, plan.listeners).map_err(KeeperError::Prepare)?;
        let signals = Signals::catch().map_err(KeeperError::Signals)?;
        let now = clock::now();
        let companion = plan.companion.map(|plan| Companion::start(plan, now)).transpose()?;
        let worker = Worker::start(plan.program, plan.args, plan.user, handover, now)?;
        Ok(Self {
            worker,
            companion,
            answer,
            signals,
            grace: plan.grace,
            ending: None,
        })
    }

    /// The process id of the worker, while there is one.
    pub fn worker_pid(&self) -> Option<u32> {
        self.worker.pid()
    }

    /// Keeps the worker running until the end.
    ///
    /// # Errors
    /// `Wait`. The worker is killed then.
    pub fn run(mut self) -> Result<KeeperEnd, KeeperError> {
        loop {
            let now = clock::now();
            self.reap(now);
            if let Some(end) = self.ending.filter(|_| self.nothing_runs()) {
                info!("keeper ended");
                return Ok(end);
            }
            self.start_what_is_due(now);
            self.wait(now).map_err(KeeperError::Wait)?;
            for signal in self.signals.take() {
                self.handle_signal(signal);
            }
            self.answer_requests();
        }
    }

    fn nothing_runs(&self) -> bool {
        self.worker.pid().is_none() && self.companion.as_ref().is_none_or(Companion::has_ended)
    }

    fn reap(&mut self, now: Instant) {
        let gave_up = self.worker.reap(now).filter(|code| FINAL_EXIT_CODES.contains(code));
        if let Some(code) = gave_up.filter(|_| self.ending.is_none()) {
            warn!(code, "the worker cannot work, not starting another");
            self.ending = Some(KeeperEnd::WorkerGaveUp { code });
        }
        if let Some(companion) = &mut self.companion {
            companion.reap(now);
            // After the worker: its sessions may still have bytes for the companion.
            if self.ending.is_some() && self.worker.pid().is_none() {
                companion.stop(now + self.grace);
            }
        }
    }

    fn start_what_is_due(&mut self, now: Instant) {
        self.worker.kill_if_overdue(now);
        if let Some(companion) = &mut self.companion {
            companion.kill_if_overdue(now);
            companion.start_if_due(now);
        }
        if self.ending.is_none() {
            self.worker.start_if_due(now);
        }
    }

    /// Until a signal, a request or the next deadline.
    fn wait(&self, now: Instant) -> io::Result<()> {
        // At the end there is no next worker to be started at its time.
        let worker = self
            .worker
            .deadline()
            .filter(|_| self.ending.is_none() || self.worker.pid().is_some());
        let deadlines = [worker, self.companion.as_ref().and_then(Companion::deadline)];
        let timeout = deadlines.into_iter().flatten().min().map(|deadline| {
            let wait = deadline.saturating_duration_since(now);
            Timespec {
                tv_sec: wait.as_secs() as _,
                tv_nsec: wait.subsec_nanos() as _,
            }
        });
        let mut fds = vec![PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
        fds.extend(
            self.worker
                .control()
                .map(|control| PollFd::from_borrowed_fd(control, PollFlags::IN)),
        );
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn handle_signal(&mut self, signal: Signal) {
        let deadline = clock::now() + self.grace;
        match signal {
            // Whose child ended is seen by asking.
            Signal::Child => {}
            Signal::Reload => {
                info!("replacing the worker");
                self.worker.stop(deadline);
            }
            Signal::Stop if self.ending.is_none() => {
                info!("stopping");
                self.ending = Some(KeeperEnd::Stopped);
                self.worker.stop(deadline);
            }
            Signal::Stop => {
                warn!("told to stop again: killing what is left");
                self.worker.kill();
                self.companion.iter_mut().for_each(Companion::kill);
            }
        }
    }

    fn answer_requests(&mut self) {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(control) = self.worker.control() else { return };
            let answered = match control::receive::<ToKeeper>(control) {
                Ok(Some(ToKeeper { id, request })) => {
                    let Reply { response, descriptor } = (self.answer)(request);
                    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
                    control::send_with(control, &FromKeeper::Answer { id, response }, &descriptors)
                }
                Ok(None) => return self.worker.close(clock::now() + self.grace),
                Err(error) => Err(error),
            };
            match answered {
                Ok(()) => {}
                // Nothing more to read; or an answer that found no room, and will be missed in time.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It is not to be trusted: it speaks another language, or does not read what it asked for.
                Err(error) => self.worker.hang_up(&error),
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.worker.kill();
        self.companion.iter_mut().for_each(Companion::kill);
    }
}
