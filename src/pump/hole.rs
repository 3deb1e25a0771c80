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

#[derive(Clone, Copy)]
struct Watched {
    next: Instant,
    seen: Seen,
    /// Whether anything was sent since then: without that there is nothing to acknowledge.
    has_sent: bool,
    /// Since when nothing but the peer's packets says that the path lives.
    since: Instant,
}

/// What is known of a lead at one time.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// Up to there the peer has everything.
    pub(super) delivered: Offset,
    /// Up to there everything was given to the lead.
    pub(super) sent: Offset,
    /// [`Carrier::ack_mark`], unless somebody else judges by it.
    pub(super) ack_mark: Option<u64>,
    /// [`Carrier::heard`]
    pub(super) heard: u64,
    /// [`Carrier::is_hole`]
    pub(super) is_hole: bool,
    /// [`Carrier::rtt`]
    pub(super) rtt: Duration,
}

impl Seen {
    pub(super) fn of(lead: &Carrier, [delivered, sent]: [Offset; 2], judges_acks: bool) -> Seen {
        Seen {
            delivered,
            sent,
            ack_mark: lead.ack_mark().filter(|_| judges_acks),
            heard: lead.packets_received(),
            is_hole: lead.is_black_hole(),
            rtt: lead.rtt().unwrap_or(UNKNOWN_RTT),
        }
    }
}

impl Watched {
    fn new(seen: Seen, now: Instant) -> Watched {
        Watched {
            next: now + LOOK,
            seen,
            has_sent: false,
            since: now,
        }
    }

    /// Whether something was sent, and the peer's transport has acknowledged nothing since: a peer that is slow to write what
    /// it has would have acknowledged that it came.
    fn is_unheard(&self, seen: &Seen) -> bool {
        self.has_sent && seen.ack_mark.is_some() && seen.ack_mark == self.seen.ack_mark
    }
}

impl HoleWatch {
    /// Another carrier leads, or none.
    pub(super) fn handle_lead(&mut self) {
        self.watched = None;
    }

    /// When to look again.
    pub(super) fn is_due(&self, delivered: Offset, now: Instant) -> bool {
        self.watched
            .is_none_or(|watched| watched.seen.delivered != delivered || now >= watched.next)
    }

    /// Whether the lead should be left.
    pub(super) fn poll(&mut self, seen: Seen, now: Instant) -> bool {
        let Some(watched) = self
            .watched
            .as_mut()
            .filter(|watched| watched.seen.delivered == seen.delivered)
        else {
            self.watched = Some(Watched::new(seen, now));
            return false;
        };
        watched.next = now + LOOK;
        watched.has_sent |= watched.seen.sent != seen.sent;
        let is_unheard = watched.is_unheard(&seen);
        let delivers_nothing = seen.is_hole || (is_unheard && seen.heard != watched.seen.heard);
        if !delivers_nothing {
            // Nothing at all is heard, or the peer is slow to write what it has.
            if !is_unheard {
                *watched = Watched::new(seen, now);
            }
            return false;
        }
        now >= watched.since + ALLOWANCE + seen.rtt * 3
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.watched.map(|watched| watched.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const RTT: Duration = Duration::from_millis(50);

    /// Looks as often as the watch wants for some seconds, and says after how long the lead is left. `change` says what has
    /// happened at each look.
    fn left_after(seconds: u64, mut change: impl FnMut(u64, &mut Seen)) -> Option<Duration> {
        let begun = clock::now();
        let mut seen = Seen {
            delivered: Offset::ZERO,
            sent: Offset::ZERO,
            ack_mark: Some(1),
            heard: 0,
            is_hole: false,
            rtt: RTT,
        };
        let (mut watch, mut now) = (HoleWatch::default(), begun);
        for look in 0.. {
            change(look, &mut seen);
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
        let left = left_after(10, |look, seen| {
            (seen.heard, seen.sent) = (look, at(1000 * look.min(3)));
        });
        assert!(left.is_some_and(|left| left < Duration::from_secs(2)), "{left:?}");
    }

    #[test]
    fn a_lead_of_which_the_transport_knows_that_it_is_a_hole_is_left_though_small_packets_are_acknowledged() {
        let left = left_after(10, |look, seen| {
            (seen.heard, seen.ack_mark, seen.is_hole) = (look, Some(look), true);
        });
        assert!(left.is_some_and(|left| left < Duration::from_secs(2)), "{left:?}");
    }

    #[test]
    fn a_peer_that_has_what_was_sent_and_does_not_write_it_is_kept_however_often_it_is_heard() {
        // All came, and was acknowledged by the transport once; then the peer says something now and then.
        let left = left_after(600, |look, seen| {
            (seen.heard, seen.sent) = (look / 4, at(1000 * look.min(3)));
            seen.ack_mark = Some(look.min(4));
        });
        assert_eq!(left, None);
    }

    #[test]
    fn a_peer_of_which_nothing_is_heard_is_for_others_to_judge() {
        let left = left_after(600, |look, seen| seen.sent = at(1000 * look.min(3)));
        assert_eq!(left, None);
    }
}
