//! A session on a path whose MTU changes between the 1280 bytes of a tunnel and 1500.

use crate::growth::{NARROW, grow, move_to, rig};
use crate::paced_transfer::{Direction, PacedTransfer};
use crate::routed::Routed;
use crate::support::measured;
use std::time::Duration;

/// The half that stays finds the MTU of the path to a new address at once. The half that moves is
/// tested in `endurance`.
#[test]
fn what_a_session_sends_to_where_it_moved_grows_with_the_path() {
    if let Some(net) = Routed::up("from 1280 to 1500 bytes, down", true) {
        grow(&net, Direction::Down, 80, Duration::from_secs(20));
    }
}

#[test]
fn a_session_shrinks_with_its_path_and_does_not_stand() {
    for direction in [Direction::Down, Direction::Up] {
        let Some(net) = Routed::up("from 1500 to 1280 bytes", true) else {
            return;
        };
        let rig = rig(&net);
        let transfer = PacedTransfer::start(&rig, direction, 120);
        transfer.wait_until(3_000_000, Duration::from_secs(40));
        assert!(net.counted("router") > 500, "long packets on a wide path");
        move_to(&net, NARROW, "198.51.100.8");
        let stalled = transfer.longest_stall(Duration::from_secs(4));
        measured(&format!("{direction:?} stalled for"), format_args!("{stalled:?}"));
        // The claim is half a second. The transfer pauses 0.1 s between two chunks, and the counter
        // polls every 20 ms.
        assert!(stalled < Duration::from_millis(900), "{direction:?}: {stalled:?}");
        transfer.finish();
    }
}
