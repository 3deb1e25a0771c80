//! What a relay tells of itself. It knows no sessions, and can end none.

use super::{House, Relay};
use crate::clock;
use crate::observe::{Boxed, ControlHandler, KillRequest, Metrics, RelayReport, Report};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A running relay, for `bowline status`.
struct Observed {
    udp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    house: Arc<House>,
}

impl Relay {
    /// What is counted there.
    pub(crate) fn metrics(&self) -> Arc<dyn Metrics> {
        Arc::clone(&self.house) as Arc<dyn Metrics>
    }

    /// What is told of it.
    pub(crate) fn observed(&self) -> Arc<dyn ControlHandler> {
        Arc::new(Observed {
            udp: self.addresses.clone(),
            tls: self.tls_addresses.clone(),
            house: Arc::clone(&self.house),
        })
    }
}

impl ControlHandler for Observed {
    fn report(&self) -> Boxed<'_, Report> {
        let counters = &self.house.counters;
        let relay = RelayReport {
            pid: std::process::id(),
            udp: self.udp.clone(),
            tls: self.tls.clone(),
            registered: counters.registered.load(Relaxed),
            splices: *self.house.quotas.splices().borrow() as u64,
            bytes_up: counters.bytes_up.load(Relaxed),
            bytes_down: counters.bytes_down.load(Relaxed),
            paths: self.house.splices.report(clock::now()),
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
