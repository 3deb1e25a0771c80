//! Passes a permission from the congestion controller to the socket: whether the packets of the
//! next transmit may be sent as one batch (UDP generic segmentation offload, GSO).
//!
//! Only the controller sees whether batches arrive, only the socket sends them, and quinn has no
//! channel in between. So the permission is kept in a thread-local variable, together with the
//! length of the transmit.
//!
//! This relies on what quinn 0.11 does (`poll_transmit` of quinn-proto, `drive_transmit` of quinn):
//! - For a transmit of several packets, the last call of the controller is `on_sent` with the length
//!   of the whole transmit. Other transmits (path challenges and responses, MTU probes, packets of
//!   the endpoint) are single packets, which need no permission.
//! - Next, on the same thread, quinn polls the connection's own [`UdpPoller`] and passes the
//!   transmit to the socket. If the socket is not writable, quinn keeps the transmit and polls
//!   first when it is woken, maybe on another thread. Meanwhile other connections have sent, so the
//!   permission waits in the poller ([`GsoPoller`]).

use quinn::UdpPoller;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The permission for the next transmit.
#[derive(Clone, Copy, Debug)]
struct Permission {
    /// Length of the transmit.
    bytes: u64,
    may_join: bool,
}

thread_local! {
    static NEXT: Cell<Option<Permission>> = const { Cell::new(None) };
}

/// Sets the permission for the next transmit, which has this length.
pub(super) fn set_allowed(bytes: u64, may_join: bool) {
    NEXT.set(Some(Permission { bytes, may_join }));
}

/// Whether a transmit of this length may be sent as a batch.
pub(super) fn is_allowed(bytes: usize) -> bool {
    NEXT.get()
        .is_none_or(|next| next.may_join || next.bytes != bytes as u64)
}

/// The length of the transmit for which the permission was set last.
#[cfg(test)]
pub(super) fn next_length() -> Option<u64> {
    NEXT.get().map(|next| next.bytes)
}

/// A connection's poller for a writable socket. It keeps the permission of a transmit that waits.
#[derive(Debug)]
pub(super) struct GsoPoller {
    poller: Pin<Box<dyn UdpPoller>>,
    waiting: Option<Permission>,
}

impl GsoPoller {
    pub(super) fn new(poller: Pin<Box<dyn UdpPoller>>) -> GsoPoller {
        GsoPoller { poller, waiting: None }
    }
}

impl UdpPoller for GsoPoller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let next = self.waiting.take().or_else(|| NEXT.take());
        let polled = self.poller.as_mut().poll_writable(cx);
        if polled.is_pending() {
            self.waiting = next;
        }
        let writable = ready!(polled);
        NEXT.set(next);
        Poll::Ready(writable)
    }
}
