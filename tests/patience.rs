//! What takes minutes and next to no processor, in a network of namespaces: run-tests has it run beside the other suites.
//!
//! Needs root; without it each test says on standard error that it was skipped. Figures are printed.

mod scenarios;
mod support;

use scenarios::goodput;
use scenarios::keys::Typist;
use scenarios::ticker::Ticker;
use std::thread::{self, sleep};
use std::time::Duration;
use support::lab::Lab;
use support::relay::Relay;
use support::rig::Rig;
use support::serve::ServeOptions;
use support::{measured, measured_time, now};

/// RTT 50 ms.
const CLIENT: &str = "delay=25";

/// What each measurement of goodput moves: 20 s at 256 kbit/s.
const BULK: usize = 640_000;

#[test]
fn a_slow_link_with_a_long_queue_brings_80_percent_of_plain_ssh() {
    slow_link("down", goodput::down);
}

#[test]
fn a_slow_link_with_a_long_queue_takes_80_percent_of_plain_ssh() {
    slow_link("up", goodput::up);
}

fn slow_link(direction: &str, rate: fn(&Rig, usize) -> f64) {
    let Some(lab) = usual("goodput at 256 kbit/s with a 10 s queue") else {
        return;
    };
    let bowline = Rig::bowline_in(&lab);
    let plain = Rig::plain_in(&lab);
    lab.set("client", "rate=0.256,queue=10000");
    let mut ratios: Vec<f64> = (0..PAIRS).map(|_| ratio(direction, rate, &bowline, &plain)).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[PAIRS / 2];
    assert!(
        median >= 0.8,
        "{direction}: the median of {ratios:.2?} is under 80 % of plain ssh"
    );
}

/// Pairs of runs, whose median counts: one pair says as much of the machine as of bowline.
const PAIRS: usize = 3;

fn ratio(direction: &str, rate: fn(&Rig, usize) -> f64, bowline: &Rig, plain: &Rig) -> f64 {
    let (theirs, ours) = (rate(plain, BULK), rate(bowline, BULK));
    let ratio = ours / theirs;
    let said = format!("bowline {ours:.0} kbit/s, plain ssh {theirs:.0} kbit/s, ratio {ratio:.2}");
    measured(&format!("goodput {direction} at 256 kbit/s with a 10 s queue"), said);
    ratio
}

#[test]
fn keys_come_back_sooner_on_a_lossy_link_because_of_their_copies() {
    let Some(lab) = usual("keys at 5 % loss") else {
        return;
    };
    let with = Rig::bowline_in(&lab);
    let without = Rig::with_in(&lab, ServeOptions::here().fault("no-copies"), |setup| {
        setup.fault("no-copies")
    });
    let [with, without] = [with, without].map(|rig| (Typist::start(&rig), rig));
    lab.set("client", "delay=25,loss=5");
    // Side by side: both meet the same moments of this machine.
    let [with, without] = [with, without].map(|(typist, rig)| (thread::spawn(move || typist.types(KEYS)), rig));
    let [with, without] = [with, without].map(|(echoes, _rig)| echoes.join().expect("every key comes back"));
    for (name, echoes) in [("with", &with), ("without", &without)] {
        for percent in [50, 95, 99] {
            let what = format!("echo of a key {name} copies, 5 % loss, RTT 50 ms, p{percent}");
            measured_time(&what, echoes.percentile(percent));
        }
    }
    // A key that is lost without a copy waits for a repair, which one in ten does here and one in a hundred shows.
    let (ours, theirs) = (with.percentile(95), without.percentile(95));
    assert!(ours < theirs * 3 / 4, "{ours:?} with copies, {theirs:?} without");
}

/// Enough for 15 beyond the 95th percentile.
const KEYS: usize = 300;

#[test]
fn five_minutes_with_nothing_but_the_two_ends_and_one_relay() {
    // The lab has no name server, no gateway and nobody else to begin with.
    let hosts = [("client", CLIENT), ("server", "nat"), ("r1", "")];
    let Some(lab) = Lab::possible("one relay and nobody else").then(|| Lab::up(&hosts)) else {
        return;
    };
    let relays = [Relay::start(lab.place("r1"))];
    let rig = Rig::relayed_in(&lab, &relays);
    let mut ticker = Ticker::start(&rig);
    let start = now();
    while now() - start < Duration::from_secs(300) {
        rig.ssh.remote("exit 7", Duration::from_secs(30)).expect_code(7);
        ticker.next_line_after(now(), Duration::from_secs(10));
        sleep(Duration::from_secs(20));
    }
    measured("lines in five minutes", ticker.finish_in_order());
}

/// Two hosts; `None` without root.
fn usual(test: &str) -> Option<Lab> {
    Lab::possible(test).then(|| Lab::up(&[("client", CLIENT), ("server", "")]))
}
