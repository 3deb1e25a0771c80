//! A control group bounds memory, as MemoryMax= and containers do: the server half keeps within it by itself.

use crate::support::data::hash_bytes;
use crate::support::process::{Running, run};
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::ssh::HOST;
use crate::support::{BOWLINE, Scratch, heavy, measured, write_program};
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const MAX_MEMORY: u64 = 64 << 20;
const DOWNLOADS: usize = 8;
/// About 50 MiB, and no two parts of it are the same.
const OUTPUT: &str = "seq 1 6500000";
const LIMIT: Duration = Duration::from_secs(120);

/// A control group with a limit; gone with its owner.
struct Group(PathBuf);

impl Group {
    /// None if this is not root, or the kernel gives no groups here.
    fn with_limit() -> Option<Group> {
        let name = format!("bowline-test-{}", std::process::id());
        for (root, file) in [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ] {
            let folder = PathBuf::from(root).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Group(folder);
            // In any other folder that would be a new file, and no limit.
            let limit = group.0.join(file);
            if limit.exists() && fs::write(limit, MAX_MEMORY.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes have ended, but the kernel may not have noticed.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn downloads_at_once_stay_within_the_memory_of_the_control_group() {
    let Some(group) = Group::with_limit() else {
        return measured(
            "downloads in a small control group",
            "SKIPPED, no group can be made here",
        );
    };
    let _turn = heavy();
    let scratch = Scratch::new();
    let program = scratch.join("bowline");
    let procs = group.0.join("cgroup.procs");
    write_program(
        &program,
        &format!("echo $$ >{} && exec {BOWLINE} \"$@\"", procs.display()),
    );
    let rig = Rig::with(ServeOptions::here().program(program), |setup| setup);
    let expected = &hash_bytes(run(Command::new("sh").args(["-c", OUTPUT]), LIMIT).out().as_bytes());

    let downloads: Vec<_> = (0..DOWNLOADS)
        .map(|_| Running::start_piped(&mut rig.ssh.ssh(&[HOST, OUTPUT])))
        .collect();
    std::thread::scope(|scope| {
        for (running, stdin, mut stdout) in downloads {
            scope.spawn(move || {
                let mut output = vec![];
                stdout.read_to_end(&mut output).expect("a pipe");
                drop(stdin);
                running.finish(LIMIT).expect_code(0);
                assert!(
                    hash_bytes(&output) == *expected,
                    "{} bytes, not those that were sent",
                    output.len()
                );
            });
        }
    });
    assert_eq!(rig.serve().logged("worker died"), 0, "{}", rig.serve().log());
}
