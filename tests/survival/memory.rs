//! Rings take memory while bytes wait in them, and no longer; never more than the budget, crash or not.

use crate::client::Hold;
use crate::held::{Door, Held};
use crate::support::data::MIB;
use crate::support::serve::ServeOptions;
use crate::support::{heavy, measured, wait_for};
use crate::{LIMIT, OpenHouse};
use std::collections::HashMap;
use std::thread::sleep;
use std::time::Duration;

const BURST: usize = 8 << 20;

#[test]
fn rings_give_their_memory_back_when_a_burst_is_over() {
    let _turn = heavy();
    let door = Door::open();
    let house = OpenHouse::before(door.address());
    let mut sessions: Vec<Held> = (0..20).map(|n| door.session(&house, n)).collect();
    sessions.iter_mut().for_each(Held::expect_alive);
    let before = taken(&house);
    let holds = hold_all(&sessions);
    std::thread::scope(|scope| {
        for session in &mut sessions {
            scope.spawn(|| session.send(BURST));
        }
    });
    let held = wait_for(LIMIT, || Some(taken(&house)).filter(|bytes| *bytes > 100 * MIB));
    let held = held.unwrap_or_else(|| panic!("{} bytes held back", taken(&house)));
    drop(holds);
    sessions.iter_mut().for_each(Held::expect_everything);
    let back = wait_for(Duration::from_secs(10), || (taken(&house) < MIB).then_some(()));
    measured(
        "memory of 20 rings",
        format_args!(
            "{} KiB before, {} MiB held back, {} KiB after",
            before / 1024,
            held / MIB,
            taken(&house) / 1024
        ),
    );
    assert!(back.is_some(), "{} bytes are still taken", taken(&house));
    sessions.iter_mut().for_each(Held::expect_alive);
}

#[test]
fn restored_rings_count_against_the_budget() {
    let _turn = heavy();
    let budget = 24 * MIB;
    let door = Door::open();
    let options = ServeOptions::here().argument("--memory-budget").argument("24MiB");
    let house = OpenHouse::with(door.address(), options.argument("--replay-buffer").argument("8MiB"));
    let mut sessions: Vec<Held> = (0..8).map(|n| door.session(&house, n)).collect();
    sessions.iter_mut().for_each(Held::expect_alive);
    // Twice the budget and more waits in front of it; sockets hold a part.
    let holds = hold_all(&sessions);
    std::thread::scope(|scope| {
        for session in &mut sessions {
            scope.spawn(|| session.send(7 << 20));
        }
        let full = wait_for(LIMIT, || (taken(&house) > budget * 3 / 4).then_some(()));
        assert!(full.is_some(), "{} bytes held back", taken(&house));
        for _ in 0..3 {
            sleep(Duration::from_millis(500));
            let before = taken(&house);
            let worker = house.serve.half().kill_worker();
            house.serve.half().worker_after(worker);
            sleep(Duration::from_millis(700));
            measured(
                "rings at the budget, killed worker",
                format_args!("{} and {} KiB", before / 1024, taken(&house) / 1024),
            );
            assert!(
                taken(&house) <= budget + budget / 4,
                "{} bytes of rings, {budget} allowed",
                taken(&house)
            );
        }
        // The upstreams' sends end only once the clients read again.
        drop(holds);
    });
    sessions.iter_mut().for_each(Held::expect_everything);
    sessions.iter_mut().for_each(Held::expect_alive);
}

fn hold_all(sessions: &[Held]) -> Vec<Hold> {
    sessions.iter().map(|session| session.client.hold()).collect()
}

/// Memory of all memory files that the keeper holds, each counted once.
fn taken(house: &OpenHouse) -> u64 {
    let files = house.serve.half().memory_files();
    let each: HashMap<u64, u64> = files.into_iter().map(|file| (file.inode, file.taken)).collect();
    each.values().sum()
}
