//! A session on a path whose MTU changes: from a tunnel's 1280 bytes to 1500, and back.

use crate::growth::{NARROW, grow, move_to, rig};
use crate::paced::{Paced, Way};
use crate::routed::Routed;
use crate::support::measured;
use std::time::Duration;

/// The half that stays finds the MTU of a path to a new address at once; `endurance` waits for the one that moves.
#[test]
fn what_a_session_sends_to_where_it_moved_grows_with_the_path() {
    if let Some(net) = Routed::up("from 1280 to 1500 bytes, down", true) {
        grow(&net, Way::Down, 80, Duration::from_secs(20));
    }
}

#[test]
fn a_session_shrinks_with_its_path_and_does_not_stand() {
    for way in [Way::Down, Way::Up] {
        let Some(net) = Routed::up("from 1500 to 1280 bytes", true) else {
            return;
        };
        let rig = rig(&net);
        let transfer = Paced::start(&rig, way, 120);
        transfer.wait_until(3_000_000, Duration::from_secs(40));
        assert!(net.counted("router") > 500, "long packets on a wide path");
        move_to(&net, NARROW, "198.51.100.8");
        let stood = transfer.longest_stand(Duration::from_secs(4));
        measured(&format!("{way:?} stood for"), format_args!("{stood:?}"));
        // Half a second is promised; 0.1 s is the pause between two pieces, and what counts them looks each 20 ms.
        assert!(stood < Duration::from_millis(900), "{way:?}: {stood:?}");
        transfer.finish();
    }
}
