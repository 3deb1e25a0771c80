//! The harness checked against itself: every scenario over plain ssh, and the bad networks against what they promise.
//!
//! A scenario that fails here is unfair, and says nothing about bowline.

mod support;

use std::time::Duration;
use support::lab::Lab;
use support::process::run;
use support::rig::Rig;

#[test]
fn plain_ssh_works_over_loopback() {
    let rig = Rig::plain();
    rig.ssh.remote("exit 7", Duration::from_secs(20)).expect_code(7);
    assert_eq!(rig.sshd.connections_from("127.0.0.1 "), 1);
    assert_eq!(rig.sshd.logins(), 1);
}

#[test]
fn plain_ssh_works_in_the_lab_with_the_delay_asked_for() {
    if !Lab::possible("plain ssh in the lab") {
        return;
    }
    let lab = Lab::up(&[("client", "delay=25"), ("server", "")]);
    let rig = Rig::plain_in(&lab);
    let outcome = rig.ssh.remote("exit 7", Duration::from_secs(20)).expect_code(7);
    support::measured_time("plain ssh true at RTT 50 ms", outcome.took);
    assert!(
        outcome.took > Duration::from_millis(250),
        "five round trips at least, not {:?}",
        outcome.took
    );
    let _ = run(&mut lab.command("client", "true"), Duration::from_secs(5)).expect_code(0);
}
