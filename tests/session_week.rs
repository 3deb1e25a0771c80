//! Simulates a week with two ends, one relay and no other path.
//!
//! The connections of both halves and the client's dial race, as they ship, and the registration backoff exchange real
//! frames in virtual time. The relay is killed, each leg drops packets in one direction or both, the client's machine is suspended, its
//! NAT drops mappings, and the server half's worker dies, for moments and for two days. No session is lost, every
//! byte arrives once and in order, each session is back as soon as the redial schedule says, and new ones open.
//! `BOWLINE_WEEK` repeats one week.

#![allow(clippy::print_stderr, reason = "figures are for people")]

#[path = "session_schedules/chance.rs"]
#[allow(dead_code, reason = "this crate uses its own part of it")]
mod chance;
#[path = "session_week/client.rs"]
mod client;
#[path = "session_week/conditions.rs"]
mod conditions;
#[path = "session_week/due.rs"]
mod due;
#[path = "session_week/end.rs"]
mod end;
#[path = "session_week/line.rs"]
mod line;
#[path = "session_week/line_path.rs"]
mod line_path;
#[path = "session_week/load.rs"]
mod load;
#[path = "session_schedules/memory_store.rs"]
mod memory_store;
#[path = "session_week/network.rs"]
mod network;
#[path = "session_week/race.rs"]
mod race;
#[path = "session_week/registration.rs"]
mod registration;
#[path = "session_week/server.rs"]
mod server;
#[path = "session_week/sim.rs"]
mod sim;
#[path = "session_week/stats.rs"]
mod stats;
#[path = "session_week/week.rs"]
mod week;

use stats::Stats;
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
    let mut all = Stats::default();
    thread::scope(|scope| {
        let parts = [0, 1].map(|part| scope.spawn(move || (part..WEEKS).step_by(2).map(play).collect::<Vec<Stats>>()));
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

fn play(seed: u64) -> Stats {
    eprintln!("week {seed} (BOWLINE_WEEK={seed} plays it again)");
    let stats = Week::new(seed).play();
    eprintln!(
        "week {seed} is over: {} outages, {} returns",
        stats.outages, stats.returns
    );
    stats
}
