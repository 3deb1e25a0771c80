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

/// A pipe for ssh's stdout: our end, which does not block, and ssh's.
///
/// # Errors
/// As pipe(2).
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

/// Most bytes of one read of ssh's terminal. A terminal gives no more at once.
const TERMINAL_BYTES: usize = 4096;

/// Where ssh writes to.
#[derive(Debug)]
pub(super) struct SshOutput {
    /// Its stdout, until nobody can write to it any more; `None` if it is the terminal.
    stdout: Option<Pollable>,
    /// Whether its terminal has been hung up, or nobody has its other end open.
    is_terminal_closed: bool,
    /// What was read from the terminal and is still to be shown.
    said: Vec<u8>,
    /// Bytes of stdout that come before that.
    ahead: u64,
}

impl SshOutput {
    pub(super) fn new(stdout: Option<OwnedFd>) -> io::Result<SshOutput> {
        let stdout = stdout.map(|fd| Pollable::new(fd, Interest::READABLE)).transpose()?;
        Ok(SshOutput {
            stdout,
            is_terminal_closed: false,
            said: Vec::new(),
            ahead: 0,
        })
    }

    /// Whether nothing will come any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_terminal_closed && self.stdout.is_none() && self.said.is_empty()
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
        if !self.said.is_empty() {
            return;
        }
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

    /// Reads what is there, as far as there is room, in the order in which it was written.
    ///
    /// `has_session`: whether the session's output may have begun, asked after the terminal has been read. Before, ssh
    /// connects: its questions and warnings come before what may be in the pipe by now. Afterwards what it says on the
    /// terminal, that the connection is closed for example, comes behind all that is in the pipe.
    pub(super) fn read(&mut self, terminal: &Pollable, has_session: impl FnOnce() -> bool, room: &mut [u8]) -> usize {
        if self.said.is_empty() {
            self.read_terminal(terminal);
            let waits = !self.said.is_empty() && has_session();
            self.ahead = if waits { self.stdout_waiting() } else { 0 };
        }
        if self.said.is_empty() {
            return self.read_stdout(room);
        }
        if self.ahead > 0 {
            let most = room.len().min(usize::try_from(self.ahead).unwrap_or(usize::MAX));
            let count = self.read_stdout(&mut room[..most]);
            self.ahead -= count as u64;
            if count > 0 {
                return count;
            }
        }
        let count = self.said.len().min(room.len());
        room[..count].copy_from_slice(&self.said[..count]);
        self.said.drain(..count);
        self.ahead = 0;
        count
    }

    fn stdout_waiting(&self) -> u64 {
        let stdout = self.stdout.as_ref();
        stdout.map_or(0, |stdout| rustix::io::ioctl_fionread(stdout.get_ref()).unwrap_or(0))
    }

    fn read_stdout(&mut self, room: &mut [u8]) -> usize {
        let Some(stdout) = &self.stdout else { return 0 };
        let (count, is_closed) = read_all(stdout, room);
        if is_closed {
            self.stdout = None;
        }
        count
    }

    fn read_terminal(&mut self, terminal: &Pollable) {
        if self.is_terminal_closed {
            return;
        }
        let mut room = [0; TERMINAL_BYTES];
        let (count, is_closed) = read_all(terminal, &mut room);
        self.said.extend_from_slice(&room[..count]);
        self.is_terminal_closed |= is_closed;
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
