//! Seeds, and inputs near them, break no promise.

#[path = "../../../../fuzz/replay.rs"]
mod replay;

use super::*;
use replay::replay;

#[test]
fn frames_near_its_seeds() {
    replay("frames", frames);
}

#[test]
fn hello_near_its_seeds() {
    replay("hello", hello);
}

#[test]
fn relay_near_its_seeds() {
    replay("relay", relay);
}
