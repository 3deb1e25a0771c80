//! A process that is watched, and one after the other of them.
//!
//! Watched by a pidfd: whoever follows a keeper is not the parent of its worker, and a number could be another's by then.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    process::{Child, Command},
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    fs::{Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use tracing::warn;

use super::{pace::Pace, packet};

/// How long after a start that failed another is tried at the earliest: nothing has changed by then, most likely.
const RETRY: Duration = Duration::from_millis(100);

/// A killed process is gone within this time, or hangs in the kernel.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// The program that runs here, however its file was replaced, renamed or deleted since.
#[derive(Debug)]
pub(super) struct OwnProgram(OwnedFd);

impl OwnProgram {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open("/proc/self/exe", flags, Mode::empty())?))
    }

    /// To be started, also by a user who may not enter the folder (a home, a build folder) that the program is in.
    pub(super) fn command(&self) -> Command {
        command(self.0.as_fd())
    }
}

impl AsFd for OwnProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A program that is open.
pub(super) fn command(program: BorrowedFd<'_>) -> Command {
    Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
}

/// A process that runs, or has ended and nobody has looked yet.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    watch: OwnedFd,
}

/// How a process ended. Both empty: it was another's child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (_, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("somehow"),
        }
    }
}

impl Process {
    /// A child, from here on waited for by us alone.
    pub(super) fn of_child(mut child: Child) -> io::Result<Self> {
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(watch) => Ok(Self { pid: child.id(), watch }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// One that somebody else has started.
    pub(super) fn of_another(pid: u32, watch: OwnedFd) -> Self {
        Self { pid, watch }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it ends within some time.
    pub(super) fn has_ended(&self, within: Duration) -> bool {
        packet::wait_for(self.watch.as_fd(), PollFlags::IN, within).unwrap_or(false)
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<Ended> {
        if !self.has_ended(Duration::ZERO) {
            return None;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // Fails for what is not our child.
        let status = waitid(WaitId::PidFd(self.watch.as_fd()), options).ok().flatten();
        Some(Ended {
            code: status.as_ref().and_then(|status| status.exit_status()),
            signal: status.as_ref().and_then(|status| status.terminating_signal()),
        })
    }

    /// `false`: it is not ours to signal.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        match pidfd_send_signal(&self.watch, signal) {
            // Ended already.
            Ok(()) | Err(Errno::SRCH) => true,
            Err(error) => {
                warn!(pid = self.pid, %error, "cannot signal a process");
                error != Errno::PERM
            }
        }
    }
}

/// Becomes readable when the process ends.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

/// One process after the other.
#[derive(Debug)]
pub(super) struct Life {
    process: Option<Process>,
    pace: Pace,
    since: Instant,
    /// Whether the present process has done what it was started for.
    ready: bool,
    /// When the next may start.
    due: Instant,
    /// Whether the present, or last, process was asked to end.
    asked: bool,
    /// When to kill the present one.
    kill_at: Option<Instant>,
}

impl Life {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            process: None,
            pace: Pace::default(),
            since: now,
            ready: false,
            due: now,
            asked: false,
            kill_at: None,
        }
    }

    pub(super) fn begin(&mut self, process: Process, now: Instant) {
        self.process = Some(process);
        self.since = now;
        self.ready = false;
        self.asked = false;
        self.kill_at = None;
    }

    pub(super) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    pub(super) fn was_asked(&self) -> bool {
        self.asked
    }

    pub(super) fn is_ready(&mut self) {
        self.ready = true;
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.process.is_none() && now >= self.due
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.process.is_some() {
            self.kill_at
        } else {
            Some(self.due)
        }
    }

    /// `false` if it was asked already, or there is none to be told.
    pub(super) fn ask_to_end(&mut self, deadline: Instant) -> bool {
        let is_first = !self.asked;
        self.asked = true;
        self.end_by(deadline);
        is_first && self.process.is_some()
    }

    /// It is killed if it has not ended by then.
    pub(super) fn end_by(&mut self, deadline: Instant) {
        self.kill_at.get_or_insert(deadline);
    }

    pub(super) fn reap(&mut self, now: Instant) -> Option<Ended> {
        let ended = self.process.as_ref()?.ended()?;
        self.process = None;
        // One that was asked to end did not die of a fault.
        self.due = match self.asked {
            true => now,
            false => {
                now + self
                    .pace
                    .after_death(now.saturating_duration_since(self.since), self.ready)
            }
        };
        Some(ended)
    }

    /// A start failed: as if it had died at once.
    pub(super) fn failed(&mut self, now: Instant) {
        self.due = now + self.pace.after_death(Duration::ZERO, false).max(RETRY);
    }

    pub(super) fn kill_if_overdue(&mut self, now: Instant) {
        if self.process.is_some() && self.kill_at.is_some_and(|deadline| now >= deadline) {
            warn!("did not end in time: killed");
            self.kill();
            self.kill_at = Some(now + AFTER_KILL);
        }
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// `false`: it is not ours to signal.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        self.process.as_ref().is_none_or(|process| process.signal(signal))
    }
}
