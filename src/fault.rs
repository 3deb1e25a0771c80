//! Faults that tests inject into a running half. Not compiled into release builds.
//!
//! `BOWLINE_FAULT=close-carrier-after=500ms` closes every carrier that long after it was attached, loudly;
//! `=panic` panics where a session begins, `=panic-session=N` in the Nth that a worker opens; `=damage-file` changes a
//! bit of the file that the demo has sent; `=crash-at=POINT:N` kills the process when it passes POINT for the Nth time,
//! where POINT is one of [`POINTS`] or `any`; `=no-copies` loses every copy of what is typed; `=relay-FAULT=N` makes a relay malicious.

mod relay;

pub(crate) use relay::{misleads, tamper};

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Panics, if that is the fault asked for.
pub(crate) fn panic_if_asked() {
    if std::env::var_os("BOWLINE_FAULT").is_some_and(|fault| fault == "panic") {
        panic!("on purpose:\nin two lines");
    }
}

/// How long a carrier may live.
pub(crate) fn carrier_lifetime() -> Option<Duration> {
    static LIFETIME: OnceLock<Option<Duration>> = OnceLock::new();
    *LIFETIME.get_or_init(|| {
        let fault = std::env::var("BOWLINE_FAULT").ok()?;
        let millis = fault.strip_prefix("close-carrier-after=")?.strip_suffix("ms")?;
        millis.parse().ok().map(Duration::from_millis)
    })
}

/// Whether copies of interactive bytes are lost.
pub(crate) fn loses_copies() -> bool {
    static LOSES: OnceLock<bool> = OnceLock::new();
    *LOSES.get_or_init(|| std::env::var_os("BOWLINE_FAULT").is_some_and(|fault| fault == "no-copies"))
}

/// Where a worker can be killed: before and after everything that its successor must find its way from; and where a
/// keeper that takes another's place, and the one that makes way.
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

/// Dies here, as by `kill -9`, if that is the fault asked for.
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

/// A crash to come.
struct Crash {
    /// `None` counts them all.
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

/// Panics in the middle of the Nth session that this process has, if that is the fault asked for.
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

/// Crashes within one thread of a test: what a killed process would have left undone is skipped by unwinding.
#[cfg(test)]
pub(crate) mod rehearsal {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<u64> = const { Cell::new(0) };
    }

    /// What such a crash unwinds with.
    pub(crate) struct Crashed;

    /// Crashes when this thread passes its Nth point from now on; 0 is never. Gives what was left of the last call.
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
