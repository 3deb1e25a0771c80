use super::*;
use crate::test_tools as clock;

const RTT: Duration = Duration::from_millis(50);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Polls at each timeout until `until`, answering probes if `alive`; gives what was said, and when.
fn watch(liveness: &mut Liveness, start: Instant, until: Duration, alive: bool) -> Vec<(u128, LivenessAction)> {
    let mut said = Vec::new();
    loop {
        let now = liveness.poll_timeout(start, RTT);
        if now > start + until {
            return said;
        }
        let verdict = liveness.poll(now, RTT);
        said.push(((now - start).as_millis(), verdict));
        if verdict == LivenessAction::Probe && alive {
            liveness.handle_answer(now + RTT);
        }
    }
}

#[test]
fn silence_after_flowing_output_is_probed_within_100_ms_and_suspected_300_ms_later() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    let mut now = start;
    for _ in 0..200 {
        now += ms(20);
        liveness.handle_output(now);
    }
    let said = watch(&mut liveness, now, ms(1000), false);
    assert_eq!(
        said[..3],
        [
            (100, LivenessAction::Probe),
            (350, LivenessAction::Probe),
            (400, LivenessAction::Suspect)
        ]
    );
    assert!(
        said[3..].iter().all(|(_, verdict)| *verdict == LivenessAction::Probe),
        "suspicion is said once: {said:?}"
    );
}

#[test]
fn with_a_carrier_standing_by_silence_is_probed_sooner_but_not_within_a_flow() {
    let start = clock::now();
    for (gap, probed) in [(10, 40), (35, 70), (90, 180)] {
        let mut liveness = Liveness::new(start);
        liveness.set_standby(true);
        let mut now = start;
        for _ in 0..200 {
            now += ms(gap);
            liveness.handle_output(now);
        }
        let said = watch(&mut liveness, now, ms(250), false);
        let (at, verdict) = said[0];
        assert_eq!(
            (at.abs_diff(probed) <= 1, verdict),
            (true, LivenessAction::Probe),
            "{said:?}"
        );
    }
}

#[test]
fn an_answered_silence_is_probed_ever_more_rarely() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    liveness.handle_output(start);
    let said = watch(&mut liveness, start, Duration::from_secs(3600), true);
    let times: Vec<u128> = said.iter().map(|(at, _)| *at).collect();
    assert!(said.iter().all(|(_, verdict)| *verdict == LivenessAction::Probe));
    assert_eq!(times[..8], [100, 350, 850, 1850, 3850, 7850, 15_850, 30_850]);
    let last = times[times.len() - 2..].iter().copied().reduce(|a, b| b - a);
    assert_eq!(last, Some(30_000));
}

#[test]
fn after_long_quiet_an_acknowledgement_is_answer_enough_and_its_want_is_suspected() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    liveness.set_sees_acks(true);
    let quiet = watch(&mut liveness, start, IDLE_AFTER, true);
    assert!(
        quiet.iter().all(|(_, verdict)| *verdict == LivenessAction::Probe),
        "{quiet:?}"
    );

    let touched = liveness.poll_timeout(start, RTT);
    assert_eq!(liveness.poll(touched, RTT), LivenessAction::Keepalive);
    liveness.handle_heard(touched + RTT);
    assert_eq!(
        liveness.poll_timeout(touched, RTT),
        touched + KEEPALIVE_INTERVAL + KEEPALIVE_INTERVAL_GROWTH,
        "no more is due"
    );

    let again = touched + KEEPALIVE_INTERVAL + KEEPALIVE_INTERVAL_GROWTH;
    assert_eq!(liveness.poll(again, RTT), LivenessAction::Keepalive);
    let said = watch(&mut liveness, again, Duration::from_secs(1), false);
    assert_eq!(said, [(300, LivenessAction::Suspect)]);
}

#[test]
fn a_keystroke_into_a_dead_link_is_suspected_after_the_allowance() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    watch(&mut liveness, start, Duration::from_secs(40), true);
    let pressed = start + Duration::from_secs(41);
    liveness.handle_input(pressed, true);
    let suspected = watch(&mut liveness, pressed, ms(2000), false);
    assert!(suspected.contains(&(300, LivenessAction::Suspect)), "{suspected:?}");
}

#[test]
fn a_slow_path_that_moves_is_not_suspected() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    liveness.handle_input(start, true);
    for beat in 1..100 {
        let now = start + ms(250 * beat);
        assert_ne!(liveness.poll(now, RTT), LivenessAction::Suspect);
        liveness.handle_heard(now);
    }
}

#[test]
fn a_full_window_is_not_taken_for_a_dead_peer() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    liveness.handle_input(start, true);
    liveness.handle_heard(start + RTT);
    // The peer's pipe is stuck: no acknowledgement of the session comes, but probes are answered.
    let said = watch(&mut liveness, start, Duration::from_secs(3600), true);
    assert!(said.iter().all(|(_, verdict)| *verdict == LivenessAction::Probe));
}

/// Output on every beat, while a key was pressed at the start; `acked` says on which beat that was acknowledged.
fn typed_into_output(beats: u64, acked: Option<u64>) -> (Liveness, Vec<(u64, LivenessAction)>) {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    liveness.handle_input(start, true);
    liveness.handle_ack_eliciting(start);
    let mut said = vec![];
    for beat in 1..beats {
        let now = start + ms(80 * beat);
        if acked == Some(beat) {
            liveness.handle_ack(now, false);
        }
        match liveness.poll(now, RTT) {
            LivenessAction::Wait => {}
            verdict => said.push((80 * beat, verdict)),
        }
        liveness.handle_output(now);
    }
    (liveness, said)
}

#[test]
fn a_peer_that_is_heard_and_does_not_hear_us_is_suspected() {
    let (mut liveness, said) = typed_into_output(200, None);
    assert_eq!(said, [(560, LivenessAction::Probe), (12_560, LivenessAction::Suspect)]);
    assert!(liveness.is_suspect(), "output changes nothing");
    liveness.handle_ack(clock::now(), false);
    assert!(!liveness.is_suspect());
}

#[test]
fn a_full_pipe_behind_a_path_with_output_is_asked_about_ever_more_rarely() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    liveness.handle_ack_eliciting(start);
    let mut probes = 0;
    for beat in 1..=750 {
        let now = start + ms(80 * beat);
        liveness.handle_output(now);
        // The driver looks only when it is due, and finds that all was acknowledged, but for what the pipe holds.
        if liveness.poll_timeout(now, RTT) <= now {
            liveness.handle_ack(now, true);
            probes += 1;
        }
        assert_ne!(liveness.poll(now, RTT), LivenessAction::Suspect);
    }
    assert!((8..=12).contains(&probes), "{probes} in a minute");
}

#[test]
fn output_with_acknowledgements_is_not_suspected() {
    for beat in 1..157 {
        let (liveness, said) = typed_into_output(200, Some(beat));
        assert!(
            said.iter().all(|(_, verdict)| *verdict == LivenessAction::Probe),
            "{said:?}"
        );
        assert!(!liveness.is_suspect());
    }
}

#[test]
fn a_fresh_lead_is_given_time_to_deliver() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    liveness.handle_attached(start);
    liveness.handle_input(start, true);
    let said = watch(&mut liveness, start, ms(3100), false);
    let suspected = said.iter().find(|(_, verdict)| *verdict == LivenessAction::Suspect);
    assert_eq!(suspected, Some(&(3000, LivenessAction::Suspect)));
}

#[test]
fn suspicion_is_called_off_when_the_path_moves_and_may_come_back() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    liveness.handle_input(start, true);
    watch(&mut liveness, start, ms(400), false);
    assert!(liveness.is_suspect());
    liveness.handle_heard(start + ms(410));
    assert!(!liveness.is_suspect());
    let again = watch(&mut liveness, start, ms(2000), false);
    assert!(again.iter().any(|(_, verdict)| *verdict == LivenessAction::Suspect));
}

#[test]
fn a_mere_acknowledgement_where_no_transport_is_heard_is_owed_no_answer() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    // A line of output a second, by way of a relay: the first probe comes long after any answer would be overdue.
    for line in 0..30 {
        let arrived = start + Duration::from_secs(line);
        liveness.handle_output(arrived);
        assert!(!liveness.handle_input(arrived + ms(25), false));
        let said = watch(&mut liveness, arrived + ms(26), ms(900), true);
        assert!(
            said.iter().all(|(_, verdict)| *verdict == LivenessAction::Probe),
            "{said:?}"
        );
    }
}

#[test]
fn a_mapping_that_a_key_finds_forgotten_is_kept_from_then_on() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    watch(&mut liveness, start, Duration::from_secs(320), true);
    let pressed = start + Duration::from_secs(320);
    liveness.handle_input(pressed, true);
    watch(&mut liveness, pressed, ms(400), false);
    assert!(liveness.is_suspect());
    let attached = pressed + ms(500);
    liveness.handle_attached(attached);
    let said = watch(&mut liveness, attached, Duration::from_secs(400), true);
    let late = said.iter().rev().take(2).map(|(at, _)| *at).collect::<Vec<_>>();
    assert_eq!(late[0] - late[1], 15_000, "{late:?}");
}

/// A NAT that forgets after `forgets` at the end of a path: the rests that follow one another in an hour of silence. What comes
/// after a rest that was too long is late, and said to be.
fn rests_behind_a_nat(forgets: Duration) -> Vec<Duration> {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    liveness.handle_output(start);
    let (mut now, mut last, mut rests) = (start, start, vec![]);
    while now < start + Duration::from_secs(3600) {
        now = liveness.poll_timeout(now, RTT);
        let verdict = liveness.poll(now, RTT);
        assert!(
            matches!(verdict, LivenessAction::Probe | LivenessAction::Keepalive),
            "{verdict:?}"
        );
        rests.push(now - last);
        liveness.handle_answer(now + RTT);
        if now - last > forgets {
            liveness.handle_mapping_lost(now + RTT);
        }
        last = now;
    }
    rests
}

#[test]
fn a_nat_that_forgets_early_is_learnt_and_stayed_below() {
    for (seconds, times) in [(60, 0), (25, 1), (12, 1), (8, 2)] {
        let forgets = Duration::from_secs(seconds);
        let rests = rests_behind_a_nat(forgets);
        let late: Vec<_> = rests.iter().filter(|rest| **rest > forgets).collect();
        assert!(late.len() <= times, "{seconds} s: {late:?}");
        let last = rests.last().copied();
        assert!(
            last >= Some(forgets.min(MAX_KEEPALIVE_INTERVAL) * 3 / 5),
            "{seconds} s: no more than needed, {last:?}"
        );
    }
    let fastest = rests_behind_a_nat(Duration::from_secs(1));
    assert_eq!(
        fastest.last(),
        Some(&MIN_KEEPALIVE_INTERVAL),
        "no NAT is as bad as that"
    );
}

#[test]
fn what_comes_late_in_the_midst_of_use_says_nothing_of_rests() {
    let start = clock::now();
    let mut liveness = Liveness::new(start);
    for beat in 1..100 {
        let now = start + ms(500 * beat);
        liveness.handle_output(now);
        liveness.handle_mapping_lost(now);
    }
    let said = watch(
        &mut liveness,
        start + Duration::from_secs(50),
        Duration::from_secs(3600),
        true,
    );
    let last = said[said.len() - 2..].iter().map(|(at, _)| *at).reduce(|a, b| b - a);
    assert_eq!(last, Some(MAX_KEEPALIVE_INTERVAL.as_millis()));
}
