//! CanonicalizeHostname, which ssh does without a ProxyCommand and not behind one.
//!
//! Wants root, for a `hosts` file of its own; without it each test says on standard error that it was skipped.

use crate::support::place::Place;
use crate::support::process::run;
use crate::support::rig::Rig;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::ssh::SshSetup;
use crate::support::sshd::TestSshd;
use crate::support::{BOWLINE, Scratch, measured};
use crate::{LIMIT, setup};
use std::fs;
use std::process::Command;

/// A host `build.corp.example` that plain ssh gets to as `build`, and nothing in ssh's configuration for `build` itself.
fn corporate(test: &str) -> Option<(Rig, Scratch)> {
    let able = Command::new("unshare").args(["--mount", "true"]).output();
    if !able.is_ok_and(|output| output.status.success()) {
        measured(test, "SKIPPED, no mount namespaces here");
        return None;
    }
    let scratch = Scratch::new();
    let hosts = scratch.join("hosts");
    // ssh asks for the absolute name, with a dot behind it.
    fs::write(
        &hosts,
        "127.0.0.1 localhost\n127.0.0.1 build.corp.example build.corp.example.\n",
    )
    .expect("the scratch folder");
    let enter = format!("mount --bind '{}' /etc/hosts && exec \"$@\"", hosts.display());
    let here = Place::here();
    let client = Place::entered_by(&["unshare", "--mount", "sh", "-c", &enter, "sh"], here.address);
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here());
    let port = serve.udp().port().to_string();
    let ssh = SshSetup::plain(&sshd)
        .at(client)
        .environment("BOWLINE_PORT", &port)
        .write();
    let known_hosts = fs::read_to_string(ssh.known_hosts())
        .expect("our own file")
        .replace("127.0.0.1", "build.corp.example");
    fs::write(ssh.known_hosts(), known_hosts).expect("the scratch folder");
    let text = format!(
        "CanonicalizeHostname yes\nCanonicalDomains corp.example\nHost *.corp.example\n  Port {}\n  User {}\n  \
         IdentityFile {}\n  UserKnownHostsFile {}\nHost *\n  GlobalKnownHostsFile /dev/null\n  BatchMode yes\n  \
         StrictHostKeyChecking yes\n  UpdateHostKeys no\n  IdentitiesOnly yes\n",
        sshd.port(),
        sshd.user(),
        sshd.user_key().display(),
        ssh.known_hosts().display()
    );
    fs::write(ssh.config(), text).expect("the scratch folder");
    let rig = Rig {
        ssh,
        serve: Some(serve),
        gate: None,
        sshd,
    };
    Some((rig, scratch))
}

/// `ssh build`, and whether it went over bowline.
#[track_caller]
fn goes(rig: &Rig, is_over_bowline: bool) {
    let opened = || rig.serve().logged("event=\"opened\"");
    let before = opened();
    let out = run(&mut rig.ssh.ssh(&["build", "echo in"]), LIMIT).expect_code(0);
    assert_eq!(out.out(), "in\n");
    assert_eq!(opened() - before, usize::from(is_over_bowline), "{}", rig.serve().log());
}

#[test]
fn a_short_name_leads_to_the_same_host_over_bowline() {
    let Some((rig, _files)) = corporate("ssh_config: canonical names") else {
        return;
    };
    goes(&rig, false);
    let mut ssh = rig.ssh.command(BOWLINE);
    ssh.args(["ssh", "--state-dir"])
        .arg(rig.ssh.state())
        .arg("-F")
        .arg(rig.ssh.config());
    assert_eq!(run(ssh.args(["build", "echo in"]), LIMIT).expect_code(0).out(), "in\n");
    assert_eq!(rig.serve().logged("event=\"opened\""), 1, "{}", rig.serve().log());
    let mut check = rig.ssh.command(BOWLINE);
    check
        .args(["check", "--state-dir"])
        .arg(rig.ssh.state())
        .arg("-F")
        .arg(rig.ssh.config());
    let told = run(check.arg("build"), LIMIT).expect_code(0).out();
    assert!(
        told.contains("note: plain ssh does not use bowline for build (no ProxyCommand)"),
        "{told}"
    );

    for name in ["build", "*.corp.example"] {
        let told = setup(&rig, &["--yes", name]).expect_code(0).out();
        assert!(told.contains("done: ssh now uses bowline for "), "{told}");
        goes(&rig, true);
        let told = setup(&rig, &["--yes", name]).expect_code(0).out();
        assert!(told.starts_with("nothing to do: "), "{told}");
        setup(&rig, &["--yes", "--undo", name]).expect_code(0);
        goes(&rig, false);
    }
}

/// As setup wrote it before it knew of this.
#[test]
fn a_block_that_keeps_ssh_from_the_host_is_written_anew() {
    let Some((rig, _files)) = corporate("ssh_config: a block without canonical names") else {
        return;
    };
    setup(&rig, &["--yes", "build"]).expect_code(0);
    let good = fs::read_to_string(rig.ssh.config()).expect("our own file");
    let bad: String = good
        .lines()
        .filter(|line| !line.contains("CanonicalizeHostname always"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(good, bad);
    fs::write(rig.ssh.config(), bad).expect("the scratch folder");
    run(&mut rig.ssh.ssh(&["build", "true"]), LIMIT).expect_code(255);
    setup(&rig, &["--yes", "build"]).expect_code(0);
    assert_eq!(fs::read_to_string(rig.ssh.config()).expect("our own file"), good);
    goes(&rig, true);
}
