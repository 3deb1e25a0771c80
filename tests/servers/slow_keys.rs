//! An AuthorizedKeysCommand that takes its time, as one that asks a directory does.

use super::LIMIT;
use super::support::process::{Running, run};
use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::{HOST, SshFiles, SshSetup};
use super::support::sshd::TestSshd;
use super::support::wait_for;
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Longer than a client waits for a word, and than it looks for a server half before it falls back to plain TCP.
const LOOKUP: u32 = 6;

/// How a client ends that got no session.
const UNAVAILABLE: i32 = 69;

/// An sshd that takes so many seconds for each look at a user's keys, and the server half before it.
struct Slow {
    sshd: TestSshd,
    serve: Serve,
}

impl Slow {
    fn start(seconds: u32) -> Slow {
        let mut sshd = TestSshd::start();
        let keys = sshd.authorized_keys().with_extension("slow");
        fs::rename(sshd.authorized_keys(), &keys).expect("the scratch folder");
        let (keys, looked) = (keys.display(), looked(&sshd));
        sshd.configure(&format!(
            "AuthorizedKeysCommand /bin/sh -c \"sleep {seconds}; cat {keys}; echo x >> {}\"\nAuthorizedKeysCommandUser {}",
            looked.display(),
            sshd.user()
        ));
        let serve = Serve::start(&sshd, ServeOptions::here());
        Slow { sshd, serve }
    }

    fn client(&self, arguments: &[&str]) -> SshFiles {
        let setup = SshSetup::bowline(&self.sshd, self.serve.udp().port());
        setup.proxy_arguments(arguments).write()
    }

    /// How often keys were looked up to the end.
    fn lookups(&self) -> usize {
        fs::read_to_string(looked(&self.sshd)).map_or(0, |all| all.lines().count())
    }
}

fn looked(sshd: &TestSshd) -> PathBuf {
    sshd.authorized_keys().with_extension("looked")
}

#[test]
fn a_slow_lookup_is_waited_for_and_nobody_falls_back_to_tcp() {
    let slow = Slow::start(LOOKUP);
    let client = slow.client(&["--fallback", "tcp"]);
    let outcome = client.remote("exit 7", LIMIT).expect_code(7);
    assert!(!outcome.err().contains("plain TCP"), "{}", outcome.err());
    assert_eq!(slow.serve.logged("event=\"opened\""), 1, "{}", slow.serve.log());
    // The server half asked once; ssh itself asks, and then signs.
    assert_eq!(slow.lookups(), 3, "{}", slow.sshd.log());
}

#[test]
fn a_check_waits_for_a_slow_lookup_too() {
    let slow = Slow::start(LOOKUP);
    let outcome = run(&mut slow.client(&[]).check(&["--json"]), LIMIT).expect_code(0);
    assert!(outcome.out().contains("\"works\""), "{}", outcome.out());
}

#[test]
fn a_client_that_may_not_wait_so_long_blames_no_firewall_and_leaves_no_session() {
    let slow = Slow::start(LOOKUP);
    let client = slow.client(&["--connect-timeout", "2s", "--fallback", "tcp"]);
    let outcome = run(&mut client.proxy(), LIMIT).expect_code(UNAVAILABLE);
    let said = outcome.err();
    assert!(said.contains("sshd has not answered the server half for "), "{said}");
    assert!(!said.contains("firewall") && !said.contains("plain TCP"), "{said}");
    slow.expect_no_session();
}

#[test]
fn a_client_that_is_ended_meanwhile_leaves_no_session() {
    let slow = Slow::start(LOOKUP);
    let client = slow.client(&[]);
    let (proxy, _input, _output) = Running::start_piped(&mut client.proxy());
    let asked = wait_for(LIMIT, || (slow.sshd.connections_from("") > 0).then_some(()));
    assert!(asked.is_some(), "{HOST} is not asked: {}", slow.serve.log());
    proxy.signal(Signal::TERM);
    proxy.finish(LIMIT).expect_code(0);
    slow.expect_no_session();
}

impl Slow {
    /// None is opened when sshd has its answer, or nobody who waits for it, nor within the moment that it takes.
    fn expect_no_session(&self) {
        let is_over = || self.lookups() > 0 || self.sshd.log().contains("Connection closed by");
        let done = wait_for(LIMIT, || is_over().then_some(()));
        assert!(done.is_some(), "{}", self.sshd.log());
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(self.serve.logged("event=\"opened\""), 0, "{}", self.serve.log());
        assert_eq!(self.sshd.connections_from("127.96."), 0, "{}", self.sshd.log());
    }
}

#[test]
fn an_sshd_that_does_not_even_greet_is_told_as_that() {
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here());
    sshd.freeze();
    let setup = SshSetup::bowline(&sshd, serve.udp().port()).proxy_arguments(&["--connect-timeout", "12s"]);
    let outcome = run(&mut setup.write().proxy(), LIMIT).expect_code(UNAVAILABLE);
    assert!(outcome.err().contains("did not answer within 5s"), "{}", outcome.err());
}
