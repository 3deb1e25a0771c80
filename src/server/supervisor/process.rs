//! A supervised process, which is started again when it ends, and when that is.
//!
//! It is watched by a pidfd: a keeper that has taken over is not the parent of its worker, and a process id might have
//! been reused.

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

use crate::server::ipc::seqpacket;

/// The shortest delay after a failed start: the cause has most likely not changed before.
const START_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A killed process ends within this time, or hangs in the kernel.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A process that ran for at least this long did not fail at its start. Short on purpose: a process that is killed
/// every second is restarted at once each time.
const MIN_UPTIME: Duration = Duration::from_millis(200);

/// Failed starts in a row that are followed by a restart at once.
const IMMEDIATE_RESTARTS: u32 = 5;

/// The delay after the first failed start that is not followed by a restart at once. Each one doubles it.
const MIN_DELAY: Duration = Duration::from_millis(20);

/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// The program of this process, even if its file was replaced, renamed or deleted since.
#[derive(Debug)]
pub(super) struct OwnProgram(OwnedFd);

impl OwnProgram {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open("/proc/self/exe", flags, Mode::empty())?))
    }

    /// A command that runs it. It also works for a user who may not enter the program's folder (a home, a build
    /// folder).
    pub(super) fn command(&self) -> Command {
        command(self.0.as_fd())
    }
}

impl AsFd for OwnProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A command that runs an open program.
pub(super) fn command(program: BorrowedFd<'_>) -> Command {
    Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
}

/// A process that runs, or has ended and was not waited for yet.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    watch: OwnedFd,
}

/// How a process ended. Both are `None` if it was not our child.
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
            (None, None) => f.write_str("an unknown status"),
        }
    }
}

impl Process {
    /// A child. Nobody else waits for it from now on.
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

    /// A process that another process has started.
    pub(super) fn of_another(pid: u32, watch: OwnedFd) -> Self {
        Self { pid, watch }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it ends within some time.
    pub(super) fn has_ended(&self, within: Duration) -> bool {
        seqpacket::wait_for(self.watch.as_fd(), PollFlags::IN, within).unwrap_or(false)
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<Ended> {
        if !self.has_ended(Duration::ZERO) {
            return None;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        // Fails if the process is not our child.
        let status = waitid(WaitId::PidFd(self.watch.as_fd()), options).ok().flatten();
        Some(Ended {
            code: status.as_ref().and_then(|status| status.exit_status()),
            signal: status.as_ref().and_then(|status| status.terminating_signal()),
        })
    }

    /// `false`: this process has no right to signal it.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        match pidfd_send_signal(&self.watch, signal) {
            // It has ended already.
            Ok(()) | Err(Errno::SRCH) => true,
            Err(error) => {
                warn!(pid = self.pid, %error, "cannot send a signal");
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

/// A process that is started again when it ends.
#[derive(Debug)]
pub(super) struct SupervisedProcess {
    process: Option<Process>,
    restart_delay: RestartDelay,
    since: Instant,
    /// Whether the current process has become ready.
    ready: bool,
    /// When the next one may start.
    due: Instant,
    /// Whether the current or last process was asked to end.
    asked: bool,
    /// When to kill the current one.
    kill_at: Option<Instant>,
}

impl SupervisedProcess {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            process: None,
            restart_delay: RestartDelay::default(),
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

    /// `false` if it was asked before, or no process is running.
    pub(super) fn ask_to_end(&mut self, deadline: Instant) -> bool {
        let is_first = !self.asked;
        self.asked = true;
        self.end_by(deadline);
        is_first && self.process.is_some()
    }

    /// Kills it if it has not ended by then.
    pub(super) fn end_by(&mut self, deadline: Instant) {
        self.kill_at.get_or_insert(deadline);
    }

    pub(super) fn reap(&mut self, now: Instant) -> Option<Ended> {
        let ended = self.process.as_ref()?.ended()?;
        self.process = None;
        // A process that was asked to end has not failed.
        self.due = match self.asked {
            true => now,
            false => {
                now + self
                    .restart_delay
                    .delay_after_exit(now.saturating_duration_since(self.since), self.ready)
            }
        };
        Some(ended)
    }

    /// A failed start counts like a process that ended at once.
    pub(super) fn failed(&mut self, now: Instant) {
        self.due = now
            + self
                .restart_delay
                .delay_after_exit(Duration::ZERO, false)
                .max(START_RETRY_DELAY);
    }

    pub(super) fn kill_if_overdue(&mut self, now: Instant) {
        if self.process.is_some() && self.kill_at.is_some_and(|deadline| now >= deadline) {
            warn!("a process did not end in time: killed");
            self.kill();
            self.kill_at = Some(now + KILL_TIMEOUT);
        }
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// `false`: this process has no right to signal it.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        self.process.as_ref().is_none_or(|process| process.signal(signal))
    }
}

/// When to restart a process that has died. Pure: time is an argument.
#[derive(Debug, Default)]
pub(in crate::server) struct RestartDelay {
    bad_starts: u32,
}

impl RestartDelay {
    /// How long to wait after a process has ended. Zero in general; after more than five failed starts in a row 20 ms,
    /// doubled each time up to 1 s. A start has failed if the process ended early or never became ready.
    pub(in crate::server) fn delay_after_exit(&mut self, lived: Duration, got_ready: bool) -> Duration {
        if lived >= MIN_UPTIME && got_ready {
            self.bad_starts = 0;
            return Duration::ZERO;
        }
        self.bad_starts = self.bad_starts.saturating_add(1);
        match self.bad_starts.checked_sub(IMMEDIATE_RESTARTS + 1) {
            None => Duration::ZERO,
            Some(doublings) => (MIN_DELAY * 2u32.pow(doublings.min(16))).min(MAX_DELAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bad_starts_are_answered_at_once_then_ever_more_slowly() {
        for (lived, got_ready) in [(Duration::ZERO, true), (MIN_UPTIME, false)] {
            let mut restart_delay = RestartDelay::default();
            let waits: Vec<u128> = (0..13)
                .map(|_| restart_delay.delay_after_exit(lived, got_ready).as_millis())
                .collect();
            assert_eq!(waits, [0, 0, 0, 0, 0, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        }
    }

    #[test]
    fn a_kill_every_second_for_an_hour_is_answered_at_once_each_time() {
        let mut restart_delay = RestartDelay::default();
        assert!((0..3600).all(|_| restart_delay.delay_after_exit(Duration::from_secs(1), true).is_zero()));
    }

    #[test]
    fn good_start_makes_up_for_earlier_bad_ones() {
        let mut restart_delay = RestartDelay::default();
        (0..100).for_each(|_| assert!(restart_delay.delay_after_exit(Duration::ZERO, true) <= MAX_DELAY));
        assert_eq!(restart_delay.delay_after_exit(MIN_UPTIME, true), Duration::ZERO);
        assert_eq!(restart_delay.delay_after_exit(Duration::ZERO, true), Duration::ZERO);
    }
}
