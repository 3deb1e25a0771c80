//! Other ways than the usual one: TLS where UDP is blocked, relays where nothing gets in, proxies and programs where
//! nothing gets out.
//!
//! Needs root; without it each test says on standard error that it was skipped. Figures are printed.

#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../support/mod.rs"]
mod support;

mod malice;
mod names;
mod proxies;
mod relays;
mod tls;

use std::time::Duration;
use support::lab::Lab;
use support::{Turn, heavy, light};

/// RTT 50 ms.
const CLIENT: &str = "delay=25";
/// No gap of a change that was planned, or for which another carrier stood by, may be longer: 2 RTT + 100 ms.
const UNNOTICED: Duration = Duration::from_millis(200);

/// The lab with these hosts beside the client, and the turn to use it; `None` without root.
fn lab(test: &str, hosts: &[(&str, &str)]) -> Option<(Turn, Lab)> {
    Lab::possible(test).then(|| (heavy(), lab_of(hosts)))
}

/// The same for a test that insists on no figure.
fn shared_lab(test: &str, hosts: &[(&str, &str)]) -> Option<(Turn, Lab)> {
    Lab::possible(test).then(|| (light(), lab_of(hosts)))
}

fn lab_of(hosts: &[(&str, &str)]) -> Lab {
    let hosts: Vec<_> = [("client", CLIENT)].iter().chain(hosts).copied().collect();
    Lab::up(&hosts)
}
