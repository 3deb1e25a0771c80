//! stub until merge
#[allow(missing_docs, clippy::disallowed_methods)]
pub fn now() -> std::time::Instant {
    std::time::Instant::now()
}
