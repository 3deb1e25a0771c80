//! A week with two ends and one relay, and nothing else: no name server, no other path, nobody to ask.
//!
//! The real session cores, the real watch on the path and the real pacing of dials, with real frames, in virtual time.
//! The relay is killed, the path turns into a hole, the client sleeps, for moments and for two days. No session is lost,
//! every byte comes once and in order, each is back as soon as the cadence says, and new ones open.
//! `BOWLINE_WEEK` plays one week again.

#![allow(clippy::print_stderr, reason = "figures are for people")]

#[path = "session_schedules/chance.rs"]
#[allow(dead_code, reason = "this crate uses its own part of it")]
mod chance;
#[path = "session_week/life.rs"]
mod life;
#[path = "session_week/stream.rs"]
mod stream;
#[path = "session_week/weather.rs"]
mod weather;

use chance::Chance;
use life::{Habits, Life, Seen};
use std::time::Duration;
use weather::{CALM, RTT, WEEK, Weather};

const WEEKS: u64 = 12;
const HOUR: Duration = Duration::from_secs(3600);

/// Who leaves a terminal open, who watches a log, who works.
const USERS: [Habits; 3] = [
    Habits {
        keys: 24 * 3600,
        output: 48 * 3600,
    },
    Habits { keys: 3600, output: 60 },
    Habits {
        keys: 600,
        output: 1800,
    },
];

#[test]
fn a_week_over_one_relay_costs_no_session_and_no_byte() {
    let weeks = match std::env::var("BOWLINE_WEEK") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => (0..WEEKS).collect::<Vec<u64>>(),
    };
    for seed in weeks {
        eprintln!("week {seed}");
        week(seed);
    }
}

fn week(seed: u64) {
    let beginning = bowline::clock::now();
    let weather = Weather::of_a_week(&mut Chance::new(seed));
    let first = Duration::from_secs(1);
    for (user, habits) in USERS.iter().enumerate() {
        let seen = Life::new(&weather, seed * 1000 + user as u64, beginning, first).live(WEEK, *habits);
        eprintln!("  user {user}: {seen:?}");
        check(&weather, &seen);
        let is_quiet = user == 0;
        assert!(
            !is_quiet || seen.pings_of_quiet_hour > 100,
            "no keepalive in quiet hours"
        );
    }
    let opened = (1..7 * 24 - 3)
        .filter(|hour| opens(&weather, seed, beginning, HOUR * *hour))
        .count();
    eprintln!("  {opened} more were opened, of {} outages", weather.0.len());
    let closed = weather
        .0
        .iter()
        .map(|outage| (outage.until - outage.from).as_secs() / 3600 + 1);
    assert!(
        opened as u64 >= 7 * 24 - 4 - closed.sum::<u64>(),
        "only {opened} were opened"
    );
}

/// A new session each hour that the path is open, for up to two hours; whether it was.
fn opens(weather: &Weather, seed: u64, beginning: std::time::Instant, at: Duration) -> bool {
    let is_open = weather.is_open(at, RTT * 4);
    let end = at + HOUR * 2;
    if is_open && weather.is_open(end - CALM, CALM) {
        Life::new(weather, seed + at.as_secs(), beginning, at).live(end, USERS[2]);
    }
    is_open
}

fn check(weather: &Weather, seen: &Seen) {
    let outages = weather.0.len();
    assert!(
        outages > 8 && seen.outages == outages,
        "{} of {outages} outages",
        seen.outages
    );
    assert!(seen.carriers > 2 && seen.bytes > 0);
    // One in 15 s once a silence was found that way, and seven at the beginning of each.
    assert!(seen.pings_of_quiet_hour <= 248, "{} probes", seen.pings_of_quiet_hour);
    // Each wait begins with five minutes at 150 ms and half an hour at 1 s; then it is one in 15 s. With jitter.
    let waits = seen.signs + seen.outages;
    let lasted: Duration = weather.0.iter().map(|outage| outage.until - outage.from).sum();
    let most = waits * (300_000 / 135 + 1_500_000 / 900) + lasted.as_millis() as usize / 13_500;
    assert!(seen.attempts < most, "{} attempts, at most {most}", seen.attempts);
}
