//! Signals as a pollable descriptor: the handler writes to a pipe.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use rustix::pipe::{PipeFlags, pipe_with};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals that are handled.
const CAUGHT: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// The handled signals. The handlers stay installed until the process ends.
pub(super) struct Signals {
    caught: OwnedFd,
}

/// The handler's end of the pipe.
static NOTE: OnceLock<OwnedFd> = OnceLock::new();

impl Signals {
    /// # Errors
    /// `AlreadyExists` the second time in a process; the errors of the system calls.
    pub(super) fn catch() -> io::Result<Self> {
        let (caught, note) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        NOTE.set(note).map_err(|_| io::ErrorKind::AlreadyExists)?;
        for signal in CAUGHT {
            // SAFETY: the handler is async-signal-safe (see there) and stays valid for the life of the process.
            #[allow(unsafe_code)]
            let before = unsafe { libc::signal(signal, handle as extern "C" fn(libc::c_int) as libc::sighandler_t) };
            if before == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        // They were blocked until now by the keeper that has become this one, or by the worker that started it.
        mask(libc::SIG_UNBLOCK)?;
        Ok(Self { caught })
    }

    /// Blocks the signals. They stay pending, also through an exec, until they are unblocked.
    pub(super) fn block(&self) -> io::Result<()> {
        mask(libc::SIG_BLOCK)?;
        for signal in self.take() {
            let number = match signal {
                Signal::Stop => rustix::process::Signal::TERM,
                Signal::Reload => rustix::process::Signal::HUP,
            };
            rustix::process::kill_process(rustix::process::getpid(), number)?;
        }
        Ok(())
    }

    /// Unblocks the signals.
    pub(super) fn unblock(&self) -> io::Result<()> {
        mask(libc::SIG_UNBLOCK)
    }

    /// The signals since the last call.
    pub(super) fn take(&self) -> Vec<Signal> {
        let mut numbers = [0; 64];
        let count = rustix::io::read(&self.caught, &mut numbers).unwrap_or(0);
        numbers[..count]
            .iter()
            .filter_map(|&number| Signal::from_number(number.into()))
            .collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.caught.as_fd()
    }
}

impl Signal {
    fn from_number(number: libc::c_int) -> Option<Self> {
        match number {
            libc::SIGTERM | libc::SIGINT => Some(Self::Stop),
            libc::SIGHUP => Some(Self::Reload),
            _ => None,
        }
    }
}

/// Runs `spawn` with the signals blocked, so that the new process does not die of a signal before it has handlers.
pub(in crate::server) fn with_signals_blocked<T>(spawn: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    mask(libc::SIG_BLOCK)?;
    let spawned = spawn();
    mask(libc::SIG_UNBLOCK)?;
    spawned
}

fn mask(how: libc::c_int) -> io::Result<()> {
    // SAFETY: a set of signals is plain memory, emptied before it is used.
    #[allow(unsafe_code)]
    let error = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in CAUGHT {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut())
    };
    match error {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Async-signal-safe (signal-safety(7)): an atomic load and write(2), which rustix does without touching errno. A full
/// pipe loses nothing that matters: it wakes the loop too.
extern "C" fn handle(signal: libc::c_int) {
    if let Some(note) = NOTE.get() {
        let _ = rustix::io::write(note, &[signal as u8]);
    }
}
