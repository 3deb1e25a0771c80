//! Counters and gauges of a relay, for logs and metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::carrier::via::RelayTransport;
use crate::wire::{Code, RelayRefusalCode};

/// Counters since the relay started, and gauges.
#[derive(Debug, Default)]
pub struct Counters {
    /// QUIC handshakes started.
    pub quic: AtomicU64,
    /// TCP connections accepted.
    pub tls: AtomicU64,
    /// Connection attempts refused before the handshake: the relay was full, or one source made too
    /// many attempts.
    pub turned_away: AtomicU64,
    /// Connections that failed or timed out before their first message.
    pub failed: AtomicU64,
    /// Registrations accepted.
    pub registrations: AtomicU64,
    /// Server halves that are registered now.
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
    /// Refusals for this reason.
    pub fn refused(&self, code: RelayRefusalCode) -> u64 {
        self.refused[code.index()].load(Relaxed)
    }

    pub(super) fn count_refusal(&self, code: RelayRefusalCode) {
        count(&self.refused[code.index()]);
    }

    pub(super) fn count_attempt(&self, transport: RelayTransport) {
        count(match transport {
            RelayTransport::Quic => &self.quic,
            RelayTransport::Tls => &self.tls,
        });
    }
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
