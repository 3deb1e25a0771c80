//! What the tests of several modules need.

use std::time::Instant;

/// Where the virtual time of a test begins.
#[allow(
    clippy::disallowed_methods,
    reason = "an Instant is made by the clock only; the tests add to it"
)]
pub(crate) fn start() -> Instant {
    Instant::now()
}
