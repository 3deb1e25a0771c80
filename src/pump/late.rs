//! Whether what this half sent met a NAT that had forgotten the peer. For the half that does not dial.
//!
//! It comes to light when the peer is heard again: what was sent has waited for an acknowledgement for long by then.

use super::attached::UNKNOWN_RTT;
use crate::carrier::Carrier;
use std::time::{Duration, Instant};

/// An acknowledgement that comes so late, with three round trips, was not merely delayed.
const LATE: Duration = Duration::from_millis(500);

/// Watches what the lead was given.
#[derive(Default)]
pub(super) struct LateWatch {
    owed: Option<Owed>,
}

/// Something was sent that the peer's transport acknowledges.
struct Owed {
    /// [`Carrier::ack_mark`] then.
    mark: u64,
    since: Instant,
    has_asked: bool,
}

impl LateWatch {
    /// Another carrier leads, or none.
    pub(super) fn handle_lead(&mut self) {
        self.owed = None;
    }

    /// Something was given to the lead.
    pub(super) fn handle_sent(&mut self, lead: &Carrier, now: Instant) {
        if self.owed.is_none() {
            self.owed = lead.ack_mark().map(|mark| Owed {
                mark,
                since: now,
                has_asked: false,
            });
        }
    }

    /// The peer is heard. Whether it should be asked for an acknowledgement: its answer is acknowledged too, which shows the
    /// transport at once what is lost.
    pub(super) fn handle_heard(&mut self, lead: &Carrier, now: Instant) -> bool {
        let Some(owed) = &mut self.owed else { return false };
        if lead.ack_mark() != Some(owed.mark) {
            self.owed = None;
            return false;
        }
        let rtt = lead.rtt().unwrap_or(UNKNOWN_RTT);
        let is_late = now >= owed.since + LATE + rtt * 3;
        is_late && !std::mem::replace(&mut owed.has_asked, is_late)
    }
}
