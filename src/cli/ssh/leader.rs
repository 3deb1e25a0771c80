//! Starts ssh on a terminal of its own, below a process that leads the terminal's session.
//!
//! ssh cannot lead the session itself: the kernel stops no process whose group has no parent in its session (an orphaned
//! process group), and then `~^Z` and Ctrl-Z at a prompt would do nothing. So there are three processes, as with a shell
//! on a terminal:
//!
//! ```text
//! bowline ssh ─ leader (a fork, without exec) ─ ssh
//! ```
//!
//! The leader stops when ssh stops, ends as ssh ends, and forwards signals to it. It makes system calls only: no memory is
//! allocated, so it costs a few pages.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus};
use rustix::termios;

/// What is forwarded to ssh, whoever sends it to the leader.
const FORWARDED: [Signal; 7] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::CONT,
];

/// The leader of ssh's session, as its parent knows it.
#[derive(Debug)]
pub(super) struct Leader(Pid);

/// What has become of ssh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It has stopped, and the leader with it.
    Stopped,
    /// It has ended by itself.
    Exited(i32),
    /// A signal has ended it.
    Killed(i32),
}

impl Leader {
    /// Starts `ssh` with `terminal` as its controlling terminal and stdin; as stdout if there is no other, and as stderr if
    /// `shows_stderr`.
    ///
    /// This process must have one thread only.
    ///
    /// # Errors
    /// `ssh` cannot be run; as fork(2), setsid(2).
    pub(super) fn start(
        mut ssh: Command,
        terminal: &OwnedFd,
        stdout: Option<OwnedFd>,
        shows_stderr: bool,
    ) -> io::Result<Leader> {
        let end = || terminal.try_clone().map(Stdio::from);
        ssh.stdin(end()?);
        ssh.stdout(stdout.map_or_else(end, |stdout| Ok(stdout.into()))?);
        if shows_stderr {
            ssh.stderr(end()?);
        }
        let parent = rustix::process::getpid();
        // SAFETY: this process has one thread, so its fork may do what it could do itself; and `split` makes system calls
        // only.
        #[allow(unsafe_code)]
        unsafe {
            ssh.pre_exec(move || split(parent));
        }
        let started = ssh.spawn()?;
        let pid = i32::try_from(started.id()).ok().and_then(Pid::from_raw);
        Ok(Leader(pid.expect("a process id is above 0")))
    }

    /// What has happened since the last call.
    pub(super) fn poll_change(&self) -> Option<Change> {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        match rustix::process::waitpid(Some(self.0), options) {
            Ok(Some((_, status))) => change(status),
            Ok(None) => None,
            // Nobody else waits for it.
            Err(_) => Some(Change::Exited(255)),
        }
    }

    /// Sends ssh a signal. Not after its end was reported.
    pub(super) fn signal(&self, signal: Signal) {
        let _ = rustix::process::kill_process(self.0, signal);
    }
}

fn change(status: WaitStatus) -> Option<Change> {
    if status.stopped() {
        return Some(Change::Stopped);
    }
    let killed = status.terminating_signal().map(Change::Killed);
    killed.or(status.exit_status().map(Change::Exited))
}

/// In the child of `parent`, before ssh is executed: becomes the leader, and returns in a child of that.
fn split(parent: Pid) -> io::Result<()> {
    end_with_parent(Signal::TERM, parent)?;
    let leader = rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    // If it is ignored, nobody is told how ssh ends.
    // SAFETY: the default action needs no handler.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
    // Before there is an ssh whose end could be missed.
    mask(libc::SIG_BLOCK)?;
    // SAFETY: this process is itself a fork with one thread.
    #[allow(unsafe_code)]
    let forked = unsafe { libc::fork() };
    match forked {
        -1 => Err(io::Error::last_os_error()),
        0 => take_foreground(leader),
        ssh => match Pid::from_raw(ssh) {
            Some(ssh) => lead(ssh),
            None => exit(255),
        },
    }
}

/// Gives the process that becomes ssh a group of its own, to which the terminal's signals go.
fn take_foreground(leader: Pid) -> io::Result<()> {
    end_with_parent(Signal::TERM, leader)?;
    rustix::process::setpgid(None, None)?;
    // The mask still has SIGTTOU, which this would cause.
    termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid())?;
    mask(libc::SIG_UNBLOCK)
}

/// If the parent is killed, nobody reads the terminal any more. The terminal's hang-up says so too, but it can be ignored
/// (nohup).
fn end_with_parent(signal: Signal, parent: Pid) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    #[cfg(not(target_os = "linux"))]
    let _ = signal;
    match rustix::process::getppid() {
        Some(now) if now == parent => Ok(()),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// Stops, continues and ends as ssh does.
fn lead(ssh: Pid) -> ! {
    close_others();
    loop {
        match wait_for_signal() {
            libc::SIGCHLD => loop {
                let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
                match rustix::process::waitpid(Some(ssh), options) {
                    Ok(Some((_, status))) => match change(status) {
                        // The default action of the others would be ignored here.
                        Some(Change::Stopped) => {
                            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
                        }
                        Some(Change::Exited(code)) => exit(code),
                        Some(Change::Killed(signal)) => end_by(signal),
                        None => {}
                    },
                    Ok(None) => break,
                    Err(_) => exit(255),
                }
            },
            // All in its group were stopped by the terminal.
            libc::SIGCONT => drop(rustix::process::kill_process_group(ssh, Signal::CONT)),
            other => {
                if let Some(signal) = FORWARDED.iter().find(|signal| signal.as_raw() == other) {
                    let _ = rustix::process::kill_process(ssh, *signal);
                }
            }
        }
    }
}

/// Ends this process by a signal that has ended ssh. Never returns.
pub(super) fn end_by(signal: i32) -> ! {
    // ssh has left its own memory already, if anything was to be left.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    // SAFETY: the default action is no handler, and the set is plain memory that is filled before it is used.
    #[allow(unsafe_code)]
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(signal);
    }
    exit(128 + signal)
}

fn exit(code: i32) -> ! {
    // SAFETY: it runs nothing of this process, and closes what it has open.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(code)
    }
}

/// All but stdin, stdout and stderr. One of them is where the starting process waits for ssh to be executed.
fn close_others() {
    // SAFETY: the leader uses none of them.
    #[allow(unsafe_code)]
    unsafe {
        #[cfg(target_os = "linux")]
        if libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) == 0 {
            return;
        }
        for number in 3..1024 {
            libc::close(number);
        }
    }
}

/// The signals that the leader waits for, and SIGTTOU, which taking the foreground would cause.
fn set() -> libc::sigset_t {
    // SAFETY: a set of signals is plain memory, emptied before it is used.
    #[allow(unsafe_code)]
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in FORWARDED {
            libc::sigaddset(&raw mut set, signal.as_raw());
        }
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigaddset(&raw mut set, libc::SIGTTOU);
        set
    }
}

fn mask(how: libc::c_int) -> io::Result<()> {
    let set = set();
    // SAFETY: the set was made by `set`.
    #[allow(unsafe_code)]
    let error = unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
    match error {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn wait_for_signal() -> libc::c_int {
    let (set, mut signal) = (set(), 0);
    // SAFETY: the set was made by `set`, and all signals in it are blocked.
    #[allow(unsafe_code)]
    unsafe {
        libc::sigwait(&raw const set, &raw mut signal);
    }
    signal
}
