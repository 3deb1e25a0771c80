//! Other SSH servers than OpenSSH's behind the server half, and an sshd that is slow, elsewhere, or refuses for good: with the
//! real programs.

#[path = "../support/mod.rs"]
mod support;

mod elsewhere;
mod others;
mod refusals;
mod slow_keys;

use std::time::Duration;

/// Bounds what is not measured.
const LIMIT: Duration = Duration::from_secs(90);
