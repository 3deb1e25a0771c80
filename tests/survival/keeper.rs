//! The keeper dies too.

use crate::held::{Door, Held};
use crate::scenarios::ticker::Ticker;
use crate::support::rig::Rig;
use crate::support::server_half::signal;
use crate::support::{heavy, measured_time, now, wait_for};
use crate::{LIMIT, OpenHouse, last_lines};
use rustix::process::Signal;
use std::thread::sleep;
use std::time::Duration;

/// A silence that nobody would call an outage.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn a_killed_keeper_is_raised_anew_and_answers_a_killed_worker_a_second_later() {
    let _turn = heavy();
    let rig = Rig::bowline();
    let ticker = Ticker::start(&rig);
    let half = rig.serve().half();
    for _ in 0..3 {
        let start = now();
        let keeper = half.kill_keeper();
        sleep(Duration::from_secs(1));
        let worker = half.kill_worker();
        half.worker_after(worker);
        half.keeper_after(keeper);
        sleep(Duration::from_secs(1));
        let silence = ticker.longest_silence_since(start);
        measured_time("silence after a killed keeper and, 1 s later, worker", silence);
        assert!(silence <= SOON, "{silence:?}: {}", last_lines(&rig.serve().log()));
    }
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    ticker.finish_in_order();
}

#[test]
fn keeper_and_worker_killed_together_end_their_sessions_clearly_or_not_at_all() {
    let door = Door::open();
    let mut house = OpenHouse::before(door.address());
    let mut sessions: Vec<Held> = (0..3).map(|n| door.session(&house, n)).collect();
    sessions.iter_mut().for_each(Held::expect_alive);
    let half = house.serve.half();
    let (keeper, worker) = (half.keeper(), half.worker());
    signal(keeper, Signal::KILL);
    sleep(Duration::from_millis(10));
    signal(worker, Signal::KILL);
    sleep(Duration::from_secs(1));
    if house.serve.half().processes().is_empty() {
        house.serve.start_again();
    }
    for mut session in sessions {
        let decided = wait_for(LIMIT, || {
            (session.try_send(1) && came_soon(&session) || !session.client.runs()).then_some(())
        });
        assert!(decided.is_some(), "neither lives nor ends: {}", house.logs());
        if !session.client.runs() {
            let outcome = session.client.finish(LIMIT);
            assert_eq!(outcome.code, Some(75), "{}\n{}", outcome.err(), house.logs());
            assert!(outcome.err().contains("session"), "it says so: {}", outcome.err());
        }
    }
    let mut fresh = door.session(&house, 9);
    fresh.expect_alive();
}

/// Whether what the upstream has sent arrives.
fn came_soon(session: &Held) -> bool {
    let all = || (session.client.down.bytes() >= session.sent).then_some(());
    wait_for(Duration::from_millis(500), all).is_some()
}
