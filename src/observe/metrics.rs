//! Counts and gauges in the form that Prometheus reads.

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

use super::Boxed;

/// Somebody who counts.
pub(crate) trait Metrics: Send + Sync {
    /// All of it, as it is now.
    fn page(&self) -> Boxed<'_, String>;
}

/// Names, what they mean, and their values. Names end in their unit, and in `_total` what only grows.
pub(crate) struct MetricsPage(Registry);

impl MetricsPage {
    /// One that says which version of bowline tells.
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

    /// What goes up and down.
    pub(crate) fn gauge(&self, name: &str, help: &str, value: f64) {
        self.put_gauge(name, help, &[], &[(&[], value)]);
    }

    /// The same for each value of a label.
    pub(crate) fn gauges(&self, name: &str, help: &str, label: &str, values: &[(&str, f64)]) {
        for_each_label(values, |values| self.put_gauge(name, help, &[label], values));
    }

    /// What only grows, until this process ends.
    pub(crate) fn counter(&self, name: &str, help: &str, value: u64) {
        self.put_counter(name, help, &[], &[(&[], value)]);
    }

    /// The same for each value of a label.
    pub(crate) fn counters(&self, name: &str, help: &str, label: &str, values: &[(&str, u64)]) {
        for_each_label(values, |values| self.put_counter(name, help, &[label], values));
    }

    /// As it is sent.
    pub(crate) fn text(&self) -> String {
        let text = TextEncoder::new().encode_to_string(&self.0.gather());
        text.expect("a String takes every byte")
    }

    fn put_gauge(&self, name: &str, help: &str, labels: &[&str], values: &[(&[&str], f64)]) {
        let gauges = GaugeVec::new(Opts::new(name, help), labels).expect("names are ours, and good");
        for (label, value) in values {
            gauges.with_label_values(label).set(*value);
        }
        self.put(gauges);
    }

    fn put_counter(&self, name: &str, help: &str, labels: &[&str], values: &[(&[&str], u64)]) {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("names are ours, and good");
        for (label, value) in values {
            counters.with_label_values(label).inc_by(*value);
        }
        self.put(counters);
    }

    fn put(&self, collector: impl Collector + 'static) {
        self.0.register(Box::new(collector)).expect("each name is given once");
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
