//! Another user can neither see nor end sessions, even if file permissions allow access to the sockets.

use crate::support::process::{Outcome, run};
use crate::support::rig::Rig;
use crate::support::{BOWLINE, Scratch, measured};
use crate::{LIMIT, client_folder, in_state, log_in, server_folder, text};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The user id of `nobody`, which no test process uses.
const OTHER: u32 = 54_321;

/// Runs `bowline` as another user.
struct Other {
    scratch: Scratch,
}

impl Other {
    /// `None` if that is not possible, which is printed.
    fn possible(test: &str) -> Option<Other> {
        if !rustix::process::geteuid().is_root() {
            measured(test, "SKIPPED, it needs root to be another user");
            return None;
        }
        let scratch = Scratch::new();
        permit(scratch.path(), 0o755);
        // The build folder may not be readable by others.
        fs::copy(BOWLINE, scratch.join("bowline")).expect("the scratch folder");
        Some(Other { scratch })
    }

    fn run(&self, folder: &Path, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(self.scratch.join("bowline"));
        command.args(arguments).arg("--runtime-dir").arg(folder);
        command.env("HOME", "/nonexistent").uid(OTHER).gid(OTHER);
        run(&mut command, LIMIT)
    }
}

fn permit(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("our own");
}

/// Opens up the permissions, so that only the check of the peer's user id remains.
fn open_to_all(folder: &Path) {
    permit(folder.parent().expect("a scratch folder"), 0o755);
    permit(folder, 0o755);
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        permit(&entry.path(), 0o666);
    }
}

#[test]
fn another_user_is_told_nothing_and_ends_nothing_even_where_permissions_are_lax() {
    let Some(other) = Other::possible("status of another user") else {
        return;
    };
    let rig = Rig::bowline();
    let (client, server) = (client_folder(&rig), server_folder(&rig));
    let _ssh = log_in(&rig);
    let id = text(&in_state(&client, "connected"), "id").to_owned();
    for folder in [&client, &server] {
        open_to_all(folder);
        let told = other.run(folder, &["status", "--json"]).expect_code(0);
        let told: Value = serde_json::from_slice(&told.stdout).expect("one document");
        for list in ["sessions", "servers", "relays"] {
            assert_eq!(told[list], Value::Array(Vec::new()), "{told:#}");
        }
        other.run(folder, &["kill", &id]).expect_code(69);
        other.run(folder, &["kill", "--orphans"]);
        // Its own user still sees it.
        assert_eq!(text(&in_state(folder, "connected"), "id"), id);
    }
    // The message names the closed folder and who may read it.
    permit(&server, 0o700);
    let told = other.run(&server, &["status"]).expect_code(0).out();
    let note = format!("not readable: {} (run sudo bowline status", server.display());
    assert!(
        told.starts_with("no sessions on this machine\n") && told.contains(&note),
        "{told}"
    );
    // They could connect and were rejected.
    let told = other.run(&client, &["status"]).expect_code(0).out();
    assert!(
        told.contains("does not report its sessions: the process closed the connection"),
        "{told}"
    );
    assert!(rig.serve().logged("refused a control connection of another user") > 0);
}
