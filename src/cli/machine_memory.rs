//! How much memory there is: of the machine, and of the control group that a service manager or a container gives.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The controller in /proc/self/cgroup (version 2 names none), the folder of its groups, and the files with their limits.
const HIERARCHIES: [(&str, &str, &[&str]); 2] = [
    ("", "", &["memory.high", "memory.max"]),
    ("memory", "memory", &["memory.limit_in_bytes"]),
];

/// A relay's share is no less.
const MIN_RELAY: u64 = 64 << 20;
/// A relay's share if nothing is known.
const DEFAULT_RELAY: u64 = 256 << 20;

/// A server half's share is no more.
const MAX_SERVE: u64 = 1 << 30;
/// Nor is it less: a few sessions at once need it.
const MIN_SERVE: u64 = 8 << 20;

/// For what waits in a relay: a quarter of the machine's memory, or half of what its control group may have if that is
/// less. What it needs beside is less than that again.
pub(super) fn relay_budget() -> u64 {
    let (machine, group) = known();
    relay_share(machine, group)
}

/// For the buffers of a server half's sessions: half of the machine's memory, or of what its control group may have, and
/// at most 1 GiB. With 8 downloads at once the rest of the server half takes less than as much again.
pub(super) fn serve_budget() -> u64 {
    let (machine, group) = known();
    serve_share(machine, group)
}

/// Bytes that the machine has, and that the control group may have.
fn known() -> (Option<u64>, Option<u64>) {
    // Not there for a unit with ProcSubset=pid, which has a limit of its own then.
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| total_of(&text));
    let group = fs::read_to_string("/proc/self/cgroup").ok();
    let group = group.and_then(|groups| limit_of(Path::new(CGROUPS), &groups));
    (machine, group)
}

fn relay_share(machine: Option<u64>, group: Option<u64>) -> u64 {
    let shares = [machine.map(|bytes| bytes / 4), group.map(|bytes| bytes / 2)];
    shares
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(DEFAULT_RELAY)
        .max(MIN_RELAY)
}

fn serve_share(machine: Option<u64>, group: Option<u64>) -> u64 {
    let least = machine.into_iter().chain(group).min();
    least.map_or(MAX_SERVE, |bytes| (bytes / 2).clamp(MIN_SERVE, MAX_SERVE))
}

/// `MemTotal` of proc_meminfo(5).
fn total_of(text: &str) -> Option<u64> {
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The lowest limit of the groups that `groups` names, as /proc/self/cgroup does, and of those that they are in; cgroups(7).
fn limit_of(root: &Path, groups: &str) -> Option<u64> {
    let limits = HIERARCHIES
        .iter()
        .filter_map(|(controller, folder, files)| lowest(&root.join(folder), group_of(groups, controller)?, files));
    limits.min()
}

/// The group that a controller has this process in, without the slash in front: `ID:CONTROLLER,..:/GROUP`.
fn group_of<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(":/")?;
        controllers.split(',').any(|name| name == controller).then_some(group)
    })
}

fn lowest(root: &Path, group: &str, files: &[&str]) -> Option<u64> {
    let own: PathBuf = root.join(group);
    let within = own.ancestors().take_while(|folder| folder.starts_with(root));
    let limits = within.flat_map(|folder| files.iter().map(|file| folder.join(file)));
    // `max` is no number, and no limit.
    let limits = limits.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_small_and_a_group_that_is_smaller_bound_what_is_taken() {
        const GIB: u64 = 1 << 30;
        assert_eq!(relay_share(Some(8 * GIB), None), 2 * GIB);
        assert_eq!(relay_share(Some(8 * GIB), Some(GIB)), GIB / 2);
        assert_eq!(relay_share(Some(8 * GIB), Some(6 * GIB)), 2 * GIB);
        assert_eq!(relay_share(None, Some(GIB)), GIB / 2);
        assert_eq!(relay_share(Some(GIB / 8), None), MIN_RELAY);
        assert_eq!(relay_share(None, None), DEFAULT_RELAY);
        assert_eq!(serve_share(Some(8 * GIB), None), GIB);
        assert_eq!(serve_share(Some(8 * GIB), Some(GIB / 16)), GIB / 32);
        assert_eq!(serve_share(Some(GIB), Some(8 * GIB)), GIB / 2);
        assert_eq!(serve_share(None, Some(1)), MIN_SERVE);
        assert_eq!(serve_share(None, None), GIB);
        assert_eq!(total_of("MemTotal:       1024 kB\nMemFree: 1 kB\n"), Some(1 << 20));
    }

    #[test]
    fn the_lowest_limit_on_the_way_to_the_root_counts() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("system.slice/relay.service");
        fs::create_dir_all(&own).unwrap();
        let limit = || {
            limit_of(
                root.path(),
                "1:net_cls:/other\n4:cpu,memory:/box\n0::/system.slice/relay.service\n",
            )
        };
        assert_eq!(limit(), None);
        fs::write(own.join("memory.max"), "max\n").unwrap();
        fs::write(own.join("memory.high"), "700\n").unwrap();
        assert_eq!(limit(), Some(700));
        fs::write(root.path().join("system.slice/memory.max"), "600\n").unwrap();
        assert_eq!(limit(), Some(600));
        // Version 1, as a container sees it: not under the name that the group has outside.
        fs::create_dir_all(root.path().join("memory")).unwrap();
        fs::write(root.path().join("memory/memory.limit_in_bytes"), "500\n").unwrap();
        assert_eq!(limit(), Some(500));
    }
}
