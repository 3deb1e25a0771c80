//! What users do with ssh, each as one function over a `Rig`: the same scenario runs over plain TCP, where it must
//! pass to be fair, and over bowline with whatever faults the rig has.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]
#![allow(unreachable_pub, reason = "a module of test crates has no outside")]

pub mod echo_probe;
pub mod endings;
pub mod forwarding;
pub mod goodput;
pub mod keys;
pub mod ticker;
pub mod transfers;

use std::time::Duration;

/// Nothing here takes longer unless it hangs: the largest transfers run at a few MB/s at worst.
pub const LIMIT: Duration = Duration::from_secs(240);
