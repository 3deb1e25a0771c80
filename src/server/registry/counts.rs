//! Counters of a server half since its worker started, and the metrics page.

use super::Registry;
use super::session_table::Entry;
use crate::observe::{Boxed, ControlHandler, Metrics, MetricsPage, Report, SessionReport, State};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters that only grow.
#[derive(Default)]
pub(super) struct Counts {
    opened: AtomicU64,
    ended: AtomicU64,
    /// Of sessions that have ended.
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    outages: AtomicU64,
}

/// Bytes and outages of sessions.
#[derive(Default)]
struct Totals {
    bytes_in: u64,
    bytes_out: u64,
    outages: u64,
}

impl Counts {
    pub(super) fn handle_opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// To be called with the lock held while the session is removed from the table: so it is counted exactly once.
    pub(super) fn handle_ended(&self, entry: &Entry) {
        let mut sum = Totals::default();
        sum.add(entry);
        self.ended.fetch_add(1, Relaxed);
        self.bytes_in.fetch_add(sum.bytes_in, Relaxed);
        self.bytes_out.fetch_add(sum.bytes_out, Relaxed);
        self.outages.fetch_add(sum.outages, Relaxed);
    }
}

impl Totals {
    fn add(&mut self, entry: &Entry) {
        let (bytes_in, bytes_out) = entry.stats.transferred_here();
        self.bytes_in += bytes_in;
        self.bytes_out += bytes_out;
        self.outages += entry.stats.outages().outages;
    }
}

impl Metrics for Registry {
    fn page(&self) -> Boxed<'_, String> {
        Box::pin(async {
            let Report { sessions, .. } = self.report().await;
            let page = MetricsPage::new();
            self.add_sessions(&page, &sessions);
            self.add_counts(&page);
            page.text()
        })
    }
}

impl Registry {
    fn add_sessions(&self, page: &MetricsPage, sessions: &[SessionReport]) {
        let states = [State::Connected, State::Probing, State::Detached].map(|state| {
            let count = sessions.iter().filter(|session| session.state == state).count();
            (state.as_str(), count as f64)
        });
        page.gauges(
            "bowline_sessions",
            "Sessions by state: connected (the client was heard within the last 35 s), probing (it was not), detached (no path)",
            "state",
            &states,
        );
        let attached = sessions
            .iter()
            .filter(|session| matches!(session.state, State::Connected | State::Probing));
        let silence = attached.filter_map(|session| session.age_ms);
        page.gauge(
            "bowline_silence_seconds",
            "The longest time since a client half with a path was heard",
            silence.max().unwrap_or(0) as f64 / 1e3,
        );
        page.gauge(
            "bowline_buffered_bytes",
            "Bytes in the buffers of all sessions: not acknowledged by clients, or not accepted by sshd",
            sessions.iter().filter_map(|session| session.buffered).sum::<u64>() as f64,
        );
        page.gauge(
            "bowline_sessions_limit",
            "Maximum number of sessions",
            self.limits.sessions as f64,
        );
        page.gauge(
            "bowline_memory_bytes",
            "Memory that the buffers of all sessions use",
            self.budget.used() as f64,
        );
        page.gauge(
            "bowline_memory_limit_bytes",
            "Maximum memory of the buffers of all sessions",
            self.limits.memory as f64,
        );
    }

    fn add_counts(&self, page: &MetricsPage) {
        let mut sum = Totals::default();
        let (opened, ended) = {
            let table = self.table();
            table.sessions.values().for_each(|entry| sum.add(entry));
            sum.bytes_in += self.counts.bytes_in.load(Relaxed);
            sum.bytes_out += self.counts.bytes_out.load(Relaxed);
            sum.outages += self.counts.outages.load(Relaxed);
            (self.counts.opened.load(Relaxed), self.counts.ended.load(Relaxed))
        };
        page.counter(
            "bowline_sessions_opened_total",
            "Sessions opened since the worker started",
            opened,
        );
        page.counter(
            "bowline_sessions_ended_total",
            "Sessions ended since the worker started",
            ended,
        );
        page.counter(
            "bowline_outages_total",
            "Number of times that a session lost its path since the worker started",
            sum.outages,
        );
        page.counters(
            "bowline_bytes_total",
            "Bytes of sessions from clients (in) and to clients (out) since the worker started",
            "direction",
            &[("in", sum.bytes_in), ("out", sum.bytes_out)],
        );
    }
}
