//! A UDP socket that the runtime watches for what arrives, and for room only where there was none.
//!
//! Watched for both, as runtimes do, a UDP socket has something to tell after each packet that has left it: half of all wake-ups.

use crate::descriptor::Pollable;
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::SockRef;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tracing::debug;

/// One socket.
#[derive(Debug)]
pub(in crate::carrier::quic) struct Polled {
    socket: Pollable,
    state: UdpSocketState,
    /// The kernel had no room for what was to be sent last.
    is_full: AtomicBool,
    /// Nothing more is read.
    is_deaf: AtomicBool,
}

impl Polled {
    /// Must be called in a tokio runtime with I/O enabled.
    pub(in crate::carrier::quic) fn new(socket: UdpSocket) -> io::Result<Arc<Polled>> {
        Ok(Arc::new(Polled {
            state: UdpSocketState::new((&socket).into())?,
            socket: Pollable::new(socket.into(), Interest::READABLE)?,
            is_full: AtomicBool::new(false),
            is_deaf: AtomicBool::new(false),
        }))
    }

    /// Reads nothing more, from the next read on. What is sent still goes out.
    ///
    /// A server half that another follows shares its socket with that one. What it read while it leaves would be lost: the
    /// first attempts of its clients, which are left to the next one in the kernel's buffer instead.
    pub(in crate::carrier::quic) fn end_hearing(&self) {
        self.is_deaf.store(true, Ordering::Relaxed);
    }

    fn watch_room(&self) -> io::Result<Pollable> {
        Pollable::new(self.socket.as_fd().try_clone_to_owned()?, Interest::WRITABLE)
    }

    #[cfg(test)]
    pub(super) fn pretend_full(&self) {
        self.is_full.store(true, Ordering::Relaxed);
    }
}

impl AsyncUdpSocket for Polled {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Room {
            socket: self,
            watched: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let sent = self.state.send((&self.socket).into(), transmit);
        let is_full = matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.is_full.store(is_full, Ordering::Relaxed);
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.is_deaf.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let Ok(received) = ready.try_io(|_| self.state.recv((&self.socket).into(), buffers, meta)) else {
                continue;
            };
            match received {
                Ok(count) => {
                    if count < buffers.len() {
                        // That was all: no need to ask once more. What has come since is told anew.
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                // For quinn it would be the end of every connection here.
                Err(error) => {
                    debug!(%error, "a UDP socket could not be read");
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let address = SockRef::from(&self.socket).local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.state.gro_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// Waits for room in a socket.
#[derive(Debug)]
struct Room {
    socket: Arc<Polled>,
    /// The socket once more, for as long as there is no room.
    watched: Option<Pollable>,
}

impl UdpPoller for Room {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.socket.is_full.load(Ordering::Relaxed) {
            self.watched = None;
            return Poll::Ready(Ok(()));
        }
        if self.watched.is_none() {
            match self.socket.watch_room() {
                Ok(watched) => self.watched = Some(watched),
                // No descriptor is left, for the moment. For quinn an error would be the end of the connection.
                Err(error) => {
                    debug!(%error, "a UDP socket that is full cannot be watched");
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
        if let Some(watched) = &self.watched {
            let _room = ready!(watched.poll_write_ready(cx))?;
        }
        self.watched = None;
        self.socket.is_full.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}
