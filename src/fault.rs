//! Faults that tests inject into a running half. Not compiled into release builds.
//!
//! `BOWLINE_FAULT=close-carrier-after=500ms` closes every carrier that long after it was attached, loudly;
//! `=panic` panics where a session begins; `=damage-file` changes a bit of the file that the demo has sent.

use std::sync::OnceLock;
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

/// Whether the demo's file is to be damaged.
pub(crate) fn damages_files() -> bool {
    std::env::var("BOWLINE_FAULT").is_ok_and(|fault| fault == "damage-file")
}
