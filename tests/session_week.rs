//! A week with two ends and one relay, and nothing else: no name server, no other path, nobody to ask.
//!
//! The real session cores, the real watch on the path, the real pacer of dials and the real pauses of a server half that
//! is not listed, with real frames, in virtual time. The relay is killed, either leg swallows packets one way or both, the
//! client's machine sleeps, its NAT forgets, the server half's worker dies, for moments and for two days. No session is
//! lost, every byte comes once and in order, each is back as soon as the cadence says, and new ones open.
//! `BOWLINE_WEEK` plays one week again.

#![allow(clippy::print_stderr, reason = "figures are for people")]

#[path = "session_schedules/chance.rs"]
#[allow(dead_code, reason = "this crate uses its own part of it")]
mod chance;
#[path = "session_week/client.rs"]
mod client;
#[path = "session_week/due.rs"]
mod due;
#[path = "session_week/end.rs"]
mod end;
#[path = "session_week/life.rs"]
mod life;
#[path = "session_week/line.rs"]
mod line;
#[path = "session_week/listing.rs"]
mod listing;
#[path = "session_week/load.rs"]
mod load;
#[path = "session_week/network.rs"]
mod network;
#[path = "session_week/race.rs"]
mod race;
#[path = "session_week/seen.rs"]
mod seen;
#[path = "session_week/server.rs"]
mod server;
#[path = "session_schedules/shelf.rs"]
mod shelf;
#[path = "session_week/weather.rs"]
mod weather;
#[path = "session_week/week.rs"]
mod week;

use seen::Seen;
use std::panic::resume_unwind;
use std::thread;
use week::Week;

const WEEKS: u64 = 8;

#[test]
fn a_week_over_one_relay_costs_no_session_and_no_byte() {
    if let Ok(seed) = std::env::var("BOWLINE_WEEK") {
        Week::new(seed.parse().expect("a number")).play();
        return;
    }
    let mut all = Seen::default();
    thread::scope(|scope| {
        let parts = [0, 1].map(|part| scope.spawn(move || (part..WEEKS).step_by(2).map(play).collect::<Vec<Seen>>()));
        for part in parts {
            let weeks = part.join().unwrap_or_else(|panic| resume_unwind(panic));
            weeks.iter().for_each(|week| all.merge(week));
        }
    });
    eprintln!("{all:?}");
    assert!(all.sessions > WEEKS * 50, "few were opened: {all:?}");
    assert!(
        all.quiet_hours > 20 && all.restarts > 0,
        "no quiet hours, or no restart: {all:?}"
    );
    assert!(
        all.longest.iter().all(|longest| !longest.is_zero()),
        "a kind of outage is missing: {all:?}"
    );
}

fn play(seed: u64) -> Seen {
    eprintln!("week {seed} (BOWLINE_WEEK={seed} plays it again)");
    let seen = Week::new(seed).play();
    eprintln!(
        "week {seed} is over: {} outages, {} returns",
        seen.outages, seen.returns
    );
    seen
}
