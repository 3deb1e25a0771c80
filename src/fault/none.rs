//! Empty stand-ins for release builds.

/// Does nothing.
#[inline(always)]
pub(crate) fn pass(_point: &str) {}

/// Never returns.
pub(crate) async fn panic_in_session() {
    std::future::pending().await
}

/// Changes nothing.
#[inline(always)]
pub(crate) fn tamper(_piece: &[u8]) -> Option<Vec<u8>> {
    None
}

/// Never misdirects.
#[inline(always)]
pub(crate) fn misleads() -> bool {
    false
}

/// Drops nothing.
#[inline(always)]
pub(crate) fn loses_copies() -> bool {
    false
}

/// Questions about keys are answered.
#[inline(always)]
pub(crate) fn lacks_key_queries() -> bool {
    false
}
