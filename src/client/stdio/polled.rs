//! Pipes, terminals and sockets, read and written when the kernel reports them ready.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};
use tokio::io::{Interest, ReadBuf};

use crate::descriptor::Pollable;

#[derive(Debug)]
pub(super) struct Polled {
    fd: Pollable,
    is_socket: bool,
    /// A duplicate for a writer that has nothing to write and waits for its reader to close. It needs its own
    /// registration, since an event on the first one wakes only one task. `None` if there is no descriptor left.
    watched: Option<Pollable>,
}

impl Polled {
    /// A stream socket in any mode: each call passes MSG_DONTWAIT.
    pub(super) fn socket(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        Ok(Self {
            watched: watched(&fd, interest),
            fd: Pollable::new(fd, interest)?,
            is_socket: true,
        })
    }

    /// A pipe or terminal in non-blocking mode.
    pub(super) fn stream(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        Ok(Self {
            watched: watched(&fd, interest),
            fd: Pollable::new(fd, interest)?,
            is_socket: false,
        })
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            if let Ok(result) = guard.try_io(|_| self.read(buf)) {
                return Poll::Ready(result);
            }
        }
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|_| self.write(bytes)) {
                return Poll::Ready(result);
            }
        }
    }

    /// Fails if the reader has closed, and wakes the caller then.
    pub(super) fn poll_reader(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.watched.as_ref().map(|watched| watched.poll_write_ready(cx)) {
            // It is not registered for writability, so the only event is that the reader has closed.
            Some(Poll::Ready(_)) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(Poll::Pending) | None => Poll::Ready(Ok(())),
        }
    }

    /// A socket that is also standard input stays open, so its write direction must be shut down explicitly.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        match self.is_socket.then(|| rustix::net::shutdown(&self.fd, Shutdown::Write)) {
            // The reader has already closed.
            None | Some(Ok(()) | Err(Errno::NOTCONN | Errno::PIPE)) => Ok(()),
            Some(Err(error)) => Err(error.into()),
        }
    }

    fn read(&self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let fd = self.fd.as_fd();
        // SAFETY: nothing in the unfilled part is de-initialized: it is only ever written to.
        #[allow(unsafe_code)]
        let unfilled = unsafe { buf.unfilled_mut() };
        let count = rustix::io::retry_on_intr(|| read_once(fd, self.is_socket, unfilled))?;
        // SAFETY: the kernel has just written this many bytes at the start of the unfilled part.
        #[allow(unsafe_code)]
        unsafe {
            buf.assume_init(count);
        }
        buf.advance(count);
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = rustix::io::retry_on_intr(|| match self.is_socket {
            true => rustix::net::send(&self.fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            false => rustix::io::write(&self.fd, bytes),
        });
        match written {
            // A terminal after hangup (tty_io.c).
            Err(Errno::IO) => Err(io::ErrorKind::BrokenPipe.into()),
            other => Ok(other?),
        }
    }
}

/// epoll reports a closed reader whatever it is registered for.
fn watched(fd: &OwnedFd, interest: Interest) -> Option<Pollable> {
    if interest != Interest::WRITABLE {
        return None;
    }
    let again = fd.try_clone().ok()?;
    Pollable::new(again, Interest::READABLE).ok()
}

fn read_once(fd: BorrowedFd<'_>, is_socket: bool, unfilled: &mut [MaybeUninit<u8>]) -> rustix::io::Result<usize> {
    let (filled, _) = match is_socket {
        true => rustix::net::recv(fd, unfilled, RecvFlags::DONTWAIT)?.0,
        false => rustix::io::read(fd, unfilled)?,
    };
    Ok(filled.len())
}
