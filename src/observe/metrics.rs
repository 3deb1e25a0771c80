//! Counters and gauges in Prometheus text format.

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

use super::Boxed;

/// A process with metrics.
pub(crate) trait Metrics: Send + Sync {
    /// All current values.
    fn page(&self) -> Boxed<'_, String>;
}

/// Metrics with names, help texts and values. Names end in their unit; counters end in `_total`.
pub(crate) struct MetricsPage(Registry);

impl MetricsPage {
    /// Contains `bowline_build_info`.
    pub(crate) fn new() -> MetricsPage {
        let page = MetricsPage(Registry::new());
        let version = env!("CARGO_PKG_VERSION");
        page.gauges(
            "bowline_build_info",
            "Which version runs: always 1",
            "version",
            &[(version, 1.0)],
        );
        page
    }

    /// Adds a gauge.
    pub(crate) fn gauge(&self, name: &str, help: &str, value: f64) {
        self.put_gauge(name, help, &[], &[(&[], value)]);
    }

    /// Adds one value per label value.
    pub(crate) fn gauges(&self, name: &str, help: &str, label: &str, values: &[(&str, f64)]) {
        for_each_label(values, |values| self.put_gauge(name, help, &[label], values));
    }

    /// Adds a counter of this process.
    pub(crate) fn counter(&self, name: &str, help: &str, value: u64) {
        self.put_counter(name, help, &[], &[(&[], value)]);
    }

    /// Adds one value per label value.
    pub(crate) fn counters(&self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        for_each_label(values, |values| self.put_counter(name, help, &[label], values));
    }

    /// The text format.
    pub(crate) fn text(&self) -> String {
        let text = TextEncoder::new().encode_to_string(&self.0.gather());
        text.expect("writing to a String does not fail")
    }

    fn put_gauge(&self, name: &str, help: &str, labels: &[&str], values: &[(&[&str], f64)]) {
        let gauges = GaugeVec::new(Opts::new(name, help), labels).expect("the names are valid constants");
        for (label, value) in values {
            gauges.with_label_values(label).set(*value);
        }
        self.put(gauges);
    }

    fn put_counter(&self, name: &str, help: &str, labels: &[&str], values: &[(&[&str], u64)]) {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("the names are valid constants");
        for (label, value) in values {
            counters.with_label_values(label).inc_by(*value);
        }
        self.put(counters);
    }

    fn put(&self, collector: impl Collector + 'static) {
        self.0
            .register(Box::new(collector))
            .expect("each name is registered once");
    }
}

fn for_each_label<V: Copy>(values: &[(&str, V)], put: impl FnOnce(&[(&[&str], V)])) {
    let labels: Vec<[&str; 1]> = values.iter().map(|(label, _)| [*label]).collect();
    let values: Vec<(&[&str], V)> = labels
        .iter()
        .zip(values)
        .map(|(label, (_, value))| (&label[..], *value))
        .collect();
    put(&values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_meaning_a_kind_and_a_value_for_each_name() {
        let page = MetricsPage::new();
        page.counters("bowline_bytes_total", "Bytes", "direction", &[("in", 5), ("out", 0)]);
        page.gauge("bowline_silence_seconds", "Silence", 0.5);
        let text = page.text();
        for line in [
            "# HELP bowline_bytes_total Bytes",
            "# TYPE bowline_bytes_total counter",
            "bowline_bytes_total{direction=\"in\"} 5",
            "bowline_bytes_total{direction=\"out\"} 0",
            "# TYPE bowline_silence_seconds gauge",
            "bowline_silence_seconds 0.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
