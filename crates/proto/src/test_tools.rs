//! A beginning for virtual time in tests.

use std::time::Instant;

/// Any instant; tests count from it.
#[allow(
    clippy::disallowed_methods,
    reason = "tests need some instant, and this crate has no clock"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}
