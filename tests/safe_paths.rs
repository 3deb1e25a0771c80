//! Root writes nowhere that another user decides: real links of a user without rights, in folders of his.
//!
//! Wants root; without it nothing is tried, which is told.

mod support;

use rustix::fs::{CWD, Gid, Uid};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, Home};
use support::process::{Outcome, run};
use support::{BOWLINE, Scratch, measured};

/// A user without any rights.
const OTHER: u32 = 65534;
const LIMIT: Duration = Duration::from_secs(10);

/// What no test may change.
const PRECIOUS: &str = "precious";

/// A folder of the other user's in one of root's, with links in it to what is root's.
struct Trap {
    scratch: Scratch,
}

impl Trap {
    /// `None` without root.
    fn set(links: &[&str]) -> Option<Trap> {
        if !rustix::process::geteuid().is_root() {
            measured(
                "links of another user",
                "SKIPPED, only root can be led anywhere by them",
            );
            return None;
        }
        let trap = Trap {
            scratch: Scratch::new(),
        };
        fs::set_permissions(trap.scratch.path(), fs::Permissions::from_mode(0o755)).expect("the scratch folder");
        fs::write(trap.precious(), PRECIOUS).expect("the scratch folder");
        fs::create_dir(trap.scratch.join("treasure")).expect("the scratch folder");
        fs::create_dir(trap.folder()).expect("the scratch folder");
        for name in links {
            let to = match *name {
                "relays" => trap.scratch.join("treasure"),
                _ => trap.precious(),
            };
            trap.link(name, &to);
        }
        chown(trap.folder(), Some(OTHER), Some(OTHER)).expect("root gives folders away");
        Some(trap)
    }

    /// The other user's.
    fn folder(&self) -> PathBuf {
        self.scratch.join("theirs")
    }

    fn precious(&self) -> PathBuf {
        self.scratch.join("precious")
    }

    fn link(&self, name: &str, to: &Path) {
        let link = self.folder().join(name);
        symlink(to, &link).expect("the scratch folder");
        let (user, group) = (Uid::from_raw(OTHER), Gid::from_raw(OTHER));
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(CWD, &link, Some(user), Some(group), flags).expect("root gives links away");
    }

    fn bowline(&self, arguments: &[&str], state: &Path) -> Command {
        let mut command = Command::new(BOWLINE);
        command.args(arguments).arg("--state-dir").arg(state);
        command.arg("--runtime-dir").arg(self.scratch.join("run"));
        command.env("HOME", self.scratch.path()).env_remove("SSH_AUTH_SOCK");
        command
    }

    /// It does not start, says whose the folder is and what to do, and has written nothing.
    #[track_caller]
    fn expect_refused(&self, command: &mut Command) {
        let before = self.entries();
        let outcome = run(command, LIMIT);
        self.expect_untouched(&outcome);
        assert_eq!(self.entries(), before, "nothing new in the folder");
        let outcome = outcome.expect_code(69);
        let said = outcome.err();
        assert!(said.contains(&OTHER.to_string()), "whose it is: {said}");
        assert!(said.contains("\nhint: "), "{said}");
    }

    #[track_caller]
    fn expect_untouched(&self, outcome: &Outcome) {
        let said = || outcome.err();
        let precious = fs::read_to_string(self.precious()).expect("it is still there");
        assert_eq!(precious, PRECIOUS, "{}", said());
        let treasure = fs::metadata(self.scratch.join("treasure")).expect("it is still there");
        assert_eq!(treasure.uid(), 0, "{}", said());
        let in_treasure = fs::read_dir(self.scratch.join("treasure")).expect("it is still there");
        assert_eq!(in_treasure.count(), 0, "{}", said());
    }

    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).expect("the scratch folder");
        let names = entries.flatten().map(|entry| entry.file_name().display().to_string());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

const SERVE: [&str; 7] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--target",
    "127.0.0.1:9",
    "--auth",
    "none",
];
const RELAY: [&str; 4] = ["relay", "--listen", "127.0.0.1:0", "--open"];

#[test]
fn a_server_half_keeps_no_secrets_in_a_folder_of_another_user() {
    let names = ["endpoint_secret", "tls_key", "ssh_host_ed25519_key", "relays"];
    let Some(trap) = Trap::set(&names) else { return };
    let relayed = [&SERVE[..], &["--relay", "127.0.0.1:9"]].concat();
    for arguments in [&SERVE[..], &relayed] {
        trap.expect_refused(&mut trap.bowline(arguments, &trap.folder()));
        trap.expect_refused(&mut trap.bowline(arguments, &trap.folder().join("below/it")));
    }
}

#[test]
fn a_relay_keeps_no_secrets_in_a_folder_of_another_user() {
    let Some(trap) = Trap::set(&["relay_endpoint_secret", "relay_key"]) else {
        return;
    };
    trap.expect_refused(&mut trap.bowline(&RELAY, &trap.folder()));
}

#[test]
fn the_built_in_server_keeps_no_key_in_a_folder_of_another_user() {
    let Some(trap) = Trap::set(&["ssh_host_ed25519_key"]) else {
        return;
    };
    let keys = trap.scratch.join("keys");
    fs::write(&keys, "").expect("the scratch folder");
    let keys = keys.display().to_string();
    let arguments = ["sshd", "--listen", "127.0.0.1:0", "--authorized-keys", &keys];
    trap.expect_refused(&mut trap.bowline(&arguments, &trap.folder()));
}

#[test]
fn a_client_half_of_root_keeps_no_memories_in_a_folder_of_another_user() {
    let Some(trap) = Trap::set(&["known_hosts", "journal", "hints.toml"]) else {
        return;
    };
    let arguments = ["proxy", "-F", "/dev/null", "127.0.0.1", "9"];
    trap.expect_refused(&mut trap.bowline(&arguments, &trap.folder()));
}

#[test]
fn a_link_of_root_to_a_folder_of_root_is_followed_and_one_of_another_user_is_not() {
    let Some(trap) = Trap::set(&[]) else { return };
    let (real, own) = (trap.scratch.join("real"), trap.scratch.join("own"));
    fs::create_dir(&real).expect("the scratch folder");
    symlink(&real, &own).expect("the scratch folder");
    trap.link("link", &real);
    trap.expect_refused(&mut trap.bowline(&SERVE, &trap.folder().join("link")));
    assert_eq!(fs::read_dir(&real).expect("the scratch folder").count(), 0);
    // It does start: what it says first is that it is ready, and then its time is up.
    let outcome = run(&mut trap.bowline(&SERVE, &own), Duration::from_secs(3));
    assert!(outcome.out().starts_with("ready "), "{}", outcome.err());
    assert!(real.join("tls_key").exists());
}

#[test]
fn a_log_file_never_leads_root_to_another_file() {
    let Some(trap) = Trap::set(&["log"]) else { return };
    fs::hard_link(trap.precious(), trap.folder().join("name")).expect("the scratch folder");
    trap.link("up", trap.scratch.path());
    for name in ["log", "name", "up/new-log"] {
        let log = trap.folder().join(name).display().to_string();
        let arguments = [&SERVE[..], &["--log-file", &log]].concat();
        let outcome = run(
            &mut trap.bowline(&arguments, &trap.scratch.join("state")),
            Duration::from_secs(3),
        );
        trap.expect_untouched(&outcome);
        assert!(
            outcome.out().starts_with("ready "),
            "it serves without: {}",
            outcome.err()
        );
        assert!(outcome.err().contains("cannot write the log file"), "{}", outcome.err());
    }
    assert!(!trap.scratch.join("new-log").exists());
}

#[test]
fn no_socket_is_put_into_a_runtime_folder_of_another_user() {
    let Some(trap) = Trap::set(&[]) else { return };
    let theirs = trap.folder().display().to_string();
    for arguments in [&SERVE[..], &RELAY] {
        let mut command = Command::new(BOWLINE);
        command
            .args(arguments)
            .arg("--state-dir")
            .arg(trap.scratch.join("state"));
        command.args(["--runtime-dir", &theirs, "-v"]);
        let outcome = run(&mut command, Duration::from_secs(3));
        assert!(
            outcome.out().starts_with("ready "),
            "it serves without: {}",
            outcome.err()
        );
        assert!(outcome.err().contains(&theirs), "{}", outcome.err());
        assert_eq!(trap.entries(), [""; 0]);
    }
}

#[test]
fn a_user_without_rights_keeps_all_in_a_folder_of_his_own() {
    let home = Home::of_nobody();
    let serve = Daemon::start(&home, &SERVE);
    let secret = fs::metadata(home.path("state/endpoint_secret")).expect("it is there");
    assert_eq!(secret.mode() & 0o777, 0o600);
    assert_eq!(serve.stop(), Some(0));
}
