//! P1 over random schedules: two connections as they ship, virtual time, real encoded frames, and carriers that are cut
//! anywhere.
//!
//! Whatever happens to carriers, and to the server half's process, what a pipe was given is a prefix of what the other
//! pipe gave, each byte once; and when one carrier finally stays up, both are equal and both sessions end.
//! `BOWLINE_SCHEDULES` says how many schedules are played (200,000 are the promise, a tenth of it the default),
//! `BOWLINE_SCHEDULE` plays one again.

#[path = "session_schedules/carrier.rs"]
mod carrier;
#[path = "session_schedules/chance.rs"]
mod chance;
#[path = "session_schedules/crashes.rs"]
mod crashes;
#[path = "session_schedules/half.rs"]
mod half;
#[path = "session_schedules/memory_store.rs"]
mod memory_store;
#[path = "../fuzz/replay.rs"]
mod replay;
#[path = "session_schedules/world.rs"]
mod world;

use chance::Chance;
use std::panic::{catch_unwind, resume_unwind};
use std::thread;
use world::{Tally, World};

#[test]
fn what_is_delivered_is_a_prefix_and_equal_once_a_carrier_stays_up() {
    if let Some(seed) = number("BOWLINE_SCHEDULE") {
        World::new(Chance::new(seed)).play();
        return;
    }
    let schedules = number("BOWLINE_SCHEDULES").unwrap_or(20_000);
    let threads = thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let tally = thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|part| scope.spawn(move || (part..schedules).step_by(threads as usize).map(play).sum::<Tally>()))
            .collect();
        parts
            .into_iter()
            .map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .sum::<Tally>()
    });
    assert!(
        tally.covers_everything(schedules),
        "a kind of event is missing: {tally:?}"
    );
}

#[test]
fn schedules_near_the_seeds_of_the_fuzzer_lose_nothing() {
    replay::replay("schedules", |bytes| {
        World::new(Chance::chosen(bytes)).play();
    });
}

fn play(seed: u64) -> Tally {
    match catch_unwind(|| World::new(Chance::new(seed)).play()) {
        Ok(tally) => tally,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let why = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            panic!(
                "schedule {seed} fails, BOWLINE_SCHEDULE={seed} plays it again: {}",
                why.unwrap_or_default()
            );
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
    )
}
