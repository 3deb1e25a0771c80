//! A UDP socket registered with the runtime for reading, and for writing only after a send that did
//! not fit.
//!
//! Registered for both, as runtimes do by default, a UDP socket becomes writable again after every
//! packet it has sent: half of all wake-ups.

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

/// A UDP socket.
#[derive(Debug)]
pub(in crate::transport::quic) struct PolledSocket {
    socket: Pollable,
    state: UdpSocketState,
    /// The last send did not fit into the send buffer.
    is_full: AtomicBool,
    /// Set by [`PolledSocket::stop_receiving`].
    receive_stopped: AtomicBool,
    /// Set whenever a datagram arrives.
    heard: Arc<AtomicBool>,
}

impl PolledSocket {
    /// Call it in a tokio runtime with I/O enabled.
    pub(in crate::transport::quic) fn new(socket: UdpSocket) -> io::Result<Arc<PolledSocket>> {
        PolledSocket::reporting_to(socket, Arc::default())
    }

    /// The same, and sets `heard` whenever a datagram arrives.
    pub(in crate::transport::quic) fn reporting_to(
        socket: UdpSocket,
        heard: Arc<AtomicBool>,
    ) -> io::Result<Arc<PolledSocket>> {
        Ok(Arc::new(PolledSocket {
            state: UdpSocketState::new((&socket).into())?,
            socket: Pollable::new(socket.into(), Interest::READABLE)?,
            is_full: AtomicBool::new(false),
            receive_stopped: AtomicBool::new(false),
            heard,
        }))
    }

    /// Receives nothing from the next read on. Sending still works.
    ///
    /// While a worker is being replaced, both workers share the socket. Packets of new clients that
    /// the old worker received would be lost; they stay in the kernel's buffer for the new one.
    pub(in crate::transport::quic) fn stop_receiving(&self) {
        self.receive_stopped.store(true, Ordering::Relaxed);
    }

    fn watch_writable(&self) -> io::Result<Pollable> {
        Pollable::new(self.socket.as_fd().try_clone_to_owned()?, Interest::WRITABLE)
    }

    #[cfg(test)]
    pub(super) fn pretend_full(&self) {
        self.is_full.store(true, Ordering::Relaxed);
    }
}

impl AsyncUdpSocket for PolledSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(WritablePoller {
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
        if self.receive_stopped.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let Ok(received) = ready.try_io(|_| self.state.recv((&self.socket).into(), buffers, meta)) else {
                continue;
            };
            match received {
                Ok(count) => {
                    if !self.heard.load(Ordering::Relaxed) {
                        self.heard.store(true, Ordering::Relaxed);
                    }
                    if count < buffers.len() {
                        // The buffer is empty, so that a further read would only return WouldBlock.
                        // New packets make the socket readable again.
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                // quinn would close every connection of this endpoint.
                Err(error) => {
                    debug!(%error, "cannot receive from the UDP socket");
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

/// Waits until the socket is writable.
#[derive(Debug)]
struct WritablePoller {
    socket: Arc<PolledSocket>,
    /// A duplicate of the socket, registered for writing, while the send buffer is full.
    watched: Option<Pollable>,
}

impl UdpPoller for WritablePoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.socket.is_full.load(Ordering::Relaxed) {
            self.watched = None;
            return Poll::Ready(Ok(()));
        }
        if self.watched.is_none() {
            match self.socket.watch_writable() {
                Ok(watched) => self.watched = Some(watched),
                // No file descriptor is available right now. quinn would close the connection on an
                // error.
                Err(error) => {
                    debug!(%error, "cannot wait until the UDP socket is writable");
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
