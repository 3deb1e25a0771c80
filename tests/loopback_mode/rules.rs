//! Rules that depend on where a client connects from, or to.

use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::SshSetup;
use super::support::sshd::{TestSshd, make_key};
use super::support::{self, Scratch};
use super::{NOTHING_IS_OPENED, REFUSED, login, open, open_by};
use std::fs;

/// Configurations that let somebody in who would be refused directly, and the line that is to be named.
const CASES: [(&str, &str); 8] = [
    (
        "Match LocalPort 2222\n  X11Forwarding no\nMatch Address 127.0.0.1\n  PermitRootLogin yes",
        "Match LocalPort 2222",
    ),
    (
        "Match LocalAddress 127.0.0.1\n  PermitRootLogin yes",
        "Match LocalAddress 127.0.0.1",
    ),
    (
        "Match LocalAddress 203.0.113.1\n  PermitRootLogin no",
        "Match LocalAddress 203.0.113.1",
    ),
    ("DenyUsers bob@corp@198.51.100.*", "DenyUsers bob@corp@198.51.100.*"),
    (
        "Match User root Address 10.9.0.0/16\n  PermitRootLogin no",
        "Match User root Address 10.9.0.0/16",
    ),
    (
        "Match User=root Host *.example.org\n  AllowTcpForwarding no",
        "Match User=root Host *.example.org",
    ),
    (
        "AuthorizedKeysCommand /bin/false %u %C\nAuthorizedKeysCommandUser nobody",
        "AuthorizedKeysCommand /bin/false %u %C",
    ),
    ("HostbasedAuthentication yes", "HostbasedAuthentication yes"),
];

/// The ways to decide who may open, each with its arguments.
fn ways(sshd: &TestSshd) -> [Vec<String>; 3] {
    let keys = sshd.authorized_keys().display().to_string();
    [
        vec![],
        vec!["--authorized-keys".into(), keys],
        vec!["--auth".into(), "none".into()],
    ]
}

fn serve(sshd: &TestSshd, arguments: &[String]) -> Serve {
    let options = ServeOptions::here();
    Serve::start(
        sshd,
        arguments.iter().fold(options, |options, word| options.argument(word)),
    )
}

#[test]
fn nothing_is_opened_in_any_way_of_deciding_while_sshd_has_a_rule_by_address() {
    for (lines, named) in CASES {
        let mut sshd = TestSshd::start();
        sshd.configure(lines);
        for arguments in ways(&sshd) {
            let serve = serve(&sshd, &arguments);
            let asked = sshd.connections_from("");
            let outcome = open(&sshd, &serve).expect_code(REFUSED);
            assert!(
                outcome.err().contains(NOTHING_IS_OPENED),
                "{lines} {arguments:?}: {}",
                outcome.err()
            );
            assert!(
                !outcome.err().contains("Match"),
                "a client learns no rule: {}",
                outcome.err()
            );
            assert_eq!(
                sshd.connections_from(""),
                asked,
                "{lines} {arguments:?}: sshd is left alone"
            );
            let line = format!("{}:", sshd.config().display());
            let log = serve.log();
            assert!(
                log.lines().any(|text| text.contains(&line) && text.contains(named)),
                "{lines} {arguments:?} is named at start: {log}"
            );
            assert_eq!(serve.logged("event=\"opens-refused\""), 1, "{log}");
        }
    }
}

#[test]
fn rules_by_user_alone_are_no_obstacle_and_others_can_be_accepted() {
    let mut sshd = TestSshd::start();
    sshd.configure(
        "Match User bob,alice\n  X11Forwarding yes\nMatch Group wheel\n  AllowTcpForwarding no\nMatch all\n",
    );
    for arguments in ways(&sshd) {
        login(&sshd, &serve(&sshd, &arguments)).expect_code(7);
    }
    sshd.configure("Match Address 10.0.0.0/8\n  X11Forwarding no");
    login(&sshd, &serve(&sshd, &["--accept-loopback-match".to_owned()])).expect_code(7);
}

#[test]
fn a_stranger_hears_what_the_owner_hears() {
    let mut sshd = TestSshd::start();
    sshd.configure("Match Address 10.0.0.0/8\n  X11Forwarding no");
    let serve = serve(&sshd, &[]);
    let scratch = Scratch::new();
    let key = scratch.join("stranger");
    make_key(&key, "ed25519");
    let stranger = SshSetup::bowline(&sshd, serve.udp().port()).identity(Some(key));
    let stranger = open_by(stranger).expect_code(REFUSED);
    assert_eq!(stranger.err(), open(&sshd, &serve).expect_code(REFUSED).err());
}

#[test]
fn a_rule_counts_from_the_next_open_on_and_no_longer_than_it_is_there() {
    let mut sshd = TestSshd::start();
    let before = fs::read_to_string(sshd.config()).expect("the scratch folder");
    let serve = serve(&sshd, &[]);
    login(&sshd, &serve).expect_code(7);
    sshd.configure("Match LocalPort 2222\n  X11Forwarding no");
    open(&sshd, &serve).expect_code(REFUSED);
    fs::write(sshd.config(), before).expect("the scratch folder");
    login(&sshd, &serve).expect_code(7);
    assert_eq!(serve.logged("event=\"opens-allowed\""), 1, "{}", serve.log());
}

#[test]
fn rules_of_hosts_allow_count_as_well() {
    if !rustix::process::geteuid().is_root() {
        return support::measured(
            "rules of hosts.deny",
            "SKIPPED, only root can show a program another /etc",
        );
    }
    let sshd = TestSshd::start();
    let scratch = Scratch::new();
    let (rules, program) = (scratch.join("hosts.deny"), scratch.join("bowline"));
    fs::write(&rules, "# nobody but this machine\nsshd: ALL EXCEPT 127.0.0.1\n").expect("the scratch folder");
    let place = "/etc/hosts.deny";
    let script = format!(
        "mount --bind {} {place} && exec {} \"$@\"",
        rules.display(),
        support::BOWLINE
    );
    support::write_program(
        &program,
        &format!("exec unshare --mount sh -c '{script}' bowline \"$@\""),
    );
    let serve = Serve::start(&sshd, ServeOptions::here().program(program));
    open(&sshd, &serve).expect_code(REFUSED);
    assert!(
        serve.log().contains("/etc/hosts.deny:2: sshd: ALL EXCEPT 127.0.0.1"),
        "{}",
        serve.log()
    );
}
