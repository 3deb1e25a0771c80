//! Whether packets of full size arrive, and whether those do that the kernel was given joined.
//!
//! Pure. A filter by length, or a broken offload, loses each batch without an error to anybody: for it a batch is one long packet.
//! Single packets pass. A path whose MTU has shrunk loses every packet of full size. In both cases small ones arrive, so round trips
//! go on and tell nothing of it; what tells is that of the others none is ever acknowledged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So many round trips in a row that lost something and brought nothing are no chance.
const HOPELESS: u32 = 3;
/// Packets lost in them, at least: of fewer, chance takes all now and then.
const LEAST_LOST: u64 = 6;
/// Departures for which it is known what arrived of them. A connection sends some packets at each.
const MOST_NOTED: usize = 128;
/// The peer's delay of an acknowledgement (RFC 9000 section 18.2). One that is later than that, by a round trip, is missing, and
/// what leaves now may be a probe for it.
const LATEST_ACK: Duration = Duration::from_millis(25);

/// What is known of the packets of a connection.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    may_join: bool,
    departures: VecDeque<Departure>,
    joined: Tally,
    /// Joined ones and single ones.
    all: Tally,
    has_lost: bool,
    acked_at: Option<Instant>,
}

/// What left at one time: bytes of packets of full size.
#[derive(Clone, Copy, Debug)]
struct Departure {
    at: Instant,
    single: u64,
    joined: u64,
    acked: u64,
}

/// Since the last arrival.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    sent: u64,
    lost: u64,
    rounds: u32,
    has_arrived: bool,
}

impl Tally {
    fn handle_arrival(&mut self) {
        *self = Tally {
            has_arrived: true,
            ..Tally::default()
        };
    }

    fn end_round(&mut self, has_lost: bool, mtu: u64) {
        let has_arrived = std::mem::take(&mut self.has_arrived);
        if !has_arrived && has_lost && self.sent > mtu {
            self.rounds += 1;
        }
    }

    fn is_hopeless(&self, mtu: u64) -> bool {
        self.rounds >= HOPELESS && self.lost.min(self.sent) >= LEAST_LOST * mtu
    }
}

/// What a round trip that is over has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    /// Nothing in particular.
    Usual,
    /// It has lost something, and nothing of what could be lost that way has arrived.
    Fruitless,
    /// It was the last of several like that: from now on every packet leaves alone.
    SendSingly,
}

impl Arrivals {
    pub(super) fn new() -> Arrivals {
        Arrivals {
            may_join: true,
            departures: VecDeque::new(),
            joined: Tally::default(),
            all: Tally::default(),
            has_lost: false,
            acked_at: None,
        }
    }

    /// Whether no packets are joined any more.
    pub(super) fn sends_singly(&self) -> bool {
        !self.may_join
    }

    /// Whether nothing but small packets arrives.
    pub(super) fn is_hole(&self, mtu: u64) -> bool {
        self.all.is_hopeless(mtu)
    }

    /// One packet leaves, or several of one size. Whether these may be joined.
    pub(super) fn handle_sent(&mut self, now: Instant, bytes: u64, mtu: u64, rtt: Duration) -> bool {
        let is_answered = self.acked_at.is_some_and(|acked| now <= acked + rtt + LATEST_ACK);
        let joins = self.may_join && is_answered && bytes > mtu;
        if !is_full_size(bytes, mtu) {
            return joins;
        }
        self.all.sent += bytes;
        if joins {
            self.joined.sent += bytes;
        }
        let (single, joined) = if joins { (0, bytes) } else { (bytes, 0) };
        match self.departures.back_mut().filter(|last| last.at == now) {
            Some(last) => {
                last.single += single;
                last.joined += joined;
            }
            None => {
                if self.departures.len() == MOST_NOTED {
                    self.departures.pop_front();
                }
                self.departures.push_back(Departure {
                    at: now,
                    single,
                    joined,
                    acked: 0,
                });
            }
        }
        joins
    }

    /// A packet that left at `sent` has arrived.
    pub(super) fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, mtu: u64) {
        self.acked_at = Some(now);
        if !is_full_size(bytes, mtu) {
            return;
        }
        self.all.handle_arrival();
        let Ok(at) = self.departures.binary_search_by_key(&sent, |departure| departure.at) else {
            // So much is in flight that this is forgotten: a path that loses everything has no such window.
            return self.joined.handle_arrival();
        };
        let departure = &mut self.departures[at];
        departure.acked += bytes;
        if departure.acked > departure.single {
            self.joined.handle_arrival();
        }
    }

    pub(super) fn handle_loss(&mut self, bytes: u64) {
        self.has_lost = true;
        self.joined.lost += bytes;
        self.all.lost += bytes;
    }

    /// A packet has arrived that left when the last round trip was over.
    pub(super) fn end_round(&mut self, mtu: u64) -> Round {
        let has_lost = std::mem::take(&mut self.has_lost);
        let before = (self.joined.rounds, self.all.rounds);
        self.joined.end_round(has_lost, mtu);
        self.all.end_round(has_lost, mtu);
        if self.may_join && self.joined.is_hopeless(mtu) {
            self.may_join = false;
            return Round::SendSingly;
        }
        let is_fruitless = (self.may_join && self.joined.rounds > before.0) || self.all.rounds > before.1;
        if is_fruitless { Round::Fruitless } else { Round::Usual }
    }

    /// Nothing is in flight.
    pub(super) fn handle_idle(&mut self) {
        self.departures = VecDeque::new();
    }
}

/// Whether the network may treat it otherwise than a keystroke, a probe, or an acknowledgement.
fn is_full_size(bytes: u64, mtu: u64) -> bool {
    bytes * 2 > mtu
}
