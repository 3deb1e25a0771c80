//! What is set up at start, kept, reported if somebody is in its way, and taken back.

use crate::net::Net;
use crate::support::process::{Outcome, run};
use crate::support::serve::Serve;
use crate::support::server_half::signal;
use crate::support::sshd::TestSshd;
use crate::support::{BOWLINE, Scratch, wait_for};
use crate::{EVERYWHERE, LIMIT, Server, options, possible};
use rustix::process::Signal;

/// Exit code of a server half that cannot do what it was told to.
const UNAVAILABLE: i32 = 69;

const RULES: [&[&str]; 2] = [&["ip", "-4", "rule"], &["ip", "-6", "rule"]];

fn rules(net: &Net) -> Vec<String> {
    RULES.iter().map(|command| net.on_server(command)).collect()
}

#[test]
fn rules_are_there_after_the_start_and_gone_after_a_stop_and_others_stay() {
    if !possible("rules") {
        return;
    }
    let net = Net::up();
    net.on_server(&["ip", "rule", "add", "pref", "100", "from", "192.0.2.77", "lookup", "77"]);
    net.on_server(&[
        "ip",
        "-6",
        "rule",
        "add",
        "pref",
        "22",
        "from",
        "2001:db8:77::/48",
        "lookup",
        "77",
    ]);
    let before = rules(&net);
    assert!(!net.is_set_up());
    let server = Server::start(&net, "auto", EVERYWHERE);
    assert_eq!(server.shown(), "real", "{}", server.serve.log());
    assert!(net.is_set_up());
    assert_eq!(server.serve.stop(LIMIT), Some(0));
    assert!(!net.is_set_up());
    assert_eq!(rules(&net), before);
}

#[test]
fn what_a_killed_server_half_leaves_is_used_again_and_the_setting_goes_back_to_what_it_was() {
    if !possible("leftovers") {
        return;
    }
    let net = Net::up();
    let server = Server::start(&net, "real", EVERYWHERE);
    // First the worker, which would raise another keeper.
    server.serve.signal(Signal::STOP);
    signal(server.serve.half().worker(), Signal::KILL);
    signal(server.serve.id(), Signal::KILL);
    drop(server);
    assert!(net.is_set_up(), "nobody was there to take it back");
    let next = Server::start(&net, "real", EVERYWHERE);
    assert!(net.is_set_up());
    assert_eq!(next.serve.stop(LIMIT), Some(0));
    assert!(!net.is_set_up());
}

#[test]
fn of_two_server_halves_the_last_one_takes_it_back() {
    if !possible("two server halves") {
        return;
    }
    let net = Net::up();
    let (one, other) = (
        Server::start(&net, "real", EVERYWHERE),
        Server::start(&net, "real", EVERYWHERE),
    );
    assert_eq!(one.serve.stop(LIMIT), Some(0));
    assert!(net.is_set_up());
    other.ssh(&net).remote("exit 7", LIMIT).expect_code(7);
    assert_eq!(other.serve.stop(LIMIT), Some(0));
    assert!(!net.is_set_up());
}

#[test]
fn a_setting_that_was_on_before_stays_on() {
    if !possible("the kernel's setting") {
        return;
    }
    let net = Net::up();
    net.on_server(&["sysctl", "-qw", "net.ipv4.tcp_fwmark_accept=1"]);
    let server = Server::start(&net, "real", EVERYWHERE);
    assert_eq!(server.serve.stop(LIMIT), Some(0));
    assert_eq!(
        net.on_server(&["sysctl", "-n", "net.ipv4.tcp_fwmark_accept"]).trim(),
        "1"
    );
    assert!(!rules(&net).iter().any(|rules| rules.contains("0xb0")));
}

#[test]
fn a_rule_that_somebody_removes_is_added_again() {
    if !possible("a rule that is removed") {
        return;
    }
    let net = Net::up();
    let server = Server::start(&net, "real", EVERYWHERE);
    for family in ["-4", "-6"] {
        net.on_server(&["ip", family, "rule", "del", "pref", "22"]);
        let is_back = || {
            net.on_server(&["ip", family, "rule"])
                .contains("fwmark 0xb0")
                .then_some(())
        };
        assert!(wait_for(LIMIT, is_back).is_some(), "{family}: {}", server.serve.log());
    }
    server.ssh(&net).remote("exit 7", LIMIT).expect_code(7);
}

#[test]
fn others_rules_in_the_way_are_named_and_sshd_sees_loopback_unless_told_otherwise() {
    if !possible("others' rules") {
        return;
    }
    // Another takes the very mark; another has rules that would count for accepted connections from now on.
    for (rule, insists_in_vain) in [
        ("pref 10 fwmark 0xb0/0xff lookup 77", true),
        ("pref 500 fwmark 0x4000/0x4000 lookup 77", false),
    ] {
        let net = Net::up();
        net.on_server(&[&["ip", "rule", "add"], &rule.split(' ').collect::<Vec<_>>()[..]].concat());
        let before = rules(&net);
        let server = Server::start(&net, "auto", EVERYWHERE);
        assert_eq!(server.shown(), "loopback", "{rule}: {}", server.serve.log());
        let mark = rule.split(' ').nth(3).expect("a mark");
        assert!(
            server.serve.log().contains(&format!("fwmark {mark}")),
            "{rule}: {}",
            server.serve.log()
        );
        assert_eq!(rules(&net), before);
        server.ssh(&net).remote("exit 7", LIMIT).expect_code(7);
        assert_eq!(server.serve.stop(LIMIT), Some(0));

        let sshd = TestSshd::start_at(net.server(), EVERYWHERE);
        if insists_in_vain {
            let outcome = insist_in_vain(&net, &sshd);
            assert!(outcome.err().contains("fwmark 0xb0/0xff"), "{}", outcome.err());
            assert!(outcome.err().contains("hint: "), "{}", outcome.err());
            assert_eq!(rules(&net), before);
        } else {
            let serve = Serve::start(&sshd, options(&net, "real"));
            assert_eq!(serve.ready_field("client-address"), Some("real"));
            assert!(
                serve
                    .log()
                    .contains("these policy rules of other programs apply to accepted connections"),
                "{}",
                serve.log()
            );
        }
    }
}

/// A server half that cannot show sshd clients' addresses and was told to.
fn insist_in_vain(net: &Net, sshd: &TestSshd) -> Outcome {
    let scratch = Scratch::new();
    let mut command = net.server().command(BOWLINE);
    command.args(["serve", "--client-address", "real", "--listen", "198.51.100.1:0"]);
    command.arg("--target").arg(sshd.address().to_string());
    command.arg("--host-key").arg(sshd.host_key("ed25519"));
    command.arg("--state-dir").arg(scratch.join("state"));
    command.arg("--runtime-dir").arg(scratch.join("run"));
    run(&mut command, LIMIT).expect_code(UNAVAILABLE)
}
