//! Where no flag names a file: in a mount namespace, where the home folder is a folder of the test's own.
//!
//! Needs root; without it each test says on standard error that it was skipped.

use crate::support::process::{Outcome, run};
use crate::support::{BOWLINE, Scratch, measured};
use crate::{HOST, LIMIT};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders that stand in place of the machine's own, for the processes that are started in it.
pub(crate) struct Private {
    pub(crate) scratch: Scratch,
    mounts: Vec<(PathBuf, PathBuf)>,
}

impl Private {
    /// `None` where that cannot be made; this is told.
    pub(crate) fn possible(test: &str) -> Option<Private> {
        let able = Command::new("unshare").args(["--mount", "true"]).output();
        if !able.is_ok_and(|output| output.status.success()) {
            measured(test, "SKIPPED, no mount namespaces here");
            return None;
        }
        let mut private = Private {
            scratch: Scratch::new(),
            mounts: Vec::new(),
        };
        // The one that is built may lie in a folder that is replaced, and services see no home folders.
        let programs = private.replace(Path::new("/usr/local/bin"));
        fs::copy(BOWLINE, programs.join("bowline")).expect("the scratch folder");
        if Path::new("/run/systemd").exists() {
            private.replace(Path::new("/run/systemd"));
        }
        Some(private)
    }

    /// The empty folder that stands for `place`.
    pub(crate) fn replace(&mut self, place: &Path) -> PathBuf {
        let own = self.scratch.join(&format!("mount{}", self.mounts.len()));
        fs::create_dir(&own).expect("the scratch folder");
        self.mounts.push((own.clone(), place.to_owned()));
        own
    }

    /// What stands for /usr/local/bin, and is looked into before the machine's own programs.
    pub(crate) fn programs(&self) -> &Path {
        &self.mounts[0].0
    }

    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Outcome {
        let mut script = String::from("set -e\n");
        for (own, place) in &self.mounts {
            script += &format!("mount --bind '{}' '{}'\n", own.display(), place.display());
        }
        script += "exec \"$@\"\n";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script, "sh", program])
            .args(arguments);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("/usr/local/bin:{path}"));
        command.env_remove("BOWLINE_SSH_CONFIG");
        run(&mut command, LIMIT)
    }
}

/// The home folder that ssh sees, and what stands for it.
fn with_home(test: &str) -> Option<(Private, PathBuf, PathBuf)> {
    let mut private = Private::possible(test)?;
    let asked = run(
        Command::new("ssh").args(["-F", "none", "-G", "-o", "ControlPath=~/.", "x"]),
        LIMIT,
    );
    let home = asked.out();
    let home = home
        .lines()
        .find_map(|line| line.strip_prefix("controlpath ")?.strip_suffix("/."));
    let home = PathBuf::from(home.expect("ssh knows the home folder"));
    if std::env::var_os("HOME").map(PathBuf::from).as_ref() != Some(&home) {
        measured(test, "SKIPPED, HOME is not the home folder");
        return None;
    }
    let own = private.replace(&home);
    Some((private, home, own))
}

#[test]
fn without_a_flag_the_user_s_own_configuration_is_made_and_used() {
    let Some((private, home, own)) = with_home("setup: ~/.ssh/config") else {
        return;
    };
    let told = private.run("bowline", &["setup", "--yes", HOST]).expect_code(0).out();
    assert!(told.ends_with("next: bowline check box\n"), "{told}");
    assert!(
        told.contains(&format!("+++ {}/.ssh/config\n", home.display())),
        "{told}"
    );
    let mode = |name: &str| fs::metadata(own.join(name)).expect("made").permissions().mode() & 0o7777;
    assert_eq!((mode(".ssh"), mode(".ssh/config")), (0o700, 0o600));
    let said = private.run("ssh", &["-G", HOST]).expect_code(0).out();
    assert!(said.contains("\nproxycommand bowline proxy '%r@%h' %p\n"), "{said}");
    let told = private.run("bowline", &["setup", HOST]).expect_code(0).out();
    assert!(told.starts_with("nothing to do: "), "{told}");
    private
        .run("bowline", &["setup", "--yes", "--undo", HOST])
        .expect_code(0);
    assert_eq!(fs::read(own.join(".ssh/config")).expect("a file"), b"");
}

#[test]
fn a_file_that_is_included_too_late_is_told_with_the_lines_before_it() {
    let Some((private, home, own)) = with_home("setup: included file") else {
        return;
    };
    fs::create_dir(own.join(".ssh")).expect("the scratch folder");
    let config = own.join(".ssh/config");
    let extra = home.join(".ssh/extra");
    let write = |text: &str| fs::write(&config, text).expect("the scratch folder");
    fs::write(own.join(".ssh/extra"), "").expect("the scratch folder");
    write("Host box\n  ProxyJump jump\nMatch all\n  Include extra\n");
    let extra = extra.to_str().expect("plain");
    let said = private
        .run("bowline", &["setup", "--yes", "-F", extra, HOST])
        .expect_code(69)
        .err();
    assert!(said.contains("  ssh uses ProxyJump jump\n"), "{said}");
    let line = format!(
        "  {}/.ssh/config line 1 applies to it too and comes first\n",
        home.display()
    );
    assert!(said.contains(&line), "{said}");
    // In time, it counts; and as ssh reads it by itself, the proxy needs no -F.
    write("Include extra\nHost box\n  ProxyJump jump\n");
    private.run("bowline", &["setup", "-F", extra, HOST]).expect_code(0);
    let said = private.run("ssh", &["-G", HOST]).expect_code(0).out();
    assert!(said.contains("\nproxycommand bowline proxy '%r@%h' %p\n"), "{said}");
}
