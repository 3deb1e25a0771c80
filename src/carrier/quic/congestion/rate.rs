//! How fast the peer gets what is sent to it (draft-cheng-iccrg-delivery-rate-estimation).
//!
//! Pure. Departures are noted some dozen times a round trip, not for each packet: the figures of a packet are those of
//! the last departure noted before it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Departures noted in one round trip, and no two within the least time.
const NOTED: u32 = 32;
const LEAST_APART: Duration = Duration::from_micros(200);
/// A loss is found out within two round trips; older ones tell nothing more.
const MOST_NOTED: usize = 2 * NOTED as usize;

/// Measures it.
#[derive(Clone, Debug)]
pub(super) struct DeliveryRate {
    departures: VecDeque<Departure>,
    delivered: u64,
    delivered_at: Instant,
    /// When that left which was delivered last.
    delivered_left: Instant,
    is_idle: bool,
    /// The latest departure of what the acknowledgements at hand are about.
    newest: Option<(Departure, Instant)>,
}

/// What was known when something left.
#[derive(Clone, Copy, Debug)]
struct Departure {
    at: Instant,
    delivered: u64,
    delivered_at: Instant,
    delivered_left: Instant,
}

impl DeliveryRate {
    pub(super) fn new(now: Instant) -> DeliveryRate {
        DeliveryRate {
            departures: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            delivered_left: now,
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
            (self.delivered_at, self.delivered_left) = (now, now);
        }
        let apart = (rtt / NOTED).max(LEAST_APART);
        if self.departures.back().is_some_and(|last| now < last.at + apart) {
            return;
        }
        if self.departures.len() == MOST_NOTED {
            self.departures.pop_front();
        }
        self.departures.push_back(Departure {
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            delivered_left: self.delivered_left,
        });
    }

    /// A packet that left at `left` was acknowledged.
    pub(super) fn handle_ack(&mut self, now: Instant, left: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        let noted = self.departures.partition_point(|departure| departure.at <= left);
        let Some(departure) = noted.checked_sub(1).and_then(|at| self.departures.get(at)) else {
            return;
        };
        if self.newest.is_none_or(|(_, before)| before <= left) {
            self.newest = Some((*departure, left));
            self.delivered_left = left;
        }
    }

    /// Bytes a second, as the acknowledgements at hand show it. `None` where they say nothing, or came in less than the
    /// path takes: then they waited for each other.
    pub(super) fn take_sample(&mut self, now: Instant, least: Duration) -> Option<f64> {
        let (departure, left) = self.newest.take()?;
        let sending = left.saturating_duration_since(departure.delivered_left);
        let arriving = now.saturating_duration_since(departure.delivered_at);
        let took = sending.max(arriving);
        let delivered = self.delivered - departure.delivered;
        (took >= least && !took.is_zero()).then(|| delivered as f64 / took.as_secs_f64())
    }

    /// Nothing is in flight.
    pub(super) fn handle_idle(&mut self) {
        self.is_idle = true;
        self.departures = VecDeque::new();
    }
}
