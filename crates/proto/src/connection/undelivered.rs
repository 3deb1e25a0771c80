//! Detects a lead on which the peer's packets arrive, but what this half sends is not delivered.
//!
//! Packets from the peer prove nothing about the other direction, and acknowledgements of some packets prove nothing about
//! others: a filter or a broken offload may drop packets by length.

use super::path::{PathTransport, UNKNOWN_RTT};
use crate::wire::Offset;
use std::time::{Duration, Instant};

/// Interval between checks while something is outstanding.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Together with three round trips this exceeds the time that the transport needs to detect loss by length and resend.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Detects on both halves that nothing is delivered (RFC 8899 section 4.3).
#[derive(Default)]
pub(super) struct BlackHoleDetector {
    watched: Option<Watched>,
}

#[derive(Clone, Copy)]
struct Watched {
    next: Instant,
    seen: LeadSample,
    /// Whether anything was sent since then. Otherwise there is nothing to acknowledge.
    has_sent: bool,
    /// Since when the peer's packets are the only sign that the path works.
    since: Instant,
}

/// Counters of the lead at one moment.
#[derive(Clone, Copy)]
pub(super) struct LeadSample {
    /// First position that the peer has not acknowledged.
    pub(super) delivered: Offset,
    /// First position not yet handed to the lead.
    pub(super) sent: Offset,
    /// [`PathTransport::ack_mark`]; `None` if the path monitor evaluates it.
    pub(super) ack_mark: Option<u64>,
    /// [`PathTransport::received`]
    pub(super) heard: u64,
    /// [`PathTransport::is_black_hole`]
    pub(super) is_hole: bool,
    /// [`PathTransport::rtt`]
    pub(super) rtt: Duration,
}

impl LeadSample {
    pub(super) fn of(lead: &impl PathTransport, [delivered, sent]: [Offset; 2], judges_acks: bool) -> LeadSample {
        LeadSample {
            delivered,
            sent,
            ack_mark: lead.ack_mark().filter(|_| judges_acks),
            heard: lead.received(),
            is_hole: lead.is_black_hole(),
            rtt: lead.rtt().unwrap_or(UNKNOWN_RTT),
        }
    }
}

impl Watched {
    fn new(seen: LeadSample, now: Instant) -> Watched {
        Watched {
            next: now + CHECK_INTERVAL,
            seen,
            has_sent: false,
            since: now,
        }
    }

    /// Whether something was sent and the peer's transport has acknowledged nothing since. A peer that is only slow to write
    /// to its pipe would still have acknowledged the packets.
    fn is_unacked(&self, seen: &LeadSample) -> bool {
        self.has_sent && seen.ack_mark.is_some() && seen.ack_mark == self.seen.ack_mark
    }
}

impl BlackHoleDetector {
    /// The lead changed or was lost.
    pub(super) fn handle_lead(&mut self) {
        self.watched = None;
    }

    /// Whether [`BlackHoleDetector::poll`] should run now.
    pub(super) fn is_due(&self, delivered: Offset, now: Instant) -> bool {
        self.watched
            .is_none_or(|watched| watched.seen.delivered != delivered || now >= watched.next)
    }

    /// Whether the lead should be closed.
    pub(super) fn poll(&mut self, seen: LeadSample, now: Instant) -> bool {
        let Some(watched) = self
            .watched
            .as_mut()
            .filter(|watched| watched.seen.delivered == seen.delivered)
        else {
            self.watched = Some(Watched::new(seen, now));
            return false;
        };
        watched.next = now + CHECK_INTERVAL;
        watched.has_sent |= watched.seen.sent != seen.sent;
        let is_unacked = watched.is_unacked(&seen);
        let delivers_nothing = seen.is_hole || (is_unacked && seen.heard != watched.seen.heard);
        if !delivers_nothing {
            // Either nothing arrives at all, or the peer is slow to write to its pipe.
            if !is_unacked {
                *watched = Watched::new(seen, now);
            }
            return false;
        }
        now >= watched.since + DETECTION_TIMEOUT + seen.rtt * 3
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.watched.map(|watched| watched.next)
    }
}

/// An acknowledgement that is overdue by this and three round trips was not merely delayed.
const LATE_AFTER: Duration = Duration::from_millis(500);

/// Detects on the server half that a NAT dropped its mapping for the client: it tracks the oldest unacknowledged packet of
/// the lead. The loss shows when the client is heard again: by then an acknowledgement has been overdue for long.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tools as clock;

    const RTT: Duration = Duration::from_millis(50);

    /// Polls the detector for `seconds` and returns after how long it closes the lead. `change` updates the sample before
    /// each poll.
    fn left_after(seconds: u64, mut change: impl FnMut(u64, &mut LeadSample)) -> Option<Duration> {
        let begun = clock::now();
        let mut seen = LeadSample {
            delivered: Offset::ZERO,
            sent: Offset::ZERO,
            ack_mark: Some(1),
            heard: 0,
            is_hole: false,
            rtt: RTT,
        };
        let (mut watch, mut now) = (BlackHoleDetector::default(), begun);
        for check in 0.. {
            change(check, &mut seen);
            if watch.poll(seen, now) {
                return Some(now - begun);
            }
            now = watch.poll_timeout().expect("it watches");
            if now - begun > Duration::from_secs(seconds) {
                return None;
            }
        }
        None
    }

    fn at(position: u64) -> Offset {
        Offset::new(position).expect("a small number")
    }

    #[test]
    fn a_peer_that_is_heard_and_acknowledges_nothing_of_what_is_sent_is_left_within_two_seconds() {
        let left = left_after(10, |check, seen| {
            (seen.heard, seen.sent) = (check, at(1000 * check.min(3)));
        });
        assert!(left.is_some_and(|left| left < Duration::from_secs(2)), "{left:?}");
    }

    #[test]
    fn a_lead_of_which_the_transport_knows_that_it_is_a_hole_is_left_though_small_packets_are_acknowledged() {
        let left = left_after(10, |check, seen| {
            (seen.heard, seen.ack_mark, seen.is_hole) = (check, Some(check), true);
        });
        assert!(left.is_some_and(|left| left < Duration::from_secs(2)), "{left:?}");
    }

    #[test]
    fn a_peer_that_has_what_was_sent_and_does_not_write_it_is_kept_however_often_it_is_heard() {
        // All came, and was acknowledged by the transport once; then the peer says something now and then.
        let left = left_after(600, |check, seen| {
            (seen.heard, seen.sent) = (check / 4, at(1000 * check.min(3)));
            seen.ack_mark = Some(check.min(4));
        });
        assert_eq!(left, None);
    }

    #[test]
    fn a_peer_of_which_nothing_is_heard_is_for_others_to_judge() {
        let left = left_after(600, |check, seen| seen.sent = at(1000 * check.min(3)));
        assert_eq!(left, None);
    }
}
