//! The relay's metrics page.

use super::RelayState;
use crate::observe::{Boxed, Metrics, MetricsPage};
use crate::wire::{Code, RelayRefusalCode};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
