//! A UDP socket that can stop listening while it still sends.
//!
//! A server half that another follows shares its socket with that one. What it read while it leaves would be lost: the first
//! attempts of its clients, which are left to the next one in the kernel's buffer instead.

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

/// A socket that hears until [`Hearing::end`].
#[derive(Debug)]
pub(in crate::carrier::quic) struct Hearing {
    socket: Arc<dyn AsyncUdpSocket>,
    ended: AtomicBool,
}

impl Hearing {
    pub(in crate::carrier::quic) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Arc<Hearing> {
        Arc::new(Hearing {
            socket,
            ended: AtomicBool::new(false),
        })
    }

    /// Reads nothing more, from the next read on.
    pub(in crate::carrier::quic) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl AsyncUdpSocket for Hearing {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.ended.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        self.socket.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
