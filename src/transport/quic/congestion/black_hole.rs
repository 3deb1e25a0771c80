//! Detects paths that lose all full-size packets, and paths that lose all batches (UDP generic
//! segmentation offload, GSO).
//!
//! Pure. A broken offload, or a filter by length that sees a batch as one long packet, drops every
//! batch without an error, while single packets pass. A path whose MTU has shrunk drops every
//! full-size packet. In both cases small packets arrive, so that round trips continue and show
//! nothing. The sign is that no full-size packet is acknowledged any more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A batch or full-size packet was lost, and none delivered, in this many consecutive round trips.
const BLACK_HOLE_ROUNDS: u32 = 3;
/// At least this many packets were lost meanwhile: fewer can all be lost by chance.
const MIN_LOST_PACKETS: u64 = 6;
/// Most records of sent packets. A connection sends several packets per record.
const MAX_RECORDS: usize = 128;
/// The peer's max_ack_delay (RFC 9000 section 18.2). If no acknowledgement arrives within this time
/// plus a round trip, the next packets may be probes and must not be sent as a batch.
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);

/// Which packets of a connection arrive.
#[derive(Clone, Debug)]
pub(super) struct BlackHoleDetector {
    gso_allowed: bool,
    records: VecDeque<SendRecord>,
    batched: DeliveryCount,
    /// Both batched and single packets.
    all: DeliveryCount,
    has_lost: bool,
    acked_at: Option<Instant>,
}

/// Bytes of full-size packets sent at one time.
#[derive(Clone, Copy, Debug)]
struct SendRecord {
    at: Instant,
    single: u64,
    batched: u64,
    acked: u64,
}

/// Counts since the last delivery.
#[derive(Clone, Copy, Debug, Default)]
struct DeliveryCount {
    sent: u64,
    lost: u64,
    rounds: u32,
    has_delivered: bool,
}

impl DeliveryCount {
    fn handle_delivered(&mut self) {
        *self = DeliveryCount {
            has_delivered: true,
            ..DeliveryCount::default()
        };
    }

    fn end_round(&mut self, has_lost: bool, mtu: u64) {
        let has_delivered = std::mem::take(&mut self.has_delivered);
        if !has_delivered && has_lost && self.sent > mtu {
            self.rounds += 1;
        }
    }

    fn is_black_hole(&self, mtu: u64) -> bool {
        self.rounds >= BLACK_HOLE_ROUNDS && self.lost.min(self.sent) >= MIN_LOST_PACKETS * mtu
    }
}

/// The result of one round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoundOutcome {
    /// Something was delivered, or nothing was lost.
    Normal,
    /// Packets were lost, and none of their kind was delivered.
    NothingDelivered,
    /// The last of several such rounds: batches are disabled from now on.
    GsoDisabled,
}

impl BlackHoleDetector {
    pub(super) fn new() -> BlackHoleDetector {
        BlackHoleDetector {
            gso_allowed: true,
            records: VecDeque::new(),
            batched: DeliveryCount::default(),
            all: DeliveryCount::default(),
            has_lost: false,
            acked_at: None,
        }
    }

    /// Whether batches are disabled.
    pub(super) fn is_gso_disabled(&self) -> bool {
        !self.gso_allowed
    }

    /// Whether only small packets arrive.
    pub(super) fn is_black_hole(&self, mtu: u64) -> bool {
        self.all.is_black_hole(mtu)
    }

    /// A transmit was sent: one packet, or several of the same size. Returns whether they may form
    /// a batch.
    pub(super) fn handle_sent(&mut self, now: Instant, bytes: u64, mtu: u64, rtt: Duration) -> bool {
        let is_answered = self.acked_at.is_some_and(|acked| now <= acked + rtt + MAX_ACK_DELAY);
        let is_batch = self.gso_allowed && is_answered && bytes > mtu;
        if !is_full_size(bytes, mtu) {
            return is_batch;
        }
        self.all.sent += bytes;
        if is_batch {
            self.batched.sent += bytes;
        }
        let (single, batched) = if is_batch { (0, bytes) } else { (bytes, 0) };
        match self.records.back_mut().filter(|last| last.at == now) {
            Some(last) => {
                last.single += single;
                last.batched += batched;
            }
            None => {
                if self.records.len() == MAX_RECORDS {
                    self.records.pop_front();
                }
                self.records.push_back(SendRecord {
                    at: now,
                    single,
                    batched,
                    acked: 0,
                });
            }
        }
        is_batch
    }

    /// A packet sent at `sent` was acknowledged.
    pub(super) fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64, mtu: u64) {
        self.acked_at = Some(now);
        if !is_full_size(bytes, mtu) {
            return;
        }
        self.all.handle_delivered();
        let Ok(at) = self.records.binary_search_by_key(&sent, |record| record.at) else {
            // The record was dropped, because many more followed. The window of a path that loses
            // everything is too small for that.
            return self.batched.handle_delivered();
        };
        let record = &mut self.records[at];
        record.acked += bytes;
        if record.acked > record.single {
            self.batched.handle_delivered();
        }
    }

    pub(super) fn handle_loss(&mut self, bytes: u64) {
        self.has_lost = true;
        self.batched.lost += bytes;
        self.all.lost += bytes;
    }

    /// A round trip has ended.
    pub(super) fn end_round(&mut self, mtu: u64) -> RoundOutcome {
        let has_lost = std::mem::take(&mut self.has_lost);
        let before = (self.batched.rounds, self.all.rounds);
        self.batched.end_round(has_lost, mtu);
        self.all.end_round(has_lost, mtu);
        if self.gso_allowed && self.batched.is_black_hole(mtu) {
            self.gso_allowed = false;
            return RoundOutcome::GsoDisabled;
        }
        let is_undelivered = (self.gso_allowed && self.batched.rounds > before.0) || self.all.rounds > before.1;
        if is_undelivered {
            RoundOutcome::NothingDelivered
        } else {
            RoundOutcome::Normal
        }
    }

    /// Nothing is in flight.
    pub(super) fn handle_idle(&mut self) {
        self.records = VecDeque::new();
    }
}

/// Whether the packet is too large to be a keystroke, a probe or an acknowledgement.
fn is_full_size(bytes: u64, mtu: u64) -> bool {
    bytes * 2 > mtu
}
