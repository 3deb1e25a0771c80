//! What a relay has done and does: plain counts, for logs and metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::carrier::via::RelayTransport;
use crate::wire::RelayRefusalCode;

/// Counts since the relay began, and gauges of the present.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes begun over QUIC.
    pub quic: AtomicU64,
    /// Connections taken over TCP.
    pub tls: AtomicU64,
    /// Attempts that were turned away before their handshake, for lack of places or because one source made too many.
    pub turned_away: AtomicU64,
    /// Handshakes and first words that failed or took too long.
    pub failed: AtomicU64,
    /// Registrations taken.
    pub registrations: AtomicU64,
    /// Registered now.
    pub registered: AtomicU64,
    /// Splices made.
    pub splices: AtomicU64,
    /// Bytes from clients to server halves.
    pub bytes_up: AtomicU64,
    /// Bytes from server halves to clients.
    pub bytes_down: AtomicU64,
    refused: [AtomicU64; RelayRefusalCode::ALL.len()],
}

impl Counters {
    /// How often it was refused for this reason.
    pub fn refused(&self, code: RelayRefusalCode) -> u64 {
        self.refused[code as usize].load(Relaxed)
    }

    pub(super) fn count_refusal(&self, code: RelayRefusalCode) {
        count(&self.refused[code as usize]);
    }

    pub(super) fn count_attempt(&self, transport: RelayTransport) {
        count(match transport {
            RelayTransport::Quic => &self.quic,
            RelayTransport::Tls => &self.tls,
        });
    }
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
