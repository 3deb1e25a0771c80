//! sshd's penalties for one client meet nobody else (OpenSSH 9.8 and later have some).

use super::support::lab::Lab;
use super::support::place::Place;
use super::support::process::run;
use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::SshSetup;
use super::support::sshd::{SESSIONS_FROM, TestSshd, make_key, program};
use super::support::{self, Scratch};
use super::{LIMIT, REFUSED, login, open};
use std::net::{Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

/// What the addresses begin with from which keys are asked about.
const QUERIES_FROM: &str = "127.64.";

/// Wrong keys of one stranger: the fifth close one after the other is held against its address.
const WRONG_KEYS: usize = 8;

fn has_penalties() -> bool {
    let version = run(Command::new(program()).arg("-V"), Duration::from_secs(5)).err();
    let number = version.split_once("OpenSSH_").map_or("", |(_, rest)| rest);
    let mut parts = number.split(|character: char| !character.is_ascii_digit());
    let mut part = || parts.next().and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    (part(), part()) >= (9, 8)
}

fn serve_before(sshd: &TestSshd, target: SocketAddr) -> Serve {
    let mut options = ServeOptions {
        place: Place::on_this_machine(sshd.address().ip()),
        ..ServeOptions::here()
    };
    options.arguments = support::serve::sshd_arguments(sshd);
    for key in sshd.host_keys() {
        options.arguments.extend(["--host-key".into(), key.into()]);
    }
    Serve::start_before(target, options)
}

#[test]
fn over_ipv6_sshd_is_reached_where_each_client_has_an_address_of_its_own() {
    let mut sshd = TestSshd::start();
    sshd.configure("ListenAddress ::1");
    let serve = serve_before(&sshd, (Ipv6Addr::LOCALHOST, sshd.port()).into());
    login(&sshd, &serve).expect_code(7);
    assert_eq!(sshd.connections_from(SESSIONS_FROM), 1, "{}", sshd.log());
    assert_eq!(sshd.connections_from(QUERIES_FROM), 1, "{}", sshd.log());
}

#[test]
fn nothing_is_opened_where_one_client_s_penalties_would_meet_all() {
    let sshd = TestSshd::start_at(Place::on_this_machine(Ipv6Addr::LOCALHOST.into()), "");
    let serve = serve_before(&sshd, sshd.address());
    if !has_penalties() {
        login(&sshd, &serve).expect_code(7);
        return support::measured("penalties for all clients at once", "this sshd has none");
    }
    open(&sshd, &serve).expect_code(REFUSED);
    assert!(serve.log().contains("PerSourcePenalties"), "{}", serve.log());
    assert_eq!(sshd.connections_from(""), 0, "{}", sshd.log());
}

#[test]
fn a_stranger_s_wrong_keys_lock_out_nobody_else_at_an_address_of_the_network() {
    if !Lab::possible("wrong keys at an address of the network") {
        return;
    }
    let lab = Lab::up(&[("server", ""), ("stranger", ""), ("owner", "")]);
    let sshd = TestSshd::start_at(lab.place("server"), "");
    let options = ServeOptions {
        place: lab.place("server"),
        ..ServeOptions::here()
    };
    let serve = Serve::start(&sshd, options);
    let scratch = Scratch::new();
    let key = scratch.join("stranger");
    make_key(&key, "ed25519");
    let from = |host: &str| SshSetup::bowline(&sshd, serve.udp().port()).at(lab.place(host));
    let stranger = from("stranger").identity(Some(key)).write();
    for _ in 0..WRONG_KEYS {
        run(&mut stranger.proxy(), LIMIT);
    }
    for _ in 0..3 {
        from("owner").write().remote("exit 7", LIMIT).expect_code(7);
    }
    assert_eq!(sshd.connections_from(SESSIONS_FROM), 3, "{}", sshd.log());
    assert!(sshd.connections_from(QUERIES_FROM) >= 4, "{}", sshd.log());
}
