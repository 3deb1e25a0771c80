//! The processor time of everything that was started in a group, dead or alive (cgroup v2, which counts that without any
//! controller).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// A group of processes; removed with its owner, once the last of them has ended.
pub(crate) struct Cgroup {
    folder: PathBuf,
}

impl Cgroup {
    /// A new group, if root may make one here.
    pub(crate) fn new() -> Option<Cgroup> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bowline-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let folder = root()?.join(name);
        fs::create_dir(&folder).ok()?;
        Some(Cgroup { folder })
    }

    /// Does something, and counts whatever it starts.
    pub(crate) fn start<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = own_group();
        join(&self.folder);
        let done = work();
        join(&before);
        done
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Duration {
        let text = fs::read_to_string(self.folder.join("cpu.stat")).unwrap_or_default();
        let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Duration::from_micros(usage.and_then(|usage| usage.parse().ok()).unwrap_or(0))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where version 2 is mounted: alone, or beside version 1.
fn root() -> Option<&'static Path> {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    places.into_iter().find(|place| place.join("cgroup.procs").exists())
}

/// The group of this process (proc_pid_cgroup(5): version 2 has number 0).
fn own_group() -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    root().map(|root| root.join(own)).unwrap_or_default()
}

fn join(folder: &Path) {
    fs::write(folder.join("cgroup.procs"), std::process::id().to_string()).expect("root may move itself");
}
