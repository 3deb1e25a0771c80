//! Detects on the server half that a NAT dropped its mapping for the client.
//!
//! It shows when the client is heard again: by then an acknowledgement has been overdue for long.

use super::path::{PathTransport, UNKNOWN_RTT};
use std::time::{Duration, Instant};

/// An acknowledgement that is overdue by this and three round trips was not merely delayed.
const LATE_AFTER: Duration = Duration::from_millis(500);

/// Tracks the oldest unacknowledged packet of the lead.
#[derive(Default)]
pub(super) struct LateAckDetector {
    pending: Option<PendingAck>,
}

/// An ack-eliciting packet (RFC 9002 section 2) was sent.
struct PendingAck {
    /// [`PathTransport::ack_mark`] then.
    mark: u64,
    since: Instant,
    has_pinged: bool,
}

impl LateAckDetector {
    /// The lead changed or was lost.
    pub(super) fn handle_lead(&mut self) {
        self.pending = None;
    }

    /// Something was sent on the lead.
    pub(super) fn handle_sent(&mut self, lead: &impl PathTransport, now: Instant) {
        if self.pending.is_none() {
            self.pending = lead.ack_mark().map(|mark| PendingAck {
                mark,
                since: now,
                has_pinged: false,
            });
        }
    }

    /// The peer was heard. Returns whether to send a `PING`: the acknowledgement of it makes the transport detect at once
    /// what was lost.
    pub(super) fn handle_heard(&mut self, lead: &impl PathTransport, now: Instant) -> bool {
        let Some(pending) = &mut self.pending else { return false };
        if lead.ack_mark() != Some(pending.mark) {
            self.pending = None;
            return false;
        }
        let rtt = lead.rtt().unwrap_or(UNKNOWN_RTT);
        let is_late = now >= pending.since + LATE_AFTER + rtt * 3;
        is_late && !std::mem::replace(&mut pending.has_pinged, is_late)
    }
}
