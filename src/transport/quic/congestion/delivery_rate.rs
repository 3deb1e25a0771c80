//! Delivery rate estimation (draft-cheng-iccrg-delivery-rate-estimation).
//!
//! Pure. The draft stores the state of delivery with each packet. Here it is recorded some dozen
//! times per round trip, and a packet uses the last record made before it was sent.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Records per round trip, but at most one per minimum interval.
const RECORDS_PER_RTT: u32 = 32;
const MIN_RECORD_INTERVAL: Duration = Duration::from_micros(200);
/// A loss is detected within two round trips; older records are not needed.
const MAX_RECORDS: usize = 2 * RECORDS_PER_RTT as usize;

/// Estimates the delivery rate.
#[derive(Clone, Debug)]
pub(super) struct DeliveryRate {
    records: VecDeque<SendRecord>,
    delivered: u64,
    delivered_at: Instant,
    /// When the packet delivered last was sent.
    delivered_sent_at: Instant,
    is_idle: bool,
    /// The record of the latest sent packet among those acknowledged now, and when that packet was
    /// sent.
    newest: Option<(SendRecord, Instant)>,
}

/// State of delivery at the time of sending.
#[derive(Clone, Copy, Debug)]
struct SendRecord {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    delivered_sent_at: Instant,
}

impl DeliveryRate {
    pub(super) fn new(now: Instant) -> DeliveryRate {
        DeliveryRate {
            records: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            delivered_sent_at: now,
            is_idle: true,
            newest: None,
        }
    }

    /// Bytes delivered so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(super) fn handle_sent(&mut self, now: Instant, rtt: Duration) {
        if std::mem::take(&mut self.is_idle) {
            (self.delivered_at, self.delivered_sent_at) = (now, now);
        }
        let interval = (rtt / RECORDS_PER_RTT).max(MIN_RECORD_INTERVAL);
        if self.records.back().is_some_and(|last| now < last.at + interval) {
            return;
        }
        if self.records.len() == MAX_RECORDS {
            self.records.pop_front();
        }
        self.records.push_back(SendRecord {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            delivered_sent_at: self.delivered_sent_at,
        });
    }

    /// A packet sent at `sent_at` was acknowledged.
    pub(super) fn handle_ack(&mut self, now: Instant, sent_at: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        let recorded = self.records.partition_point(|record| record.at <= sent_at);
        let Some(record) = recorded.checked_sub(1).and_then(|at| self.records.get(at)) else {
            return;
        };
        if self.newest.is_none_or(|(_, before)| before <= sent_at) {
            self.newest = Some((*record, sent_at));
            self.delivered_sent_at = sent_at;
        }
    }

    /// The rate sample of the packets acknowledged now, in bytes per second. `None` if there is
    /// none, or if the interval is shorter than the minimum RTT: then acknowledgements were
    /// compressed.
    pub(super) fn take_sample(&mut self, now: Instant, least: Duration) -> Option<f64> {
        let (record, sent_at) = self.newest.take()?;
        let sending = sent_at.saturating_duration_since(record.delivered_sent_at);
        let arriving = now.saturating_duration_since(record.delivered_at);
        let took = sending.max(arriving);
        let delivered = self.delivered - record.delivered;
        (took >= least && !took.is_zero()).then(|| delivered as f64 / took.as_secs_f64())
    }

    /// Nothing is in flight.
    pub(super) fn handle_idle(&mut self) {
        self.is_idle = true;
        self.records = VecDeque::new();
    }
}
