//! Seeds, and inputs near them, break no promise.

#[path = "../../../../fuzz/replay.rs"]
mod replay;

use super::*;
use replay::replay;

#[test]
fn terminal_output_near_its_seeds() {
    replay("terminal_output", terminal_output);
}
