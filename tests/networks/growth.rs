//! Paths whose MTU changes during a session, and a transfer whose packets grow with its path.

use crate::paced_transfer::{Direction, PacedTransfer};
use crate::routed::Routed;
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::{measured_time, now, wait_for};
use std::time::Duration;

/// Packets that do not fit into an MTU of 1280 bytes.
const LONG: &str = "meta l4proto udp meta length > 1400 counter";
pub(crate) const NARROW: u32 = 1280;
const WIDE: u32 = 1500;

pub(crate) fn rig(net: &Routed) -> Rig {
    let options = ServeOptions {
        place: net.place("server"),
        ..ServeOptions::here()
    };
    // Batches would be counted by their total length.
    net.disable_gso();
    net.rule("router", "forward", LONG);
    Rig::between(net.place("client"), options, |setup| setup)
}

/// The client moves to another address, on a link with this MTU to the router.
pub(crate) fn move_to(net: &Routed, mtu: u32, address: &str) {
    net.set_mtu_behind("client", mtu);
    net.move_client(address);
}

/// Moves a transfer from the path with the small MTU to the other one, and waits for large packets.
#[track_caller]
pub(crate) fn grow(net: &Routed, direction: Direction, pieces: usize, limit: Duration) {
    net.set_mtu_behind("client", NARROW);
    let rig = rig(net);
    let transfer = PacedTransfer::start(&rig, direction, pieces);
    transfer.wait_until(2_000_000, Duration::from_secs(40));
    let before = net.counted("router");
    assert!(before < 50, "{direction:?}: {before} long packets on a narrow path");
    let start = now();
    move_to(net, WIDE, "198.51.100.8");
    let long = || (net.counted("router") > before + 500).then_some(());
    let grown = wait_for(limit, long);
    assert!(
        grown.is_some(),
        "{direction:?}: {} long packets: {}",
        net.counted("router"),
        rig.ssh.proxy_log()
    );
    measured_time(&format!("{direction:?} by long packets"), start.elapsed());
    transfer.finish();
}
