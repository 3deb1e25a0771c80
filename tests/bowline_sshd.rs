//! `bowline sshd`, alone and as the target of `bowline serve`, with the real ssh.

mod support;

use rustix::process::{Signal, kill_process};
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::daemon::{Daemon, Home};
use support::process::{pid_of, run, tree};
use support::sshd::{make_key, public_key};
use support::wait_for;

const LIMIT: Duration = Duration::from_secs(30);

const ALONE: [&str; 3] = ["sshd", "--listen", "127.0.0.1:0"];
const AS_TARGET: [&str; 5] = ["serve", "--target", "builtin", "--listen", "127.0.0.1:0"];

#[test]
fn it_serves_the_real_ssh_by_the_key_that_its_ready_line_names() {
    let home = Home::mine();
    let sshd = Daemon::start(&home, &ALONE);
    let port = sshd.port("tcp");
    run(&mut home.ssh(port, "user", false, &["exit 7"]), LIMIT).expect_code(7);
    run(&mut home.ssh(port, "stranger", false, &["exit 7"]), LIMIT).expect_code(255);
    let shown = host_key_fingerprint(&home);
    assert_eq!(sshd.field("fingerprint"), shown);
    assert_eq!(sshd.stop(), Some(0));
    // The key it made is the one it keeps.
    assert_eq!(Daemon::start(&home, &ALONE).field("fingerprint"), shown);
}

#[test]
fn an_edit_of_the_file_of_keys_counts_at_the_next_login() {
    let home = Home::mine();
    let sshd = Daemon::start(&home, &ALONE);
    let login = |code| run(&mut home.ssh(sshd.port("tcp"), "user", false, &["exit 7"]), LIMIT).expect_code(code);
    login(7);
    let key = public_key(&home.path("user"));
    for (lines, code) in [
        (String::new(), 255),
        (format!("no-x11-forwarding {key}\n"), 7),
        // It could not keep them to it.
        (format!("command=\"exit 3\" {key}\n{key}\n"), 255),
        (format!("from=\"192.0.2.1\" {key}\n"), 255),
        (format!("{key}\n"), 7),
    ] {
        fs::write(home.authorized_keys(), &lines).expect("the scratch folder");
        login(code);
    }
    fs::remove_file(home.authorized_keys()).expect("the scratch folder");
    login(255);
    assert!(sshd.log().contains("Restricted"), "{}", sshd.log());
}

#[test]
fn an_rsa_key_logs_in_and_is_no_host_key() {
    let home = Home::mine();
    let (user, host) = (home.path("rsa"), home.path("rsa_host"));
    make_key(&user, "rsa");
    make_key(&host, "rsa");
    fs::write(home.authorized_keys(), public_key(&user)).expect("the scratch folder");
    let only_rsa = [&ALONE[..], &["--host-key", host.to_str().expect("a name of ours")]].concat();
    let outcome = run(&mut home.bowline(&only_rsa), LIMIT).expect_code(64);
    assert!(outcome.err().contains("RSA host keys"), "{}", outcome.err());
    assert!(outcome.err().contains("\nhint: "), "{}", outcome.err());
    let sshd = Daemon::start(&home, &ALONE);
    run(&mut home.ssh(sshd.port("tcp"), "rsa", false, &["exit 7"]), LIMIT).expect_code(7);
}

#[test]
fn what_it_cannot_start_with_is_named() {
    let home = Home::mine();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let taken = taken.local_addr().expect("a bound socket has an address").to_string();
    let missing = home.path("missing").display().to_string();
    for (arguments, code, fact) in [
        (["sshd", "--listen", taken.as_str()].to_vec(), 69, taken.as_str()),
        ([&ALONE[..], &["--authorized-keys", &missing]].concat(), 69, &missing),
        ([&ALONE[..], &["--host-key", &missing]].concat(), 64, &missing),
        ([&ALONE[..], &["--inherit-listener"]].concat(), 64, "listening"),
    ] {
        let outcome = run(&mut home.bowline(&arguments), LIMIT).expect_code(code);
        assert_eq!(outcome.out(), "", "not ready");
        assert!(outcome.err().contains(fact), "no {fact} in {}", outcome.err());
        assert!(outcome.err().contains("\nhint: "), "{}", outcome.err());
    }
}

#[test]
fn as_a_target_it_is_asked_has_the_host_key_that_was_proved_and_ends_with_the_server_half() {
    as_target(&Home::mine());
}

#[test]
fn it_is_a_target_for_a_user_without_any_rights_too() {
    as_target(&Home::of_nobody());
}

fn as_target(home: &Home) {
    let serve = Daemon::start(home, &AS_TARGET);
    let port = serve.port("udp");
    let remote = |key: &str| run(&mut home.ssh(port, key, true, &["exit 7"]), LIMIT);
    remote("user").expect_code(7);
    assert_eq!(serve.field("fingerprint"), host_key_fingerprint(home));
    let refused = remote("stranger").expect_code(255);
    assert!(
        refused.err().contains("error: "),
        "the proxy was refused: {}",
        refused.err()
    );

    let sshd = child_called(serve.id(), "sshd");
    kill_process(pid_of(sshd), Signal::KILL).expect("a child of our child");
    remote("user").expect_code(7);
    assert_ne!(child_called(serve.id(), "sshd"), sshd);

    let all = tree(serve.id());
    assert_eq!(serve.stop(), Some(0));
    let left: Vec<_> = all.into_iter().filter(|pid| command_line(*pid).is_some()).collect();
    assert_eq!(left, Vec::<u32>::new(), "processes left behind");
}

#[test]
fn it_goes_on_when_its_keeper_is_killed() {
    let home = Home::mine();
    let serve = Daemon::start(&home, &AS_TARGET);
    let (sshd, worker) = (
        child_called(serve.id(), "sshd"),
        child_called(serve.id(), "serve-worker"),
    );
    kill_process(pid_of(serve.id()), Signal::KILL).expect("our child");
    let raised = child_called(worker, "serve-keeper");
    run(&mut home.ssh(serve.port("udp"), "user", true, &["exit 7"]), LIMIT).expect_code(7);
    assert!(command_line(sshd).is_some(), "it was untouched");
    kill_process(pid_of(raised), Signal::TERM).expect("the keeper that the worker raised");
    // A keeper of the worker's user must not end what root has started.
    kill_process(pid_of(sshd), Signal::KILL).expect("a child of our child");
    for pid in [sshd, worker, raised] {
        let gone = wait_for(LIMIT, || command_line(pid).is_none().then_some(()));
        assert!(gone.is_some(), "{:?}", command_line(pid));
    }
}

#[test]
fn as_a_target_it_takes_the_keys_that_the_server_half_is_told() {
    let home = Home::mine();
    fs::copy(home.path("stranger.pub"), home.path("others")).expect("the scratch folder");
    let others = home.path("others").display().to_string();
    let serve = Daemon::start(&home, &[&AS_TARGET[..], &["--authorized-keys", &others]].concat());
    let port = serve.port("udp");
    run(&mut home.ssh(port, "stranger", true, &["exit 7"]), LIMIT).expect_code(7);
    run(&mut home.ssh(port, "user", true, &["exit 7"]), LIMIT).expect_code(255);
}

fn host_key_fingerprint(home: &Home) -> String {
    let mut command = Command::new("ssh-keygen");
    command.arg("-lf").arg(home.path("state/ssh_host_ed25519_key"));
    let out = run(&mut command, LIMIT).expect_code(0).out();
    out.split_whitespace()
        .nth(1)
        .expect("ssh-keygen -l: BITS FINGERPRINT ..")
        .to_owned()
}

/// The descendant that runs this subcommand of bowline.
fn child_called(parent: u32, subcommand: &str) -> u32 {
    let found = wait_for(LIMIT, || {
        tree(parent).into_iter().skip(1).find(|pid| {
            let words = command_line(*pid).unwrap_or_default();
            words.split('\0').nth(1) == Some(subcommand)
        })
    });
    found.unwrap_or_else(|| panic!("no bowline {subcommand} below {parent}"))
}

/// `None` for a process that is gone, waited for or not.
fn command_line(pid: u32) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
    (!text.is_empty()).then_some(text)
}
