//! Decides when to acknowledge delivered bytes.
//!
//! An ack is delayed shortly so that it can share a packet with bytes in the other direction, but never so long that the
//! peer's buffer fills.

use crate::wire::Offset;
use std::time::{Duration, Instant};

/// Longest delay. Below QUIC's max_ack_delay of 25 ms (RFC 9000 section 18.2), so that both acks can share a packet.
const MAX_ACK_DELAY: Duration = Duration::from_millis(20);

/// Most bytes delivered without an ack, where the window is large.
const MAX_UNACKED: u64 = 256 * 1024;

pub(super) struct AckTimer {
    acked: Offset,
    delivered: Offset,
    due: Option<Instant>,
    demanded: bool,
    max_unacked: u64,
}

impl AckTimer {
    /// At most a quarter of the window may be unacknowledged, so that the peer never stalls because an ack is missing.
    pub(super) fn new(window: usize) -> AckTimer {
        let max_unacked = MAX_UNACKED.min(window as u64 / 4).max(1);
        AckTimer {
            acked: Offset::ZERO,
            delivered: Offset::ZERO,
            due: None,
            demanded: false,
            max_unacked,
        }
    }

    pub(super) fn handle_delivery(&mut self, delivered: Offset, now: Instant) {
        self.delivered = delivered;
        if delivered.since(self.acked).unwrap_or(0) >= self.max_unacked {
            self.demanded = true;
        }
        self.due.get_or_insert(now + MAX_ACK_DELAY);
    }

    /// Ack as soon as possible.
    pub(super) fn demand(&mut self) {
        self.demanded = true;
    }

    pub(super) fn handle_sent(&mut self, delivered: Offset) {
        self.acked = delivered;
        self.due = None;
        self.demanded = false;
    }

    /// Whether an ack has to be sent at all.
    pub(super) fn is_pending(&self) -> bool {
        self.demanded || self.due.is_some()
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.demanded || self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
}
