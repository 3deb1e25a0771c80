//! A relay's page of metrics.

use super::House;
use crate::observe::{Boxed, Metrics, MetricsPage};
use crate::wire::RelayRefusalCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

impl Metrics for House {
    fn page(&self) -> Boxed<'_, String> {
        let page = MetricsPage::new();
        self.add_present(&page);
        self.add_counts(&page);
        Box::pin(std::future::ready(page.text()))
    }
}

impl House {
    fn add_present(&self, page: &MetricsPage) {
        page.gauge(
            "bowline_relay_registered",
            "Connections of server halves that are listed",
            self.counters.registered.load(Relaxed) as f64,
        );
        page.gauge(
            "bowline_relay_splices",
            "Paths of sessions that go through the relay",
            *self.quotas.splices().borrow() as f64,
        );
        page.gauge(
            "bowline_relay_memory_bytes",
            "Memory that is set aside for what waits in the relay",
            self.memory.used() as f64,
        );
    }

    fn add_counts(&self, page: &MetricsPage) {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &self.counters;
        page.counters(
            "bowline_relay_attempts_total",
            "Handshakes begun over QUIC, and connections taken over TLS",
            "transport",
            &[("quic", count(&counters.quic)), ("tls", count(&counters.tls))],
        );
        page.counter(
            "bowline_relay_turned_away_total",
            "Attempts turned away before their handshake",
            count(&counters.turned_away),
        );
        page.counter(
            "bowline_relay_failed_total",
            "Handshakes and first words that failed or took too long",
            count(&counters.failed),
        );
        page.counter(
            "bowline_relay_registrations_total",
            "Registrations of server halves taken",
            count(&counters.registrations),
        );
        page.counter(
            "bowline_relay_splices_made_total",
            "Paths of sessions joined",
            count(&counters.splices),
        );
        page.counters(
            "bowline_relay_bytes_total",
            "Bytes from clients to server halves (up) and back (down)",
            "direction",
            &[("up", count(&counters.bytes_up)), ("down", count(&counters.bytes_down))],
        );
        let refused = RelayRefusalCode::ALL.map(|code| (code.name(), counters.refused(code)));
        page.counters(
            "bowline_relay_refused_total",
            "Server halves and clients refused, by reason",
            "reason",
            &refused,
        );
    }
}
