//! When to acknowledge what was delivered.
//!
//! An ack waits a moment, for bytes in the other direction to carry it; never so long that the peer's buffer fills.

use crate::wire::Offset;
use std::time::{Duration, Instant};

/// Longest wait. Below QUIC's own 25 ms of max_ack_delay (RFC 9000 section 18.2), so that both can share a packet.
const DELAY: Duration = Duration::from_millis(20);

/// Most bytes delivered without an ack, where the window is large.
const MOST_UNTOLD: u64 = 256 * 1024;

pub(super) struct AckTimer {
    told: Offset,
    delivered: Offset,
    due: Option<Instant>,
    demanded: bool,
    most_untold: u64,
}

impl AckTimer {
    /// A quarter of the window may go untold at most: the peer must never stand still for want of an ack.
    pub(super) fn new(window: usize) -> AckTimer {
        let most_untold = MOST_UNTOLD.min(window as u64 / 4).max(1);
        AckTimer {
            told: Offset::ZERO,
            delivered: Offset::ZERO,
            due: None,
            demanded: false,
            most_untold,
        }
    }

    pub(super) fn handle_delivery(&mut self, delivered: Offset, now: Instant) {
        self.delivered = delivered;
        if delivered.since(self.told).unwrap_or(0) >= self.most_untold {
            self.demanded = true;
        }
        self.due.get_or_insert(now + DELAY);
    }

    /// Ack at the next chance.
    pub(super) fn demand(&mut self) {
        self.demanded = true;
    }

    pub(super) fn handle_sent(&mut self, delivered: Offset) {
        self.told = delivered;
        self.due = None;
        self.demanded = false;
    }

    /// Whether an ack is wanted sooner or later.
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
