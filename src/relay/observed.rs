//! What a relay reports. It knows no sessions, and can end none.

use super::{Relay, RelayState};
use crate::clock;
use crate::observe::{Boxed, ControlHandler, KillRequest, Metrics, RelayReport, Report};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A running relay, for `bowline status`.
struct Observed {
    udp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    state: Arc<RelayState>,
}

impl Relay {
    /// The relay's metrics.
    pub(crate) fn metrics(&self) -> Arc<dyn Metrics> {
        Arc::clone(&self.state) as Arc<dyn Metrics>
    }

    /// The relay's state, for `bowline status`.
    pub(crate) fn observed(&self) -> Arc<dyn ControlHandler> {
        Arc::new(Observed {
            udp: self.addresses.clone(),
            tls: self.tls_addresses.clone(),
            state: Arc::clone(&self.state),
        })
    }
}

impl ControlHandler for Observed {
    fn report(&self) -> Boxed<'_, Report> {
        let counters = &self.state.counters;
        let relay = RelayReport {
            pid: std::process::id(),
            udp: self.udp.clone(),
            tls: self.tls.clone(),
            registered: counters.registered.load(Relaxed),
            splices: *self.state.quotas.splices().borrow() as u64,
            bytes_up: counters.bytes_up.load(Relaxed),
            bytes_down: counters.bytes_down.load(Relaxed),
            paths: self.state.splices.report(clock::now()),
        };
        Box::pin(std::future::ready(Report {
            sessions: Vec::new(),
            relay: Some(relay),
        }))
    }

    fn end(&self, _ending: &KillRequest) -> Vec<String> {
        Vec::new()
    }
}
