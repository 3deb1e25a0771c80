//! The connection to sshd as two halves, whose progress the next worker can recover.
//!
//! Every read is announced before. The end of the stream is not taken from a read but from the kernel's counters,
//! which can be read again. Dropping the halves does not close the connection.

use super::counters::{Counters, CountersError, InputEnd};
use super::session_record::SessionRecord;
use crate::descriptor::Pollable;
use crate::fault;
use rustix::io::{Errno, ioctl_fionread, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

type Socket = Arc<Pollable<Arc<OwnedFd>>>;

/// The direction from sshd.
pub(crate) struct UpstreamRead {
    socket: Socket,
    progress: Progress,
}

/// The progress of a reader.
struct Progress {
    session_record: Arc<SessionRecord>,
    /// Bytes read so far, including those that previous workers read.
    consumed: u64,
    /// Unread bytes in the socket: at least this many.
    unread: u64,
}

/// The direction to sshd.
pub(crate) struct UpstreamWrite {
    socket: Socket,
}

/// Both halves of a connection from which `consumed` bytes were read before. Reads are announced in `session_record`.
///
/// # Errors
/// The errors of registering the socket with the current tokio runtime.
pub(super) fn halves(
    socket: Arc<OwnedFd>,
    session_record: Arc<SessionRecord>,
    consumed: u64,
) -> io::Result<(UpstreamRead, UpstreamWrite)> {
    let socket = Pollable::shared(socket, Interest::READABLE | Interest::WRITABLE)?;
    let socket = Arc::new(socket);
    let read = UpstreamRead {
        socket: Arc::clone(&socket),
        progress: Progress {
            session_record,
            consumed,
            unread: 0,
        },
    };
    Ok((read, UpstreamWrite { socket }))
}

impl AsyncRead for UpstreamRead {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let UpstreamRead { socket, progress } = &mut *self;
        let room = buffer.remaining() as u64;
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut guard = ready!(socket.poll_read_ready(cx))?;
            if progress.unread >= room {
                // Nobody else reads, so these bytes are still there.
                return Poll::Ready(progress.take(socket, buffer, room));
            }
            progress.unread = ioctl_fionread(socket.as_fd())?;
            if progress.unread > 0 {
                let is_all = progress.unread <= room;
                let taken = progress.take(socket, buffer, progress.unread.min(room));
                if is_all && progress.unread == 0 {
                    // All bytes that were there at the last check are read. Later bytes make the socket readable
                    // again.
                    guard.clear_ready();
                }
                return Poll::Ready(taken);
            }
            if !guard.ready().is_read_closed() {
                guard.clear_ready();
                continue;
            }
            // The socket was closed for reading before the check: nothing more can come after a FIN or a reset.
            match end(socket, progress.consumed)? {
                Some(InputEnd::Fin) => return Poll::Ready(Ok(())),
                Some(InputEnd::Reset) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None => {}
            }
        }
    }
}

impl Progress {
    /// Receives up to `len` bytes that are in the socket according to the kernel.
    fn take(&mut self, socket: &Socket, buffer: &mut ReadBuf<'_>, len: u64) -> io::Result<()> {
        self.session_record.intend(self.consumed + len);
        let taken = receive(socket, buffer, len as usize)? as u64;
        self.consumed += taken;
        self.unread -= taken;
        Ok(())
    }
}

/// The end of sshd's direction. The socket is closed for reading and nothing is unread.
fn end(socket: &Socket, consumed: u64) -> io::Result<Option<InputEnd>> {
    let counters = Counters::of(socket.as_fd()).map_err(|error| match error {
        CountersError::Read(error) => error,
        other => io::Error::other(other),
    })?;
    match counters.input_end(consumed) {
        None if !counters.is_unread() => Err(io::ErrorKind::ConnectionAborted.into()),
        end => Ok(end),
    }
}

fn receive(socket: &Socket, buffer: &mut ReadBuf<'_>, len: usize) -> io::Result<usize> {
    fault::pass("read-before");
    // SAFETY: nothing in the unfilled part is de-initialized: it is only ever written to.
    #[allow(unsafe_code)]
    let place = unsafe { &mut buffer.unfilled_mut()[..len] };
    let taken = retry_on_intr(|| {
        let ((filled, _), _) = rustix::net::recv(socket.as_fd(), &mut *place, RecvFlags::DONTWAIT)?;
        Ok(filled.len())
    })?;
    fault::pass("read-after");
    if taken == 0 {
        // Not sshd's FIN, but the position of urgent data: SO_OOBINLINE rules this out.
        return Err(io::ErrorKind::InvalidData.into());
    }
    // SAFETY: the kernel has just written this many bytes at the start of the unfilled part.
    #[allow(unsafe_code)]
    unsafe {
        buffer.assume_init(taken);
    }
    buffer.advance(taken);
    Ok(taken)
}

impl AsyncWrite for UpstreamWrite {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.socket.poll_write_ready(cx))?;
            fault::pass("write-before");
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = retry_on_intr(|| rustix::net::send(self.socket.as_fd(), bytes, flags));
            fault::pass("write-after");
            match sent {
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error.into())),
                Ok(sent) => {
                    if sent < bytes.len() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(sent));
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        fault::pass("shutdown-before");
        let outcome = rustix::net::shutdown(self.socket.as_fd(), Shutdown::Write);
        fault::pass("shutdown-after");
        Poll::Ready(Ok(outcome?))
    }
}

#[cfg(test)]
#[path = "stream/tests.rs"]
mod tests;
