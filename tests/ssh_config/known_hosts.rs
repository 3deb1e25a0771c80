//! A host that was installed anew: the hint's command has to mend the file that the message names.

use crate::support::Scratch;
use crate::support::process::run;
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::ssh::HOST;
use crate::support::sshd::{make_key, public_key};
use crate::{LIMIT, bowline};
use std::fs;
use std::process::Command;

/// Runs what is told behind a text, up to a mark, as the user would.
fn follow(told: &str, begin: &str) {
    let command = told
        .split_once(begin)
        .map(|(_, rest)| rest.split(['\n', ';']).next().unwrap_or_default());
    let command = command.unwrap_or_else(|| panic!("no {begin:?} in {told}"));
    run(Command::new("sh").args(["-c", command]), LIMIT).expect_code(0);
}

#[test]
fn the_told_command_mends_ssh_s_file_and_bowline_s_own() {
    let scratch = Scratch::new();
    make_key(&scratch.join("other"), "ed25519");
    let line = format!("KEY_NAME {}\n", public_key(&scratch.join("other")));
    let rig = Rig::with(ServeOptions::here(), |setup| {
        setup.known_hosts(&line).option("StrictHostKeyChecking accept-new")
    });
    fs::create_dir(rig.ssh.state()).expect("the scratch folder");
    let own = rig.ssh.state().join("known_hosts");
    fs::copy(rig.ssh.known_hosts(), &own).expect("the scratch folder");
    for file in [rig.ssh.known_hosts(), own] {
        let told = rig.ssh.remote("true", LIMIT).expect_code(255).err();
        assert!(
            told.contains(&format!("  {} line 1 expects ", file.display())),
            "{told}"
        );
        let table = run(&mut rig.ssh.check(&[]), LIMIT).expect_code(77).out();
        assert!(table.contains(&format!(" -f {}", file.display())), "{table}");
        follow(&told, "hint: if the host was reinstalled, run: ");
        let left = fs::read_to_string(&file).expect("it is there");
        assert!(!left.contains("ssh-ed25519"), "{left}");
    }
    rig.ssh.remote("true", LIMIT).expect_code(0);
}

#[test]
fn what_strict_host_key_checking_no_does_here_is_told() {
    let scratch = Scratch::new();
    make_key(&scratch.join("other"), "ed25519");
    let line = format!("KEY_NAME {}\n", public_key(&scratch.join("other")));
    let rig = Rig::with(ServeOptions::here(), |setup| {
        setup.known_hosts(&line).option("StrictHostKeyChecking no")
    });
    let told = rig.ssh.remote("true", LIMIT).expect_code(255).err();
    assert!(
        told.contains("\n  with StrictHostKeyChecking no, ssh would warn and continue without passwords; bowline"),
        "{told}"
    );
    let mut proxy = bowline(&rig, "proxy");
    let told = run(proxy.args(["-o", "StrictHostKeyChecking=yes", HOST]), LIMIT)
        .expect_code(77)
        .err();
    assert!(!told.contains("StrictHostKeyChecking"), "{told}");
}
