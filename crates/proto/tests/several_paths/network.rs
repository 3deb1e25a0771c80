//! Paths between the halves, in virtual time.

use std::ops::Range;
use std::time::Duration;

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

/// QUIC sends its first packet again after three times the RTT that it assumes, then with doubling intervals (RFC 9002
/// section 6.2.2).
const FIRST_RETRANSMIT: Duration = Duration::from_millis(450);

/// One path, and when it is a black hole.
#[derive(Clone)]
pub(crate) struct Path {
    /// The least is the best.
    pub(crate) rank: u8,
    pub(crate) rtt: Duration,
    /// Whether the transport shows acknowledgements, as QUIC does.
    pub(crate) shows_acks: bool,
    /// After so long without a packet from the client, packets from the server are dropped until the client sends again.
    pub(crate) nat: Option<Duration>,
    /// Which directions are dropped, by sender.
    holes: Vec<(Range<Duration>, [bool; 2])>,
}

impl Path {
    pub(crate) fn new(rank: u8, rtt_ms: u64) -> Path {
        Path {
            rank,
            rtt: Duration::from_millis(rtt_ms),
            shows_acks: true,
            nat: None,
            holes: Vec::new(),
        }
    }

    /// TLS over TCP: in-order, without a view of acknowledgements.
    pub(crate) fn in_order(mut self) -> Path {
        self.shows_acks = false;
        self
    }

    pub(crate) fn behind_nat(mut self, timeout: Duration) -> Path {
        self.nat = Some(timeout);
        self
    }

    /// Drops everything in this interval.
    pub(crate) fn dead(self, interval: Range<Duration>) -> Path {
        self.half_dead([true; 2], interval)
    }

    /// Drops what these halves send in this interval.
    pub(crate) fn half_dead(mut self, senders: [bool; 2], interval: Range<Duration>) -> Path {
        self.holes.push((interval, senders));
        self
    }

    /// When a packet arrives; `None` if it is dropped.
    pub(crate) fn travel(&self, from: usize, at: Duration) -> Option<Duration> {
        let is_dropped = self
            .holes
            .iter()
            .any(|(interval, senders)| senders[from] && interval.contains(&at));
        (!is_dropped).then_some(at + self.rtt / 2)
    }

    /// When a handshake that begins now is complete; `None` if that takes longer than `limit`.
    pub(crate) fn dial(&self, at: Duration, limit: Duration) -> Option<Duration> {
        let (mut sent, mut pause) = (at, FIRST_RETRANSMIT);
        while sent < at + limit {
            let there = self.travel(CLIENT, sent);
            if let Some(back) = there.and_then(|there| self.travel(SERVER, there)) {
                return Some(back).filter(|back| *back <= at + limit);
            }
            sent += pause;
            pause *= 2;
        }
        None
    }
}
