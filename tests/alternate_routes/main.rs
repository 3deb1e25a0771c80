//! Alternate routes: TLS if UDP is blocked, relays if the server cannot be reached, proxies and
//! programs if the client's network blocks direct connections.
//!
//! Needs root; without it each test prints on standard error that it was skipped. Figures are
//! printed.

#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../support/mod.rs"]
mod support;

mod malicious_relay;
mod names;
mod proxies;
mod relays;
mod tls;

use std::time::Duration;
use support::lab::Lab;
use support::{Turn, heavy, light};

/// Round trip of 50 ms.
const CLIENT: &str = "delay=25";
/// Longest gap of a planned change, or of a change to a standby: 2 RTT + 100 ms.
const MAX_PLANNED_GAP: Duration = Duration::from_millis(200);

/// A lab with these hosts and a client, and its exclusive use; `None` without root.
fn lab(test: &str, hosts: &[(&str, &str)]) -> Option<(Turn, Lab)> {
    Lab::possible(test).then(|| (heavy(), lab_of(hosts)))
}

/// The same for a test without timing requirements.
fn shared_lab(test: &str, hosts: &[(&str, &str)]) -> Option<(Turn, Lab)> {
    Lab::possible(test).then(|| (light(), lab_of(hosts)))
}

fn lab_of(hosts: &[(&str, &str)]) -> Lab {
    let hosts: Vec<_> = [("client", CLIENT)].iter().chain(hosts).copied().collect();
    Lab::up(&hosts)
}
