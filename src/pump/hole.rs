//! The watch over what this half sends: a lead that brings the peer's packets and delivers nothing is left.
//!
//! On both halves. That the peer is heard says nothing of the other direction, and that its transport acknowledges some packets
//! says nothing of others: a filter or a broken offload may tell them apart by their length.

use super::attached::UNKNOWN_RTT;
use crate::carrier::Carrier;
use crate::wire::Offset;
use std::time::{Duration, Instant};

/// How often it is looked while something is outstanding.
const LOOK: Duration = Duration::from_millis(250);
/// With three round trips, longer than the transport needs to notice that only single packets pass, and to send again.
const ALLOWANCE: Duration = Duration::from_secs(1);

/// Watches one lead after the other.
#[derive(Default)]
pub(super) struct HoleWatch {
    watched: Option<Watched>,
}

struct Watched {
    next: Instant,
    /// Up to there the peer had everything.
    delivered: Offset,
    ack_mark: Option<u64>,
    heard: u64,
    /// Since when nothing but the peer's packets says that the path lives.
    since: Instant,
}

impl Watched {
    fn new(lead: &Carrier, delivered: Offset, now: Instant) -> Watched {
        Watched {
            next: now + LOOK,
            delivered,
            ack_mark: lead.ack_mark(),
            heard: lead.heard(),
            since: now,
        }
    }
}

impl HoleWatch {
    /// Another carrier leads, or none.
    pub(super) fn handle_lead(&mut self) {
        self.watched = None;
    }

    /// Whether the lead should be left. `delivered`: the peer has everything before that. `hears_all`: nobody else judges whether the
    /// peer's transport acknowledges anything.
    pub(super) fn poll(&mut self, lead: &Carrier, delivered: Offset, hears_all: bool, now: Instant) -> bool {
        let Some(watched) = self.watched.as_mut().filter(|watched| watched.delivered == delivered) else {
            self.watched = Some(Watched::new(lead, delivered, now));
            return false;
        };
        if now < watched.next {
            return false;
        }
        watched.next = now + LOOK;
        let is_unheard = hears_all && watched.ack_mark.is_some() && lead.ack_mark() == watched.ack_mark;
        let delivers_nothing = lead.is_hole() || (is_unheard && lead.heard() != watched.heard);
        if !delivers_nothing {
            // Nothing at all is heard, or the peer is slow to write what it has.
            if !is_unheard {
                *watched = Watched::new(lead, delivered, now);
            }
            return false;
        }
        let rtt = lead.rtt().unwrap_or(UNKNOWN_RTT);
        now >= watched.since + ALLOWANCE + rtt * 3
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.watched.as_ref().map(|watched| watched.next)
    }
}
