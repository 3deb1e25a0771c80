//! What bad input gets: one message that says what happened, what was expected and what to do, and the right exit
//! code. Tested by the facts in it, not by its words.

mod support;

use bowline::wire::{Accepted, Answer, Offset, Refusal, RefusalCode};
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;
use support::peer::{FakeServer, GarbageServer};
use support::place::Place;
use support::process::{Outcome, run};
use support::rig::Rig;
use support::serve::ServeOptions;
use support::ssh::{HOST, SshFiles, SshSetup};
use support::sshd::{TestSshd, fingerprint, make_key, make_locked_key, public_key};
use support::{BOWLINE, Scratch, measured_time};

/// sysexits(3), as the command line promises them.
const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const INTERNAL: i32 = 70;
const PROTOCOL: i32 = 76;
const REFUSED: i32 = 77;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_host_name_that_leads_nowhere_is_named() {
    let scratch = Scratch::new();
    let config = scratch.join("ssh_config");
    fs::write(&config, "Host *\n  IdentityFile none\n  UserKnownHostsFile /dev/null\n").expect("the scratch folder");
    let outcome = bowline(
        &["proxy", "-F", text(&config).as_str(), "user@no-such-host.invalid", "22"],
        &scratch,
    );
    told(&outcome, UNAVAILABLE, &["no-such-host.invalid"]);
}

#[test]
fn an_unknown_host_is_left_to_ssh_to_confirm() {
    let rig = Rig::with(ServeOptions::here(), |setup| setup.known_hosts(""));
    let outcome = rig.ssh.remote("exit 7", LIMIT).expect_code(255);
    assert!(
        outcome.err().contains("Host key verification failed"),
        "ssh's own verdict: {}",
        outcome.err()
    );
    assert!(
        !outcome.err().contains("error: "),
        "no second opinion from the proxy: {}",
        outcome.err()
    );
    let accepting = ["-o", "StrictHostKeyChecking=accept-new", HOST, "exit 7"];
    run(&mut rig.ssh.ssh(&accepting), LIMIT).expect_code(7);
}

#[test]
fn a_changed_host_key_is_told_with_both_fingerprints_and_the_line() {
    let scratch = Scratch::new();
    let other = scratch.join("other");
    make_key(&other, "ed25519");
    let line = format!("# a comment\nKEY_NAME {}\n", public_key(&other));
    let rig = Rig::with(ServeOptions::here(), |setup| setup.known_hosts(&line));
    let known_hosts = text(&rig.ssh.known_hosts());
    let presented = fingerprint(&rig.sshd.host_key("ed25519"));
    let outcome = proxy(&rig.ssh);
    told(
        &outcome,
        REFUSED,
        &[&fingerprint(&other), &presented, &known_hosts, "2", "ssh-keygen -R"],
    );
}

#[test]
fn a_revoked_host_key_is_told_as_revoked() {
    let rig = Rig::bowline();
    let keys = rig.sshd.host_keys();
    let revoked: String = keys
        .iter()
        .map(|key| format!("@revoked KEY_NAME {}\n", public_key(key)))
        .collect();
    let ssh = SshSetup::bowline(&rig.sshd, rig.serve().udp().port())
        .known_hosts(&revoked)
        .write();
    told(&proxy(&ssh), REFUSED, &["revoked", "SHA256:"]);
}

#[test]
fn a_revoked_tls_key_is_told_as_revoked_although_the_host_keys_vouch_for_it() {
    let rig = Rig::bowline();
    let log = rig.serve().log();
    let (_, key) = log
        .split_once("tls_key=\"")
        .expect("the key, for whoever has to revoke it");
    let key = key.split('"').next().expect("the rest of the line");
    let keys = rig.sshd.host_keys();
    let known: String = keys
        .iter()
        .map(|key| format!("KEY_NAME {}\n", public_key(key)))
        .collect();
    for whose in ["KEY_NAME", "*"] {
        let ssh = SshSetup::bowline(&rig.sshd, rig.serve().udp().port())
            .known_hosts(&format!("{known}@revoked {whose} {key}\n"))
            .write();
        told(&proxy(&ssh), REFUSED, &["revoked", "SHA256:"]);
    }
    assert_eq!(rig.sshd.logins(), 0);
}

#[test]
fn a_refused_key_is_listed_with_the_user() {
    let scratch = Scratch::new();
    let stranger = scratch.join("stranger");
    make_key(&stranger, "ed25519");
    let rig = Rig::with(ServeOptions::here(), |setup| setup.identity(Some(stranger.clone())));
    told(&proxy(&rig.ssh), REFUSED, &[&fingerprint(&stranger), &rig.sshd.user()]);
    assert_eq!(rig.sshd.logins(), 0);
}

#[test]
fn an_unknown_user_gets_the_same_words_as_a_refused_key() {
    let rig = Rig::bowline();
    let ssh = SshSetup::bowline(&rig.sshd, rig.serve().udp().port())
        .user("nosuchuser")
        .write();
    told(
        &proxy(&ssh),
        REFUSED,
        &[&fingerprint(&rig.sshd.user_key()), "nosuchuser"],
    );
}

#[test]
fn an_encrypted_key_without_agent_or_terminal_is_named() {
    let scratch = Scratch::new();
    let locked = scratch.join("locked");
    make_locked_key(&locked, "ed25519", "a passphrase");
    let rig = Rig::with(ServeOptions::here(), |setup| setup.identity(Some(locked.clone())));
    // Nobody is asked for the passphrase of a key that would be refused.
    fs::copy(locked.with_extension("pub"), rig.sshd.authorized_keys()).expect("the scratch folder");
    told(&proxy(&rig.ssh), REFUSED, &[&text(&locked), "passphrase", "ssh-add"]);
}

#[test]
fn nothing_listening_is_told_with_the_address_and_port_in_time() {
    let sshd = TestSshd::start();
    let port = Place::free_port();
    let ssh = SshSetup::bowline(&sshd, port)
        .proxy_arguments(&["--connect-timeout", "3s"])
        .write();
    let outcome = proxy(&ssh);
    told(&outcome, UNAVAILABLE, &["127.0.0.1", &port.to_string()]);
    measured_time("nothing listening, --connect-timeout 3s", outcome.took);
    assert!(
        outcome.took < Duration::from_secs(5),
        "bounded by its timeout: {:?}",
        outcome.took
    );
}

#[test]
fn a_sshd_that_is_down_is_told_with_its_address() {
    // sshd may be about to come up: until its timeout the open asks again.
    let mut rig = Rig::with(ServeOptions::here(), |setup| {
        setup.proxy_arguments(&["--connect-timeout", "3s"])
    });
    rig.sshd.stop_listening();
    told(
        &proxy(&rig.ssh),
        UNAVAILABLE,
        &["sshd", &rig.sshd.address().to_string()],
    );
    rig.sshd.resume_service();
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
}

#[test]
fn a_server_half_of_another_version_is_told_apart_from_silence() {
    let sshd = TestSshd::start();
    let message = "this server half speaks version 9".to_owned();
    let refusal = Answer::Refused(Refusal {
        code: RefusalCode::Version,
        message: message.as_str().into(),
    });
    let fake = FakeServer::saying(&sshd, refusal.encode());
    told(
        &proxy(&SshSetup::bowline(&sshd, fake.port()).write()),
        PROTOCOL,
        &["version", &message],
    );

    let fake = FakeServer::of_another_protocol();
    let outcome = proxy(
        &SshSetup::bowline(&sshd, fake.port())
            .proxy_arguments(&["--connect-timeout", "5s"])
            .write(),
    );
    told(&outcome, PROTOCOL, &["version", &fake.port().to_string()]);
}

#[test]
fn garbage_on_the_port_is_told_like_no_answer() {
    let sshd = TestSshd::start();
    let garbage = GarbageServer::start();
    let ssh = SshSetup::bowline(&sshd, garbage.port())
        .proxy_arguments(&["--connect-timeout", "3s"])
        .write();
    told(&proxy(&ssh), UNAVAILABLE, &["127.0.0.1", &garbage.port().to_string()]);
}

#[test]
fn a_server_half_that_talks_nonsense_is_a_protocol_error() {
    let sshd = TestSshd::start();
    let far = Offset::new(1 << 40).expect("a varint");
    let beyond = Answer::Accepted(Accepted {
        key: None,
        received: far,
        window: 1 << 20,
        ttl: 60,
    })
    .encode();
    let oversized = bytes::Bytes::from_static(&[0xff; 64]);
    for words in [beyond, oversized] {
        let fake = FakeServer::saying(&sshd, words.clone());
        let ssh = SshSetup::bowline(&sshd, fake.port())
            .proxy_arguments(&["--connect-timeout", "5s"])
            .write();
        let outcome = proxy(&ssh);
        told(&outcome, PROTOCOL, &[]);
    }
}

#[test]
fn a_full_disk_for_logs_loses_nothing_and_is_said_once() {
    let rig = Rig::with(ServeOptions::here(), |setup| setup.log_file("/dev/full".into()));
    let outcome = rig.ssh.remote("echo out; exit 7", LIMIT).expect_code(7);
    assert_eq!(outcome.out(), "out\n");
    assert_eq!(
        outcome.err().matches("/dev/full").count(),
        1,
        "one warning: {}",
        outcome.err()
    );
}

#[test]
fn a_port_in_use_is_named() {
    let sshd = TestSshd::start();
    let scratch = Scratch::new();
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port on loopback");
    let address = taken.local_addr().expect("a bound socket has an address").to_string();
    let (target, config, key) = (
        sshd.address().to_string(),
        text(&sshd.config()),
        text(&sshd.host_key("ed25519")),
    );
    let arguments = [
        "serve",
        "--listen",
        &address,
        "--target",
        &target,
        "--sshd-config",
        &config,
        "--host-key",
        &key,
    ];
    told(&bowline(&arguments, &scratch), UNAVAILABLE, &[&address, "--listen"]);
}

#[test]
fn a_host_key_file_that_is_not_there_is_named() {
    let sshd = TestSshd::start();
    let scratch = Scratch::new();
    let missing = text(&scratch.join("no-such-key"));
    let target = sshd.address().to_string();
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--target",
        &target,
        "--host-key",
        &missing,
    ];
    let outcome = bowline(&arguments, &scratch);
    assert!(
        matches!(outcome.code, Some(USAGE | UNAVAILABLE)),
        "{:?}: {}",
        outcome.code,
        outcome.err()
    );
    assert!(outcome.err().contains(&missing), "names the file: {}", outcome.err());
}

#[test]
fn a_mistyped_flag_or_configuration_key_is_answered_with_the_nearest_right_one() {
    let scratch = Scratch::new();
    let outcome = bowline(&["proxy", "--patince", "5s", "host", "22"], &scratch);
    assert_eq!(outcome.code, Some(USAGE), "{}", outcome.err());
    assert!(
        outcome.err().contains("--patience"),
        "the nearest right one: {}",
        outcome.err()
    );

    let config = scratch.join("bowline.toml");
    fs::write(&config, "[client]\npatince = \"5s\"\n").expect("the scratch folder");
    let outcome = bowline(&["proxy", "--config", &text(&config), "host", "22"], &scratch);
    told(&outcome, USAGE, &[&text(&config), "2", "patince", "patience"]);
}

#[test]
fn an_option_that_makes_no_sense_says_what_would() {
    let scratch = Scratch::new();
    for (arguments, fact) in [
        (vec!["proxy", "--patience", "90", "host"], "90"),
        (vec!["proxy", "--port", "99999", "host"], "99999"),
        (vec!["serve", "--replay-buffer", "1KiB"], "64KiB"),
    ] {
        let outcome = bowline(&arguments, &scratch);
        assert_eq!(outcome.code, Some(USAGE), "{arguments:?}: {}", outcome.err());
        assert!(outcome.err().contains(fact), "{arguments:?}: {}", outcome.err());
        assert!(outcome.stdout.is_empty(), "nothing on stdout");
    }
}

#[test]
fn a_worker_that_cannot_be_started_says_so_at_once() {
    if !rustix::process::geteuid().is_root() {
        return support::measured("an unknown --worker-user", "SKIPPED, only root changes users");
    }
    let (sshd, scratch) = (TestSshd::start(), Scratch::new());
    let (target, key) = (sshd.address().to_string(), text(&sshd.host_key("ed25519")));
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--target",
        &target,
        "--host-key",
        &key,
    ];
    let outcome = bowline(&[&arguments[..], &["--worker-user", "nosuchuser"]].concat(), &scratch);
    assert!(
        matches!(outcome.code, Some(USAGE | UNAVAILABLE)),
        "{:?}: {}",
        outcome.code,
        outcome.err()
    );
    assert!(
        outcome.err().contains("nosuchuser"),
        "names the user: {}",
        outcome.err()
    );
}

#[test]
fn a_fault_of_bowline_s_own_is_one_clear_message_and_no_backtrace() {
    let rig = Rig::with(ServeOptions::here(), |setup| {
        setup.fault("panic").environment("RUST_BACKTRACE", "full")
    });
    let outcome = run(&mut rig.ssh.proxy(), LIMIT);
    told(
        &outcome,
        INTERNAL,
        &["internal error", "src/fault.rs", "on purpose", "report"],
    );
    assert_eq!(outcome.err().lines().count(), 2, "a line and a hint: {}", outcome.err());
    // The log has it all.
    assert!(rig.ssh.proxy_logged("backtrace") > 0 && rig.ssh.proxy_logged("panic_if_asked") > 0);
}

/// The client half by itself, with nothing on its stdin.
fn proxy(ssh: &SshFiles) -> Outcome {
    run(&mut ssh.proxy(), LIMIT)
}

/// bowline by itself.
fn bowline(arguments: &[&str], scratch: &Scratch) -> Outcome {
    let mut command = Command::new(BOWLINE);
    command
        .args(arguments)
        .env_remove("SSH_AUTH_SOCK")
        .env("HOME", scratch.path());
    command
        .arg("--state-dir")
        .arg(scratch.join("state"))
        .arg("--runtime-dir")
        .arg(scratch.join("run"));
    run(&mut command, LIMIT)
}

#[test]
fn a_server_half_that_may_open_too_few_files_for_a_session_does_not_start() {
    let scratch = Scratch::new();
    let script = format!("ulimit -n 256; exec {BOWLINE} serve --listen 127.0.0.1:0 --target 127.0.0.1:9");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).env("BOWLINE_STATE_DIR", scratch.path());
    command.env("BOWLINE_RUNTIME_DIR", scratch.path());
    let outcome = run(&mut command, LIMIT);
    told(
        &outcome,
        UNAVAILABLE,
        &["256", "261", "5256", "LimitNOFILE", "ulimit -n"],
    );
}

/// One clear message: the code, the facts, what to do; nothing on stdout, where ssh would take it for sshd's words.
#[track_caller]
fn told(outcome: &Outcome, code: i32, facts: &[&str]) {
    let said = outcome.err();
    assert_eq!(outcome.code, Some(code), "after {:?}: {said}", outcome.took);
    assert!(outcome.stdout.is_empty(), "nothing on stdout: {:?}", outcome.out());
    assert_eq!(said.matches("error: ").count(), 1, "one message: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for fact in facts {
        assert!(said.contains(fact), "no {fact:?} in: {said}");
    }
    assert!(said.contains("\nhint: "), "what to do: {said}");
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}
