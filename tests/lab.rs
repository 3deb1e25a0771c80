//! Sessions in a network of namespaces: address changes, blackholes, slow links, devices that go away.
//!
//! Needs root; without it each test says on standard error that it was skipped. Figures are printed.

mod scenarios;
mod support;

use scenarios::ticker::Ticker;
use std::thread::sleep;
use std::time::Duration;
use support::lab::Lab;
use support::process::run;
use support::rig::Rig;
use support::{heavy, measured_time, now};

/// The promise: output again that soon after what happened, or after its end.
const SOON: Duration = Duration::from_millis(500);
/// RTT 50 ms.
const CLIENT: &str = "delay=25";

#[test]
fn output_goes_on_within_half_a_second_of_a_silent_nat_rebinding() {
    let Some((_turn, lab)) = lab("NAT rebinding", "delay=25,nat") else {
        return;
    };
    let rig = Rig::bowline_in(&lab);
    let ticker = Ticker::start(&rig);
    quiet_changes("silence after a NAT rebinding", &ticker, || lab.rebind("client"));
    ticker.finish_in_order();
}

#[test]
fn output_goes_on_within_half_a_second_of_a_change_of_the_client_s_address() {
    let Some((_turn, lab)) = lab("roaming", CLIENT) else {
        return;
    };
    let rig = Rig::bowline_in(&lab);
    let ticker = Ticker::start(&rig);
    quiet_changes("silence after a change of address", &ticker, || lab.roam("client"));
    ticker.finish_in_order();
}

#[test]
fn output_goes_on_within_half_a_second_of_the_end_of_10_s_of_blackhole() {
    blackhole(Duration::from_secs(10));
}

#[test]
fn output_goes_on_within_half_a_second_of_the_end_of_120_s_of_blackhole() {
    blackhole(Duration::from_secs(120));
}

#[test]
fn a_device_that_goes_down_and_comes_up_costs_no_session() {
    let Some((_turn, lab)) = lab("interface down and up", CLIENT) else {
        return;
    };
    let rig = Rig::bowline_in(&lab);
    let mut ticker = Ticker::start(&rig);
    for away in [1, 5] {
        lab.device_down("client");
        sleep(Duration::from_secs(away));
        lab.device_up("client");
        let took = ticker.next_line_after(now(), Duration::from_secs(30));
        measured_time(&format!("output after {away} s with the device down"), took);
        assert!(took <= SOON, "{took:?}");
        sleep(Duration::from_secs(1));
    }
    ticker.finish_in_order();
}

#[test]
fn a_session_waits_while_udp_is_blocked_and_goes_on_after() {
    let Some((_turn, lab)) = lab("UDP blocked under a session", CLIENT) else {
        return;
    };
    let rig = Rig::bowline_in(&lab);
    let mut ticker = Ticker::start(&rig);
    lab.drop_udp("client", true);
    sleep(Duration::from_secs(6));
    lab.drop_udp("client", false);
    let took = ticker.next_line_after(now(), Duration::from_secs(30));
    measured_time("output after 6 s without UDP", took);
    assert!(took <= SOON, "{took:?}");
    ticker.finish_in_order();
}

#[test]
fn an_open_with_udp_blocked_names_the_address_and_port_in_time() {
    let Some((_turn, lab)) = lab("open with UDP blocked", CLIENT) else {
        return;
    };
    let rig = Rig::bowline_in(&lab);
    lab.drop_udp("client", true);
    let mut proxy = rig.ssh.proxy();
    let outcome = run(proxy.args(["--connect-timeout", "3s"]), Duration::from_secs(20)).expect_code(69);
    measured_time(
        "refusal of an open with UDP blocked, --connect-timeout 3s",
        outcome.took,
    );
    assert!(
        outcome.took < Duration::from_secs(5),
        "bounded by its timeout: {:?}",
        outcome.took
    );
    let udp = rig.serve().udp();
    for fact in ["error: ", &udp.ip().to_string(), &udp.port().to_string(), "hint: "] {
        assert!(outcome.err().contains(fact), "no {fact:?} in {}", outcome.err());
    }
}

#[test]
fn a_path_that_loses_large_packets_still_carries_the_session() {
    let Some((_turn, lab)) = lab("MTU black hole", CLIENT) else {
        return;
    };
    let rig = Rig::bowline_in(&lab);
    // 1200 bytes of QUIC, 8 of UDP, 20 of IP and a little: what discovery found before no longer fits.
    let mut ticker = Ticker::start(&rig);
    sleep(Duration::from_secs(2));
    lab.set("client", "mtu=1240");
    let took = ticker.next_line_after(now(), Duration::from_secs(30));
    measured_time("output after the path's MTU fell to 1240", took);
    ticker.finish_in_order();
    let limit = Duration::from_secs(60);
    let outcome = rig.ssh.remote("head -c 2000000 /dev/zero", limit).expect_code(0);
    assert_eq!(outcome.stdout.len(), 2_000_000, "an open and a transfer at that MTU");
}

#[test]
fn losses_and_jitter_corrupt_nothing() {
    let Some((_turn, lab)) = lab("3 % loss with bursts and jitter", "delay=20,jitter=10,loss=3,burst=3") else {
        return;
    };
    let rig = Rig::bowline_in(&lab);
    scenarios::transfers::scp_both_ways(&rig, 4 << 20);
}

/// The lab with its usual two hosts, and the turn to use it; `None` without root.
fn lab(test: &str, client: &str) -> Option<(support::Turn, Lab)> {
    Lab::possible(test).then(|| (heavy(), usual(client)))
}

/// The same without a turn, for tests that wait for minutes and need next to no processor.
fn patient_lab(test: &str, client: &str) -> Option<Lab> {
    Lab::possible(test).then(|| usual(client))
}

fn usual(client: &str) -> Lab {
    Lab::up(&[("client", client), ("server", "")])
}

/// Makes a change three times, early and after some quiet, and insists that no silence is longer than promised.
fn quiet_changes(what: &str, ticker: &Ticker, change: impl Fn()) {
    for quiet in [500, 1500, 3000] {
        sleep(Duration::from_millis(quiet));
        let start = now();
        change();
        sleep(Duration::from_secs(2));
        let silence = ticker.longest_silence_since(start);
        measured_time(what, silence);
        assert!(silence <= SOON, "{what}: {silence:?}");
    }
}

fn blackhole(away: Duration) {
    let Some(lab) = patient_lab(&format!("a blackhole of {away:?}"), CLIENT) else {
        return;
    };
    let rig = Rig::bowline_in(&lab);
    let mut ticker = Ticker::start(&rig);
    lab.cut("client");
    sleep(away);
    let back = now();
    lab.restore("client");
    let took = ticker.next_line_after(back, Duration::from_secs(60));
    measured_time(&format!("output after a blackhole of {away:?}"), took);
    assert!(took <= SOON, "{took:?} after a blackhole of {away:?}");
    sleep(Duration::from_secs(2));
    ticker.finish_in_order();
}
