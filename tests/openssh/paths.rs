//! Paths that fail under a running session, as far as loopback and the gate can show it; `lab` has the rest.

use crate::scenarios::ticker::Ticker;
use crate::support::rig::Rig;
use crate::support::{heavy, measured_time, now};
use std::thread::sleep;
use std::time::Duration;

/// The promise: output again that soon.
const SOON: Duration = Duration::from_millis(500);

#[test]
fn a_silent_rebinding_under_a_quiet_user_is_found_within_half_a_second() {
    let _turn = heavy();
    let rig = Rig::gated(|setup| setup);
    rig.gate().set("delay=25");
    let ticker = Ticker::start(&rig);
    for round in 0..3 {
        // Once early, while the client half has just acknowledged, and once after some quiet.
        sleep(Duration::from_millis(700 + round * 400));
        let start = now();
        rig.gate().rebind();
        sleep(Duration::from_secs(2));
        let silence = ticker.longest_silence_since(start);
        measured_time("silence after a NAT rebinding at RTT 50 ms (gate)", silence);
        assert!(silence <= SOON, "silent for {silence:?}");
    }
    ticker.finish_in_order();
}

#[test]
fn a_session_is_back_within_half_a_second_of_the_path() {
    let _turn = heavy();
    let rig = Rig::gated(|setup| setup);
    rig.gate().set("delay=25");
    let mut ticker = Ticker::start(&rig);
    for away in [1, 3, 8] {
        rig.gate().cut();
        sleep(Duration::from_secs(away));
        let back = now();
        rig.gate().restore();
        let took = ticker.next_line_after(back, Duration::from_secs(30));
        measured_time(
            &format!("output after a blackhole of {away} s at RTT 50 ms (gate)"),
            took,
        );
        assert!(took <= SOON, "{took:?} after a blackhole of {away} s");
        sleep(Duration::from_secs(1));
    }
    ticker.finish_in_order();
}

#[test]
fn a_rebinding_every_500_ms_loses_nothing() {
    let _turn = heavy();
    let rig = Rig::gated(|setup| setup);
    rig.gate().set("delay=10");
    let mut ticker = Ticker::start(&rig);
    for _ in 0..20 {
        rig.gate().rebind();
        sleep(Duration::from_millis(500));
    }
    let took = ticker.next_line_after(now(), Duration::from_secs(10));
    measured_time("first line after 20 rebindings", took);
    let lines = ticker.finish_in_order();
    assert!(lines > 100, "output kept flowing: {lines} lines in 10 s");
}

#[test]
fn one_way_blackholes_are_survived() {
    use crate::support::gate::Direction::{ToClient, ToServer};
    let _turn = heavy();
    let rig = Rig::gated(|setup| setup);
    rig.gate().set("delay=25");
    let mut ticker = Ticker::start(&rig);
    for way in [ToServer, ToClient] {
        rig.gate().cut_one(way);
        sleep(Duration::from_secs(3));
        let back = now();
        rig.gate().restore();
        let took = ticker.next_line_after(back, Duration::from_secs(30));
        measured_time(&format!("output after 3 s without {way:?}"), took);
        assert!(took <= SOON, "{took:?} after 3 s without {way:?}");
        sleep(Duration::from_secs(1));
    }
    ticker.finish_in_order();
}
