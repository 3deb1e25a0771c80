//! Which host keys are proved while sshd cannot be asked.

use super::support::process::run;
use super::support::serve::{Serve, ServeOptions, sshd_arguments};
use super::support::sshd::{TestSshd, fingerprint};
use super::support::{self, BOWLINE, Scratch, write_program};
use super::{LIMIT, REFUSED, login, open};
use std::fs;
use std::process::Command;

/// Without `--host-key`.
fn serve(sshd: &TestSshd, options: ServeOptions) -> Serve {
    let told = sshd_arguments(sshd).into_iter();
    Serve::start_before(sshd.address(), told.fold(options, ServeOptions::argument))
}

fn proves_the_key_of(serve: &Serve, sshd: &TestSshd) {
    let own = fingerprint(&sshd.host_key("ed25519"));
    assert_eq!(serve.ready_field("fingerprint"), Some(own.as_str()), "{}", serve.log());
}

#[test]
fn a_match_by_local_port_hides_no_host_key() {
    let mut sshd = TestSshd::start();
    sshd.configure("Match LocalPort 2222\n  X11Forwarding no");
    let serve = serve(&sshd, ServeOptions::here().argument("--accept-loopback-match"));
    proves_the_key_of(&serve, &sshd);
    login(&sshd, &serve).expect_code(7);
}

#[test]
fn a_mistake_in_sshd_config_hides_no_host_key() {
    let sshd = TestSshd::start();
    let good = fs::read_to_string(sshd.config()).expect("the scratch folder");
    fs::write(sshd.config(), format!("NoSuchOption yes\n{good}")).expect("the scratch folder");
    let serve = serve(&sshd, ServeOptions::here());
    proves_the_key_of(&serve, &sshd);
    open(&sshd, &serve).expect_code(REFUSED);
    fs::write(sshd.config(), good).expect("the scratch folder");
    login(&sshd, &serve).expect_code(7);
}

#[test]
fn a_missing_folder_of_sshd_hides_no_host_key() {
    if !rustix::process::geteuid().is_root() {
        return support::measured(
            "a missing /run/sshd",
            "SKIPPED, only root can show a program another /run",
        );
    }
    let sshd = TestSshd::start();
    let scratch = Scratch::new();
    let program = scratch.join("bowline");
    let script = format!("mount -t tmpfs none /run && exec {BOWLINE} \"$@\"");
    write_program(
        &program,
        &format!("exec unshare --mount sh -c '{script}' bowline \"$@\""),
    );
    let serve = serve(&sshd, ServeOptions::here().program(program));
    proves_the_key_of(&serve, &sshd);
    // sshd from 9.3 on tells its settings all the same.
    if open(&sshd, &serve).code == Some(REFUSED) {
        assert!(
            serve.log().contains("Missing privilege separation directory"),
            "{}",
            serve.log()
        );
    }
}

#[test]
fn root_does_not_start_with_a_key_that_clients_take_for_an_attack() {
    if !rustix::process::geteuid().is_root() {
        return support::measured("root without host keys", "SKIPPED, it needs root");
    }
    let sshd = TestSshd::start();
    let scratch = Scratch::new();
    for key in sshd.host_keys() {
        fs::write(key, "not a key\n").expect("the scratch folder");
    }
    let mut command = Command::new(BOWLINE);
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--target",
        &sshd.address().to_string(),
    ]);
    command.args(sshd_arguments(&sshd));
    command
        .arg("--state-dir")
        .arg(scratch.join("state"))
        .arg("--runtime-dir")
        .arg(scratch.join("run"));
    let outcome = run(&mut command, LIMIT).expect_code(69);
    assert!(outcome.err().contains("--host-key"), "{}", outcome.err());
    assert!(
        !scratch.join("state/ssh_host_ed25519_key").exists(),
        "no key of its own is made"
    );
}
