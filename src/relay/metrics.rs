//! The relay's metrics page.

use super::RelayState;
use crate::carrier::via::RelayTransport;
use crate::observe::{Boxed, Metrics, MetricsPage};
use crate::wire::{Code, RelayRefusalCode};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

impl Metrics for RelayState {
    fn page(&self) -> Boxed<'_, String> {
        let page = MetricsPage::new();
        self.add_present(&page);
        self.add_counts(&page);
        Box::pin(std::future::ready(page.text()))
    }
}

impl RelayState {
    fn add_present(&self, page: &MetricsPage) {
        page.gauge(
            "bowline_relay_registered",
            "Registered connections of server halves",
            self.counters.registered.load(Relaxed) as f64,
        );
        page.gauge(
            "bowline_relay_splices",
            "Active splices: paths between a client and a server half",
            *self.quotas.splices().borrow() as f64,
        );
        page.gauge(
            "bowline_relay_memory_bytes",
            "Memory reserved for connections and buffers",
            self.memory.used() as f64,
        );
    }

    fn add_counts(&self, page: &MetricsPage) {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &self.counters;
        page.counters(
            "bowline_relay_attempts_total",
            "QUIC handshakes started, and TCP connections accepted",
            "transport",
            &[("quic", count(&counters.quic)), ("tls", count(&counters.tls))],
        );
        page.counter(
            "bowline_relay_turned_away_total",
            "Connection attempts refused before the handshake",
            count(&counters.turned_away),
        );
        page.counter(
            "bowline_relay_failed_total",
            "Connections that failed or timed out before their first message",
            count(&counters.failed),
        );
        page.counter(
            "bowline_relay_registrations_total",
            "Registrations accepted",
            count(&counters.registrations),
        );
        page.counter(
            "bowline_relay_splices_made_total",
            "Splices made",
            count(&counters.splices),
        );
        page.counters(
            "bowline_relay_bytes_total",
            "Bytes from clients to server halves (up) and back (down)",
            "direction",
            &[("up", count(&counters.bytes_up)), ("down", count(&counters.bytes_down))],
        );
        let refused = RelayRefusalCode::ALL
            .iter()
            .map(|(code, name)| (*name, counters.refused(*code)));
        page.counters(
            "bowline_relay_refused_total",
            "Server halves and clients refused, by reason",
            "reason",
            &refused.collect::<Vec<_>>(),
        );
    }
}

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
