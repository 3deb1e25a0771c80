//! Faults that tests inject into a running process. Not compiled into release builds.
//!
//! `BOWLINE_FAULT=close-carrier-after=500ms` closes every carrier 500 ms after it was attached; `=panic` panics at
//! the start of a session, `=panic-session=N` in the Nth session of a worker; `=damage-file` flips a bit of the file
//! that the demo has sent; `=crash-at=POINT:N` kills the process when it passes POINT for the Nth time, where POINT
//! is one of [`POINTS`] or `any`; `=no-copies` drops every redundant copy of typed bytes; `=relay-FAULT=N` makes a
//! relay malicious; `=no-key-query` makes a server half that does not know `KeyQuery`.

mod relay;

pub(crate) use relay::{misleads, tamper};

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Panics if this fault was requested.
pub(crate) fn panic_if_asked() {
    if std::env::var_os("BOWLINE_FAULT").is_some_and(|fault| fault == "panic") {
        panic!("on purpose:\nin two lines");
    }
}

/// The lifetime of carriers, if limited.
pub(crate) fn carrier_lifetime() -> Option<Duration> {
    static LIFETIME: OnceLock<Option<Duration>> = OnceLock::new();
    *LIFETIME.get_or_init(|| {
        let fault = std::env::var("BOWLINE_FAULT").ok()?;
        let millis = fault.strip_prefix("close-carrier-after=")?.strip_suffix("ms")?;
        millis.parse().ok().map(Duration::from_millis)
    })
}

/// Whether redundant copies of typed bytes are dropped.
pub(crate) fn loses_copies() -> bool {
    static LOSES: OnceLock<bool> = OnceLock::new();
    *LOSES.get_or_init(|| std::env::var_os("BOWLINE_FAULT").is_some_and(|fault| fault == "no-copies"))
}

/// Whether this server half does not know `KeyQuery`, like those of earlier versions.
pub(crate) fn lacks_key_queries() -> bool {
    static LACKS: OnceLock<bool> = OnceLock::new();
    *LACKS.get_or_init(|| std::env::var_os("BOWLINE_FAULT").is_some_and(|fault| fault == "no-key-query"))
}

/// Points at which a worker can be killed: before and after each step from which its successor must recover; and
/// points in a keeper that takes over from another, and in the other.
pub(crate) const POINTS: [&str; 19] = [
    "read-before",
    "read-after",
    "publish-before",
    "publish-half",
    "publish-after",
    "write-before",
    "write-after",
    "shutdown-before",
    "shutdown-after",
    "store-before",
    "store-after",
    "end-after",
    "accepted",
    "asked",
    "offered",
    "said-ready",
    "taken-over",
    "granted",
    "handed-over",
];

/// Kills the process as `kill -9` does, if this fault was requested.
pub(crate) fn pass(point: &'static str) {
    static CRASH: OnceLock<Option<Crash>> = OnceLock::new();
    debug_assert!(POINTS.contains(&point), "{point} is none of the points");
    #[cfg(test)]
    rehearsal::pass();
    let asked = || Crash::of(&std::env::var("BOWLINE_FAULT").ok()?);
    if CRASH
        .get_or_init(asked)
        .as_ref()
        .is_some_and(|crash| crash.is_due(point))
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// A requested crash.
struct Crash {
    /// `None` counts all points.
    point: Option<String>,
    left: AtomicU64,
}

impl Crash {
    fn of(fault: &str) -> Option<Crash> {
        let (point, count) = fault.strip_prefix("crash-at=")?.split_once(':')?;
        let is_any = point == "any";
        if !is_any && !POINTS.contains(&point) {
            return None;
        }
        Some(Crash {
            point: (!is_any).then(|| point.to_owned()),
            left: AtomicU64::new(count.parse().ok()?),
        })
    }

    fn is_due(&self, point: &str) -> bool {
        let counts = self.point.as_deref().is_none_or(|asked| asked == point);
        counts && self.left.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// Panics in the Nth session of this process, if this fault was requested.
pub(crate) async fn panic_in_session() {
    static SESSIONS: AtomicU64 = AtomicU64::new(0);
    let count = SESSIONS.fetch_add(1, Ordering::Relaxed) + 1;
    let fault = std::env::var("BOWLINE_FAULT").unwrap_or_default();
    let asked = fault
        .strip_prefix("panic-session=")
        .and_then(|asked| asked.parse().ok());
    if asked == Some(count) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        panic!("on purpose");
    }
    std::future::pending().await
}

/// Whether the demo's file is to be damaged.
pub(crate) fn damages_files() -> bool {
    std::env::var("BOWLINE_FAULT").is_ok_and(|fault| fault == "damage-file")
}

/// Simulates crashes in one thread of a test: unwinding skips what a killed process would not have done.
#[cfg(test)]
pub(crate) mod rehearsal {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<u64> = const { Cell::new(0) };
    }

    /// The panic payload of a simulated crash.
    pub(crate) struct Crashed;

    /// Crashes when this thread passes its Nth point from now on; 0 disables it. Returns the rest of the previous
    /// countdown.
    pub(crate) fn crash_after(points: u64) -> u64 {
        LEFT.replace(points)
    }

    pub(super) fn pass() {
        let left = LEFT.get();
        LEFT.set(left.saturating_sub(1));
        if left == 1 {
            std::panic::resume_unwind(Box::new(Crashed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_comes_at_its_point_and_its_count() {
        let crash = Crash::of("crash-at=read-after:2").unwrap();
        let due = ["read-after", "read-before", "read-after", "read-after"].map(|point| crash.is_due(point));
        assert_eq!(due, [false, false, true, false]);
        let crash = Crash::of("crash-at=any:2").unwrap();
        assert_eq!(
            POINTS.map(|point| crash.is_due(point)).iter().position(|due| *due),
            Some(1)
        );
        assert!(Crash::of("crash-at=nowhere:1").is_none() && Crash::of("panic").is_none());
    }
}
