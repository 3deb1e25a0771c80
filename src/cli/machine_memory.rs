//! How much memory there is: of the machine, and of the control group that a service manager or a container gives.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are, of version 2.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Less is of no use.
const LEAST: u64 = 64 << 20;
/// Where nothing is known.
const USUAL: u64 = 256 << 20;

/// For what waits in a relay: a quarter of the machine's memory, or half of what its control group may have where that is
/// less. What it needs beside is less than that again.
pub(super) fn relay_budget() -> u64 {
    // Not there for a unit with ProcSubset=pid, which has a limit of its own then.
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| total_of(&text));
    let group = fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.and_then(|groups| limit_of(Path::new(CGROUPS), &groups));
    budget(machine, group)
}

fn budget(machine: Option<u64>, group: Option<u64>) -> u64 {
    let shares = [machine.map(|bytes| bytes / 4), group.map(|bytes| bytes / 2)];
    shares.into_iter().flatten().min().unwrap_or(USUAL).max(LEAST)
}

/// `MemTotal` of proc_meminfo(5).
fn total_of(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The lowest limit (memory.high, memory.max) of the group that `groups` names, as /proc/self/cgroup does, and of those
/// that it is in; cgroups(7).
fn limit_of(root: &Path, groups: &str) -> Option<u64> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own: PathBuf = root.join(own);
    let within = own.ancestors().take_while(|folder| folder.starts_with(root));
    let limits = within.flat_map(|folder| ["memory.high", "memory.max"].map(|file| folder.join(file)));
    // `max` is no number, and no limit.
    let limits = limits.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_small_and_a_group_that_is_smaller_bound_what_a_relay_takes() {
        const GIB: u64 = 1 << 30;
        assert_eq!(budget(Some(8 * GIB), None), 2 * GIB);
        assert_eq!(budget(Some(8 * GIB), Some(GIB)), GIB / 2);
        assert_eq!(budget(Some(8 * GIB), Some(6 * GIB)), 2 * GIB);
        assert_eq!(budget(None, Some(GIB)), GIB / 2);
        assert_eq!(budget(Some(GIB / 8), None), LEAST);
        assert_eq!(budget(None, None), USUAL);
        assert_eq!(total_of("MemTotal:       1024 kB\nMemFree: 1 kB\n"), Some(1 << 20));
    }

    #[test]
    fn the_lowest_limit_on_the_way_to_the_root_counts() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("system.slice/relay.service");
        fs::create_dir_all(&own).unwrap();
        let limit = || limit_of(root.path(), "1:net_cls:/other\n0::/system.slice/relay.service\n");
        assert_eq!(limit(), None);
        fs::write(own.join("memory.max"), "max\n").unwrap();
        fs::write(own.join("memory.high"), "700\n").unwrap();
        assert_eq!(limit(), Some(700));
        fs::write(root.path().join("system.slice/memory.max"), "600\n").unwrap();
        assert_eq!(limit(), Some(600));
    }
}
