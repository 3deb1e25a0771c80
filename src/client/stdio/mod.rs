//! Standard input and output of any kind as async streams.
//!
//! Pipes (ssh's ProxyCommand), sockets (ssh's ProxyUseFdpass, some shells) and terminals are polled. Files,
//! `/dev/null` and everything else that cannot be polled get a thread each. Neither changes the mode of a descriptor
//! that is shared with a shell or ssh, so even after SIGKILL no terminal is left non-blocking.
//!
//! Nothing is read ahead: bytes that were not requested stay for the next reader.

mod polled;
mod thread;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::fs::{FileType, Mode, OFlags};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use self::{polled::Polled, thread::Thread};

/// Requested pipe size. The default is 64 KiB; a larger pipe needs fewer system calls and wake-ups per MiB. 1 MiB is
/// the limit for unprivileged users on Linux (`/proc/sys/fs/pipe-max-size`, pipe(7)).
const PIPE_SIZE: usize = 1024 * 1024;

/// Requested if the user's pipes together have reached `pipe-user-pages-soft`.
const SMALLER_PIPE_SIZE: usize = 256 * 1024;

/// Whether standard input and output are the same socket, as with ssh's `ProxyUseFdpass`.
pub fn is_one_socket() -> bool {
    let [input, output] = [rustix::stdio::stdin(), rustix::stdio::stdout()].map(rustix::fs::fstat);
    matches!((input, output), (Ok(input), Ok(output))
        if FileType::from_raw_mode(input.st_mode) == FileType::Socket
            && (input.st_dev, input.st_ino) == (output.st_dev, output.st_ino))
}

/// The reading side.
#[derive(Debug)]
pub struct Stdin(Channel);

impl Stdin {
    /// Takes over the process's standard input and leaves `/dev/null` in its place.
    ///
    /// Must be called in a tokio runtime with I/O enabled, as must [`from_fd`](Self::from_fd).
    ///
    /// # Errors
    /// The error of duplicating or registering the descriptor. A closed standard input is not an error: it is at its
    /// end.
    pub fn take() -> io::Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), FIRST_OTHER)?;
        rustix::stdio::dup2_stdin(dev_null()?)?;
        Self::from_fd(fd)
    }

    /// Reads from any descriptor.
    ///
    /// # Errors
    /// The error of registering the descriptor or starting its thread.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Channel::new(fd, Direction::Read).map(Self)
    }
}

impl AsyncRead for Stdin {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            _ if buf.remaining() == 0 => Poll::Ready(Ok(())),
            Channel::Polled(polled) => polled.poll_read(cx, buf),
            Channel::Thread(thread) => thread.poll_read(cx, buf),
            Channel::Closed => Poll::Ready(Ok(())),
        }
    }
}

/// The writing side.
///
/// A completed write is final: nothing is buffered for a later flush. After `Pending` the caller must offer the same
/// bytes again.
#[derive(Debug)]
pub struct Stdout(Channel);

impl Stdout {
    /// Takes over the process's standard output and leaves `/dev/null` in its place, so that closing or dropping this
    /// really closes the descriptor.
    ///
    /// Must be called in a tokio runtime with I/O enabled, as must [`from_fd`](Self::from_fd).
    ///
    /// # Errors
    /// The error of duplicating or registering the descriptor.
    pub fn take() -> io::Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), FIRST_OTHER)?;
        rustix::stdio::dup2_stdout(dev_null()?)?;
        Self::from_fd(fd)
    }

    /// Writes to any descriptor.
    ///
    /// # Errors
    /// The error of registering the descriptor or starting its thread.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Channel::new(fd, Direction::Write).map(Self)
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            _ if bytes.is_empty() => Poll::Ready(Ok(0)),
            Channel::Polled(polled) => polled.poll_write(cx, bytes),
            Channel::Thread(thread) => thread.poll_write(cx, bytes),
            Channel::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Nothing is buffered. Fails if the reader has closed, and wakes the caller when that happens.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Channel::Polled(polled) => polled.poll_reader(cx),
            Channel::Thread(_) | Channel::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Closes the descriptor, so that the reader gets end of file while this process continues.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = match &mut self.0 {
            Channel::Polled(polled) => polled.shutdown(),
            Channel::Thread(thread) => std::task::ready!(thread.poll_shutdown(cx)),
            Channel::Closed => Ok(()),
        };
        self.0 = Channel::Closed;
        Poll::Ready(closed)
    }
}

/// The first descriptor after the standard three.
const FIRST_OTHER: i32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

#[derive(Debug)]
enum Channel {
    Polled(Polled),
    Thread(Thread),
    Closed,
}

impl Channel {
    fn new(fd: OwnedFd, direction: Direction) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if kind == FileType::Socket {
            return Polled::socket(fd, direction.interest()).map(Self::Polled);
        }
        if kind == FileType::Fifo {
            enlarge_pipe(fd.as_fd());
        }
        if kind == FileType::Fifo || is_terminal(fd.as_fd()) {
            match reopen(fd.as_fd(), direction).and_then(|fd| Polled::stream(fd, direction.interest())) {
                Ok(polled) => return Ok(Self::Polled(polled)),
                Err(error) => tracing::debug!(%error, ?direction, "cannot poll; using a thread"),
            }
        }
        Thread::new(fd, direction, kind).map(Self::Thread)
    }
}

impl Direction {
    fn interest(self) -> Interest {
        match self {
            Self::Read => Interest::READABLE,
            Self::Write => Interest::WRITABLE,
        }
    }
}

/// Opens the same pipe or terminal again, in non-blocking mode.
///
/// `O_NONBLOCK` belongs to the open file description, which `dup` and `fork` share; a new one leaves the given
/// descriptor unchanged. Fails without Linux's /proc, or if another user created the pipe.
fn reopen(fd: BorrowedFd<'_>, direction: Direction) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    if !cfg!(target_os = "linux") {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let access = match direction {
        Direction::Read => OFlags::RDONLY,
        Direction::Write => OFlags::WRONLY,
    };
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Whether it is a terminal that can be opened again. Opening the master side of a pty creates a new pty.
fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    let ptmx = rustix::fs::makedev(5, 2);
    rustix::termios::isatty(fd) && rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_rdev != ptmx)
}

#[cfg(target_os = "linux")]
fn enlarge_pipe(fd: BorrowedFd<'_>) {
    use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
    for size in [PIPE_SIZE, SMALLER_PIPE_SIZE] {
        if fcntl_getpipe_size(fd).is_ok_and(|now| now >= size) || fcntl_setpipe_size(fd, size).is_ok() {
            return;
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn enlarge_pipe(_fd: BorrowedFd<'_>) {}

fn dev_null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

#[cfg(test)]
mod tests;
