//! What the end-to-end suites share: real sshd, the server half, ssh and its friends, and bad networks.
//!
//! Everything lives in a temporary folder, on loopback or in namespaces of its own, and ends with its owner: every
//! process is killed on drop, by its id. Nothing here knows a test's expectations; the suites hold those.

#![allow(dead_code, reason = "each test crate uses its own part of this module")]
#![allow(unreachable_pub, reason = "a module of test crates has no outside")]

pub mod daemon;
pub mod data;
pub mod echo;
pub mod flow;
pub mod gate;
pub mod lab;
pub mod link;
pub mod manager;
pub mod peer;
pub mod place;
pub mod process;
pub mod pty;
pub mod relay;
pub mod rig;
pub mod serve;
pub mod server_half;
pub mod ssh;
pub mod sshd;
pub mod upstream;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// The program under test, as this build made it.
pub const BOWLINE: &str = env!("CARGO_BIN_EXE_bowline");

/// The variable of the environment that repeats a random test.
pub const SEED: &str = "BOWLINE_SEED";

/// A seed for a random test: a new one, or that of [`SEED`]. It is printed.
pub fn seed() -> u64 {
    let wanted = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    // The only source of chance that std has.
    let seed = wanted.unwrap_or_else(|| RandomState::new().hash_one(0));
    measured("seed", format_args!("{seed}; {SEED}={seed} repeats it"));
    seed
}

/// The time, for measuring: tests are drivers, so they may look at the clock.
#[allow(clippy::disallowed_methods, reason = "the suites measure real programs from outside")]
pub fn now() -> Instant {
    Instant::now()
}

/// A test's turn on the machine, for as long as it holds this.
pub enum Turn {
    Alone(RwLockWriteGuard<'static, ()>),
    Shared(RwLockReadGuard<'static, ()>),
}

static TURNS: RwLock<()> = RwLock::new(());

/// Serialises the heavy tests of one crate: two at once on two cores would measure each other.
///
/// # Panics
/// Never: a test that failed while holding it does not fail the others.
pub fn heavy() -> Turn {
    Turn::Alone(TURNS.write().unwrap_or_else(PoisonError::into_inner))
}

/// For a test that insists on no figure: beside others of that kind, never beside a heavy one.
///
/// # Panics
/// Never, as [`heavy`].
pub fn light() -> Turn {
    Turn::Shared(TURNS.read().unwrap_or_else(PoisonError::into_inner))
}

/// Prints a figure on standard error, past the capture of the test harness: figures are wanted on success too.
pub fn measured(what: &str, figure: impl std::fmt::Display) {
    // One write per line, so that parallel tests do not mix within it.
    let _ = std::io::stderr().write_all(format!("    measured {what}: {figure}\n").as_bytes());
}

/// Prints `milliseconds` of a duration as a figure.
pub fn measured_time(what: &str, time: Duration) {
    measured(what, format_args!("{:.1} ms", time.as_secs_f64() * 1e3));
}

/// Waits until `look` gives something, for at most `limit`.
pub fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Writes a shell script that can be run as a program.
pub fn write_program(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, format!("#!/bin/sh\n{script}\n")).expect("the scratch folder");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, executable).expect("the scratch folder");
}

/// A folder that goes with its owner; kept, and named, when `KEEP_TEST_FILES` is set.
pub struct Scratch {
    dir: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// An empty folder under the system's temporary one.
    pub fn new() -> Scratch {
        let dir = tempfile::Builder::new()
            .prefix("bowline-test-")
            .tempdir()
            .expect("a temporary folder");
        Scratch {
            path: dir.path().to_owned(),
            dir: Some(dir),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::env::var_os("KEEP_TEST_FILES").is_some() {
            measured(
                "kept",
                self.dir
                    .take()
                    .map(tempfile::TempDir::keep)
                    .unwrap_or_default()
                    .display(),
            );
        }
    }
}
