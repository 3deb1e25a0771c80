//! Simulates one session over several paths, each of which may be a black hole at any time.
//!
//! The connections of both halves, and [`Redial`] and [`StandbySchedule`], as they ship, exchange real frames over QUIC-like
//! carriers in virtual time. Each test holds one promise, as a bound in virtual time or on the number of packets.
//!
//! [`Redial`]: bowline_proto::connection::Redial
//! [`StandbySchedule`]: bowline_proto::connection::StandbySchedule

mod client;
mod line;
mod network;
mod sim;

use network::{CLIENT, Path, SERVER};
use sim::Sim;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Longer than any simulation.
const FOREVER: Duration = Duration::from_secs(7 * 86_400);

/// QUIC and TLS to the server half, and a relay.
const QUIC: usize = 0;
const TLS: usize = 1;
const RELAY: usize = 2;

fn quic() -> Path {
    Path::new(0, 40)
}

fn tls() -> Path {
    Path::new(1, 40).in_order()
}

fn relay() -> Path {
    Path::new(3, 100)
}

/// The longest interval of the redial cadence while a user waits, and while nobody waits; with jitter.
const URGENT_INTERVAL: Duration = Duration::from_millis(165);
const IDLE_INTERVAL: Duration = Duration::from_millis(1100);
/// From a silence to the suspicion without a standby carrier, at the round trip of these paths (`session/liveness.rs`).
const SUSPECT_TIMEOUT: Duration = Duration::from_millis(300);

/// Begins of an outage at different places between two probes.
fn moments(from: Duration) -> impl Iterator<Item = Duration> {
    (0..10).map(move |place| from + place * 137 * MS)
}

/// A user who types a key every 200 ms, until this time.
fn type_until(sim: &mut Sim, end: Duration) {
    while sim.now < end {
        sim.press_key();
        sim.run_until(end.min(sim.now + 200 * MS));
    }
}

// Standby carriers and their promotion.

#[test]
fn a_standby_is_ready_within_seconds_and_shares_no_path_with_the_lead() {
    let mut sim = Sim::new(vec![quic(), tls(), relay()], QUIC);
    sim.run_until(5 * SECOND);
    assert_eq!((sim.lead_path(), sim.standby_paths()), (Some(QUIC), vec![TLS]));
    sim.run_until(HOUR);
    assert_eq!(sim.log.standby_dials.len(), 1, "none but the first");
    assert!(sim.log.attempts.is_empty() && sim.log.suspicions.is_empty(), "{sim}");
}

#[test]
fn a_dead_lead_is_replaced_by_its_standby_within_a_round_trip_of_the_next_key_and_without_a_dial() {
    for dies in moments(MINUTE) {
        for senders in [[true, true], [true, false], [false, true]] {
            let lead = quic().half_dead(senders, dies..FOREVER);
            let mut sim = Sim::new(vec![lead, relay()], QUIC);
            sim.run_until(dies - 5 * SECOND);
            type_until(&mut sim, dies + 10 * MS);
            sim.press_key();
            // More than the copies on standby carriers could bring.
            sim.give(CLIENT, 5000);
            let took = sim.run_to(SECOND, |sim| sim.lead_path() == Some(1) && sim.is_delivered());
            // A round trip and 60 ms until the suspicion, and a round trip of the standby. While the server half is heard,
            // the transport has 500 ms to acknowledge.
            let is_heard = senders == [true, false];
            let bound = if is_heard {
                700 * MS
            } else {
                40 * MS + 60 * MS + 100 * MS + 50 * MS
            };
            assert!(took < bound, "{took:?}, {senders:?}");
            assert!(sim.log.attempts.is_empty(), "{sim}");
        }
    }
}

#[test]
fn a_dead_lead_of_an_idle_session_is_replaced_by_its_standby_before_anyone_returns() {
    for dies in moments(HOUR) {
        let mut sim = Sim::new(vec![quic().dead(dies..FOREVER), relay()], QUIC);
        sim.run_until(dies);
        let took = sim.run_to(31 * SECOND, |sim| sim.lead_path() == Some(1) && sim.is_healthy());
        assert!(took > Duration::ZERO && sim.log.attempts.is_empty(), "{sim}");
    }
}

#[test]
fn a_dead_standby_is_found_and_replaced_by_one_on_another_path() {
    let mut sim = Sim::new(vec![quic(), tls(), relay()], QUIC);
    sim.run_until(HOUR);
    assert_eq!(sim.standby_paths(), [TLS]);
    let probes = sim.log.beside_lead.len();
    sim.run_to(32 * SECOND, |sim| sim.log.beside_lead.len() > probes);
    sim.run_for(SECOND);
    sim.paths[TLS] = tls().dead(sim.now..FOREVER);
    // 30 s to the next probe, three probes of a second, 3 s to the dial, and 5 s for the dead path.
    sim.run_to(42 * SECOND, |sim| sim.standby_paths() == [RELAY]);
    assert_eq!((sim.lead_path(), sim.log.suspicions.len()), (Some(QUIC), 0));
}

#[test]
fn a_standby_that_cannot_be_had_is_dialed_ever_more_rarely_and_found_in_five_minutes() {
    let opens = 10 * HOUR;
    let mut sim = Sim::new(vec![quic(), relay().dead(Duration::ZERO..opens)], QUIC);
    sim.run_until(opens);
    let dials = sim.log.standby_dials.len();
    assert!((100..140).contains(&dials), "{dials}");
    sim.run_to(5 * MINUTE + 10 * SECOND, |sim| sim.standby_paths() == [1]);
}

// Probes of a silent path, and keepalives.

#[test]
fn a_path_that_dies_while_output_flows_is_suspected_within_a_second() {
    for dies in moments(MINUTE) {
        let mut sim = Sim::new(vec![quic().dead(dies..FOREVER)], QUIC);
        while sim.now < dies {
            sim.give(SERVER, 80);
            sim.run_until(dies.min(sim.now + 100 * MS));
        }
        // Twice the usual gap between outputs to the probe.
        sim.run_to(SECOND, |sim| !sim.log.suspicions.is_empty());
        assert!(sim.log.suspicions[0] > dies, "{sim}");
    }
}

#[test]
fn a_path_that_dies_after_the_last_key_is_suspected_the_sooner_the_less_time_has_passed() {
    for (idle, bound) in [(SECOND, 2 * SECOND), (10 * SECOND, 9 * SECOND), (HOUR, 31 * SECOND)] {
        for dies in moments(MINUTE + idle) {
            let mut sim = Sim::new(vec![quic().dead(dies..FOREVER)], QUIC);
            type_until(&mut sim, dies - idle);
            sim.run_until(dies);
            assert!(sim.log.suspicions.is_empty(), "{sim}");
            sim.run_to(bound, |sim| !sim.log.suspicions.is_empty());
        }
    }
}

#[test]
fn a_path_that_delivers_in_one_direction_only_is_left_after_13_s() {
    for senders in [[true, false], [false, true]] {
        let mut sim = Sim::new(vec![quic(), relay()], QUIC);
        sim.run_until(MINUTE);
        sim.paths[QUIC] = quic().half_dead(senders, MINUTE..FOREVER);
        while sim.lead_path() == Some(QUIC) {
            sim.press_key();
            // Too often for a silence.
            sim.give(SERVER, 80);
            sim.run_for(50 * MS);
            assert!(sim.now < MINUTE + 13 * SECOND, "{sim}");
        }
        sim.run_to(SECOND, |sim| sim.is_delivered() && sim.is_healthy());
    }
}

#[test]
fn an_idle_session_keeps_a_nat_mapping_of_31_s_and_costs_two_packets_a_minute() {
    let nat = 31 * SECOND;
    for path in [quic(), tls()] {
        let mut sim = Sim::new(vec![path.behind_nat(nat), relay()], QUIC);
        sim.run_until(MINUTE);
        let begun = sim.now + 10 * MINUTE;
        sim.run_until(begun);
        let before = (sim.log.on_lead.len(), sim.log.beside_lead.len());
        sim.run_until(begun + 4 * HOUR);
        let sent = (sim.log.on_lead.len() - before.0, sim.log.beside_lead.len() - before.1);
        assert!((470..=490).contains(&sent.0), "{sent:?}");
        assert!((460..=490).contains(&sent.1), "{sent:?}");
        for part in 0..10 {
            sim.run_for(MINUTE + part * 3 * SECOND);
            sim.give(SERVER, 80);
            let took = sim.run_to(SECOND, Sim::is_delivered);
            assert!(took <= 20 * MS, "the mapping was lost: {took:?}");
        }
        assert!(sim.log.suspicions.is_empty() && sim.lead_path() == Some(QUIC), "{sim}");
    }
}

// Redialing.

#[test]
fn a_session_is_back_within_one_interval_after_its_path_while_the_user_waits() {
    for lasts in [SECOND, 7 * SECOND, MINUTE, 4 * MINUTE] {
        for dies in moments(MINUTE) {
            let back = dies + lasts;
            let mut sim = Sim::new(vec![quic().dead(dies..back)], QUIC);
            type_until(&mut sim, dies + 500 * MS);
            sim.run_until(back);
            // Handshake, resume, echo.
            let took = sim.run_to(SECOND, |sim| sim.is_delivered() && sim.is_healthy());
            assert!(
                took <= URGENT_INTERVAL + 3 * 40 * MS + 20 * MS,
                "{took:?} after {lasts:?}"
            );
        }
    }
}

#[test]
fn a_session_that_nobody_waits_for_dials_every_second_and_is_back_within_two() {
    for dies in moments(HOUR) {
        let mut sim = Sim::new(vec![quic().dead(dies..FOREVER)], QUIC);
        sim.run_until(dies);
        sim.run_to(31 * SECOND, |sim| !sim.log.suspicions.is_empty());
        sim.run_for(10 * SECOND);
        let attempts = sim.log.attempts.len();
        assert!((9..=12).contains(&attempts), "{attempts}");
        sim.paths[QUIC] = quic();
        let took = sim.run_to(2 * SECOND, Sim::is_healthy);
        assert!(took <= IDLE_INTERVAL + 3 * 40 * MS, "{took:?}");
    }
}

#[test]
fn a_long_outage_costs_few_dials_and_a_key_ends_the_wait_at_once() {
    let (dies, lasts) = (HOUR, 10 * HOUR);
    let back = dies + lasts;
    for is_typing in [false, true] {
        let mut sim = Sim::new(vec![quic().dead(dies..back)], QUIC);
        sim.run_until(dies);
        if is_typing {
            sim.press_key();
        }
        sim.run_until(back);
        // Five minutes of 150 ms if somebody waits, a second until half an hour has passed, then 15 s.
        let expected = if is_typing { 2000 + 1500 } else { 1800 } + 2280;
        let attempts = sim.log.attempts.len();
        assert!(
            attempts.abs_diff(expected) < expected / 20,
            "{attempts}, expected {expected}"
        );
        // A NAT or firewall may block a flow by its source port.
        assert!(sim.log.renewals.iter().copied().eq((0..attempts).step_by(16)), "{sim}");
        sim.press_key();
        let took = sim.run_to(SECOND, |sim| sim.is_delivered() && sim.is_healthy());
        assert!(took <= 3 * 40 * MS + 20 * MS, "{took:?}");
    }
}

#[test]
fn an_outage_of_the_only_used_path_is_over_as_soon_as_another_path_answers() {
    for dies in moments(MINUTE) {
        // The relay comes up too late to be a standby.
        let mut sim = Sim::new(
            vec![
                quic().dead(dies..FOREVER),
                tls().dead(Duration::ZERO..FOREVER),
                relay().dead(Duration::ZERO..dies),
            ],
            QUIC,
        );
        type_until(&mut sim, dies);
        sim.press_key();
        let took = sim.run_to(2 * SECOND, |sim| sim.is_delivered() && sim.is_healthy());
        // The probe may wait for twice the gap between keys. Every second attempt dials the relay.
        let suspicion = 2 * 200 * MS + SUSPECT_TIMEOUT;
        assert!(
            took <= suspicion + 2 * URGENT_INTERVAL + 3 * 100 * MS + 50 * MS,
            "{took:?}"
        );
        assert_eq!(sim.lead_path(), Some(RELAY));
    }
}

// Acknowledgements.

#[test]
fn bytes_are_acknowledged_when_the_pipe_has_taken_them_and_not_before() {
    for dies in [MINUTE, FOREVER] {
        let mut sim = Sim::new(vec![quic().dead(dies..dies + SECOND), relay()], QUIC);
        sim.run_until(MINUTE - SECOND);
        for me in [CLIENT, SERVER] {
            let before = sim.acknowledged(me);
            sim.block(1 - me, true);
            sim.give(me, 1000);
            // It stays so if the lead is lost and the bytes are sent again on the next.
            sim.run_for(10 * SECOND);
            assert_eq!(sim.acknowledged(me), before, "of half {me}");
            sim.block(1 - me, false);
            let took = sim.run_to(SECOND, |sim| sim.acknowledged(me) == before + 1000);
            // An ack waits 20 ms for bytes that can carry it.
            assert!(took <= 50 * MS + 20 * MS, "{took:?}");
            // The echo.
            sim.run_for(SECOND);
            assert!(sim.is_delivered(), "{sim}");
        }
    }
}

// One resume at a time.

#[test]
fn one_resume_is_sent_however_many_handshakes_are_complete() {
    for rtt in [40, 100, 350] {
        for dies in moments(MINUTE) {
            let path = || Path::new(0, rtt).dead(dies..dies + 20 * SECOND);
            let mut sim = Sim::new(vec![path(), path(), path()], 0);
            type_until(&mut sim, dies + SECOND);
            sim.run_until(dies + 20 * SECOND);
            sim.run_to(3 * SECOND, |sim| sim.is_delivered() && sim.is_healthy());
            sim.run_for(SECOND);
            assert_eq!(sim.log.resumes.len(), 1, "{:?}", sim.log.resumes);
        }
    }
}

#[test]
fn a_resume_whose_answer_is_lost_is_followed_by_another_after_400_ms() {
    for dies in moments(MINUTE) {
        let mut sim = Sim::new(
            vec![quic().dead(dies..dies + 10 * SECOND), tls().dead(dies..FOREVER)],
            QUIC,
        );
        type_until(&mut sim, dies + SECOND);
        sim.run_to(12 * SECOND, |sim| sim.log.resumes.len() == 1);
        // What the server half sends is lost for a moment.
        let until = sim.now + SECOND;
        sim.paths[QUIC] = quic().half_dead([false, true], sim.now..until);
        let took = sim.run_to(3 * SECOND, |sim| sim.log.resumes.len() == 2);
        assert!((400 * MS..=500 * MS).contains(&took), "{took:?}");
        sim.run_to(3 * SECOND, |sim| sim.is_delivered() && sim.is_healthy());
    }
}

#[test]
fn a_lead_that_was_suspected_for_nothing_is_not_trusted_while_a_resume_is_open() {
    for dies in moments(MINUTE) {
        let mut sim = Sim::new(
            vec![quic().dead(dies..FOREVER), relay().dead(Duration::ZERO..dies)],
            QUIC,
        );
        type_until(&mut sim, dies);
        sim.press_key();
        sim.run_to(3 * SECOND, |sim| sim.log.resumes.len() == 1);
        // The lead works again, while the server half switches to a path on which its answer is lost.
        sim.paths[QUIC] = quic();
        sim.paths[1] = relay().half_dead([false, true], Duration::ZERO..FOREVER);
        sim.run_to(3 * SECOND, |sim| sim.is_delivered() && sim.is_healthy());
        assert_eq!(sim.lead_path(), Some(QUIC));
        sim.press_key();
        sim.run_to(50 * MS, Sim::is_delivered);
    }
}

// Path upgrade.

#[test]
fn a_better_path_is_taken_within_half_a_minute_after_it_opens() {
    for opens in moments(MINUTE).chain(moments(HOUR)) {
        let mut sim = Sim::new(vec![quic().dead(Duration::ZERO..opens), relay()], 1);
        sim.run_until(opens);
        assert_eq!((sim.lead_path(), sim.log.upgrades.len()), (Some(1), 0));
        let took = sim.run_to(26 * SECOND, |sim| sim.lead_path() == Some(QUIC) && sim.is_healthy());
        assert!(took > Duration::ZERO);
        sim.run_for(HOUR);
        assert_eq!((sim.lead_path(), sim.log.upgrades.len()), (Some(QUIC), 1));
        assert!(sim.log.suspicions.is_empty() && sim.log.attempts.is_empty(), "{sim}");
    }
}

#[test]
fn a_lead_that_its_standby_has_replaced_is_taken_back_when_it_works_again() {
    for dies in moments(MINUTE) {
        let back = dies + 5 * MINUTE;
        let mut sim = Sim::new(vec![quic().dead(dies..back), relay()], QUIC);
        type_until(&mut sim, dies + SECOND);
        sim.run_until(back);
        assert_eq!(sim.lead_path(), Some(1));
        sim.run_to(26 * SECOND, |sim| sim.lead_path() == Some(QUIC) && sim.is_healthy());
    }
}

#[test]
fn a_better_path_that_passes_handshakes_and_little_more_is_tried_ever_more_rarely() {
    let mut better = quic();
    // Alive for 2 s out of 4.
    for second in (2_u32..1200).step_by(4) {
        better = better.dead(second * SECOND..(second + 2) * SECOND);
    }
    for with_standby in [true, false] {
        let relay = if with_standby { relay() } else { relay().in_order() };
        let mut sim = Sim::new(vec![better.clone(), relay], 1);
        type_until(&mut sim, 20 * MINUTE);
        let upgrades = sim.log.upgrades.len();
        // After one, two, four and eight minutes.
        assert!((3..=6).contains(&upgrades), "{upgrades}: {:?}", sim.log.upgrades);
    }
}
