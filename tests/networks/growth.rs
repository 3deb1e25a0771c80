//! Paths whose MTU changes under a session, and a transfer that grows with its path.

use crate::paced::{Paced, Way};
use crate::routed::Routed;
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::{measured_time, now, wait_for};
use std::time::Duration;

/// What no packet of a path of 1280 bytes is.
const LONG: &str = "meta l4proto udp meta length > 1400 counter";
pub(crate) const NARROW: u32 = 1280;
const WIDE: u32 = 1500;

pub(crate) fn rig(net: &Routed) -> Rig {
    let options = ServeOptions {
        place: net.place("server"),
        ..ServeOptions::here()
    };
    // Packets are told by their length, so none is joined.
    net.join_nothing();
    net.rule("router", "forward", LONG);
    Rig::between(net.place("client"), options, |setup| setup)
}

/// The client is elsewhere: at another address, behind a link of this MTU to the router.
pub(crate) fn move_to(net: &Routed, mtu: u32, address: &str) {
    net.set_mtu_behind("client", mtu);
    net.move_client(address);
}

/// Moves a transfer from the narrow path to the wide one, and waits for long packets.
#[track_caller]
pub(crate) fn grow(net: &Routed, way: Way, pieces: usize, limit: Duration) {
    net.set_mtu_behind("client", NARROW);
    let rig = rig(net);
    let transfer = Paced::start(&rig, way, pieces);
    transfer.wait_until(2_000_000, Duration::from_secs(40));
    let before = net.counted("router");
    assert!(before < 50, "{way:?}: {before} long packets on a narrow path");
    let start = now();
    move_to(net, WIDE, "198.51.100.8");
    let long = || (net.counted("router") > before + 500).then_some(());
    let grown = wait_for(limit, long);
    assert!(
        grown.is_some(),
        "{way:?}: {} long packets: {}",
        net.counted("router"),
        rig.ssh.proxy_log()
    );
    measured_time(&format!("{way:?} by long packets"), start.elapsed());
    transfer.finish();
}
