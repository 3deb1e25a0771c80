//! What ssh writes: the session's output to its stdout, everything else (prompts, warnings) to its terminal.
//!
//! Its stdout is a pipe, though stdin is a terminal: ssh does not look. A terminal gives at most 4 KiB at once, and each
//! time a thread of the kernel has to run. With a second terminal in a row, `cat` has 0.7 of its speed, even if
//! nothing is done with what is read; with a pipe, 0.96.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::Poll;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use tokio::io::Interest;

use crate::descriptor::Pollable;

/// Room for what ssh writes while this process waits for the terminal, or for its turn.
#[cfg(target_os = "linux")]
const PIPE_BYTES: usize = 256 * 1024;

/// A pipe for ssh's stdout: our end, which does not block, and ssh's.
///
/// # Errors
/// As pipe(2).
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    // Without the permission it is smaller.
    #[cfg(target_os = "linux")]
    let _ = rustix::pipe::fcntl_setpipe_size(&ours, PIPE_BYTES);
    Ok((ours, theirs))
}

/// Where ssh writes to.
#[derive(Debug)]
pub(super) struct SshOutput {
    /// Its stdout, until nobody can write to it any more; `None` if it is the terminal.
    stdout: Option<Pollable>,
    /// Whether its terminal has been hung up, or nobody has its other end open.
    is_terminal_closed: bool,
}

/// In which order is read what was written to both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// ssh connects: its questions and warnings come before the session's output.
    TerminalFirst,
    /// The session runs: how it ended is said after all that it wrote.
    StdoutFirst,
}

impl SshOutput {
    pub(super) fn new(stdout: Option<OwnedFd>) -> io::Result<SshOutput> {
        let stdout = stdout.map(|fd| Pollable::new(fd, Interest::READABLE)).transpose()?;
        Ok(SshOutput {
            stdout,
            is_terminal_closed: false,
        })
    }

    /// Whether nothing will come any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_terminal_closed && self.stdout.is_none()
    }

    /// Whether ssh's terminal has no other end.
    pub(super) fn is_terminal_closed(&self) -> bool {
        self.is_terminal_closed
    }

    /// ssh does not read its terminal any more.
    pub(super) fn handle_terminal_closed(&mut self) {
        self.is_terminal_closed = true;
    }

    /// Waits until there is something to read, on stdout or on the terminal.
    pub(super) async fn readable(&self, terminal: &Pollable) {
        let terminal = Some(terminal).filter(|_| !self.is_terminal_closed);
        let devices = [terminal, self.stdout.as_ref()];
        poll_fn(|cx| {
            // Each of them is to wake this task.
            let ready = devices.map(|device| device.is_some_and(|device| device.poll_read_ready(cx).is_ready()));
            match ready.contains(&true) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }

    /// Reads what is there, as far as there is room, from the first of both that has something.
    pub(super) fn read(&mut self, terminal: &Pollable, order: Order, room: &mut [u8]) -> usize {
        match order {
            Order::TerminalFirst => match self.read_terminal(terminal, room) {
                0 => self.read_stdout(room),
                count => count,
            },
            Order::StdoutFirst => match self.read_stdout(room) {
                0 => self.read_terminal(terminal, room),
                count => count,
            },
        }
    }

    fn read_stdout(&mut self, room: &mut [u8]) -> usize {
        let Some(stdout) = &self.stdout else { return 0 };
        let (count, is_closed) = read_all(stdout, room);
        if is_closed {
            self.stdout = None;
        }
        count
    }

    fn read_terminal(&mut self, terminal: &Pollable, room: &mut [u8]) -> usize {
        if self.is_terminal_closed {
            return 0;
        }
        let (count, is_closed) = read_all(terminal, room);
        self.is_terminal_closed |= is_closed;
        count
    }
}

/// Reads what is there, as far as there is room: how much, and whether nothing will come any more.
pub(super) fn read_all(device: &Pollable, room: &mut [u8]) -> (usize, bool) {
    let mut filled = 0;
    while filled < room.len() {
        match rustix::io::read(device.as_fd(), &mut room[filled..]) {
            Ok(0) => return (filled, true),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // tokio is to wait for the next byte.
                let _ = device.try_io(Interest::READABLE, |_| {
                    io::Result::<()>::Err(io::ErrorKind::WouldBlock.into())
                });
                break;
            }
            Err(_) => return (filled, true),
        }
    }
    (filled, false)
}
