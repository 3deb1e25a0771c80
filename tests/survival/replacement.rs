//! SIGHUP: under load, with a broken configuration, with another program on disk.

use crate::held::{Door, Held};
use crate::session::Session;
use crate::support::serve::ServeOptions;
use crate::support::server_half::signal;
use crate::support::{BOWLINE, Scratch, heavy, measured, now, wait_for};
use crate::upstream::{SCRIPTS, Upstream, Volume};
use crate::{LIMIT, OpenHouse};
use rustix::process::Signal;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn ten_sighups_under_load_lose_nothing() {
    let _turn = heavy();
    let upstream = Upstream::start();
    let house = OpenHouse::before(upstream.address());
    // Some eight seconds of bursts and pauses.
    let volume = Volume {
        bytes: 24_000_000,
        largest_piece: 120_000,
        longest_pause: Duration::from_millis(80),
    };
    let numbered = (1..).zip(SCRIPTS);
    let sessions: Vec<_> = numbered
        .map(|(number, script)| Session::start(&house, &upstream, number, script, volume))
        .collect();
    let half = house.serve.half();
    let start = now();
    for _ in 0..10 {
        sleep(Duration::from_millis(300));
        let keeper = half.keeper();
        house.serve.reload();
        assert_eq!(half.keeper(), keeper, "the keeper stays who it is");
    }
    measured("ten SIGHUPs", format_args!("{:?}", start.elapsed()));
    for session in sessions {
        session.finish("ten SIGHUPs", &house);
    }
    assert_eq!(house.serve.logged("worker died"), 0, "{}", house.logs());
}

#[test]
fn a_broken_configuration_is_said_and_changes_nothing_and_a_mended_one_counts() {
    let scratch = Scratch::new();
    let file = scratch.join("bowline.toml");
    fs::write(&file, "[serve]\nmax-sessions = 10\n").expect("the scratch folder");
    let door = Door::open();
    let house = OpenHouse::with(
        door.address(),
        ServeOptions::here().argument("--config").argument(&file),
    );
    let mut session = door.session(&house, 1);
    session.expect_alive();

    fs::write(&file, "[serve]\nmax-sessions = 'many'\n").expect("the scratch folder");
    let half = house.serve.half();
    let (keeper, lines) = (half.keeper(), house.serve.log().lines().count());
    signal(keeper, Signal::HUP);
    let said = || {
        let log = house.serve.log();
        let said = log
            .lines()
            .skip(lines)
            .any(|line| line.contains("bowline.toml, line 2"));
        said.then_some(())
    };
    assert!(wait_for(LIMIT, said).is_some(), "the error is logged: {}", house.logs());
    sleep(Duration::from_millis(500));
    assert_eq!(half.keeper(), keeper, "the keeper goes on");
    session.expect_alive();
    let mut another = door.session(&house, 2);
    another.expect_alive();

    fs::write(&file, "[serve]\nmax-sessions = 2\n").expect("the scratch folder");
    house.serve.reload();
    for session in [&mut session, &mut another] {
        session.expect_alive();
    }
    let third = crate::support::process::run(&mut house.ssh.proxy(), LIMIT);
    assert_eq!(
        third.code,
        Some(77),
        "two sessions are enough now: {}\n{}",
        third.err(),
        house.logs()
    );
}

#[test]
fn another_program_on_disk_is_the_one_that_runs_after_sighup() {
    let scratch = Scratch::new();
    // As programs are: the worker's user may read it.
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).expect("a folder of our own");
    let program = copy(&scratch, "bowline");
    let door = Door::open();
    let house = OpenHouse::with(door.address(), ServeOptions::here().program(&program));
    let mut session = door.session(&house, 1);
    session.expect_alive();
    let half = house.serve.half();
    for round in 0..2 {
        let next = copy(&scratch, "next");
        let inode = inode(&next);
        fs::rename(&next, &program).expect("the scratch folder");
        house.serve.reload();
        for who in ["keeper", "worker"] {
            let runs_it = || {
                let pid = if who == "keeper" { half.keeper() } else { half.worker() };
                (runs(pid) == inode).then_some(())
            };
            let found = wait_for(LIMIT, runs_it);
            assert!(
                found.is_some(),
                "the {who} runs another program, round {round}\n{}",
                house.logs()
            );
        }
        session.expect_alive();
    }
    sessions_open(&door, &house);
}

fn sessions_open(door: &Door, house: &OpenHouse) {
    let mut fresh: Vec<Held> = (2..5).map(|n| door.session(house, n)).collect();
    fresh.iter_mut().for_each(Held::expect_alive);
}

/// A program of its own inode.
fn copy(scratch: &Scratch, name: &str) -> std::path::PathBuf {
    let path = scratch.join(name);
    fs::copy(BOWLINE, &path).expect("room in the scratch folder");
    path
}

/// The inode of the program that a process runs.
fn runs(pid: u32) -> u64 {
    fs::metadata(format!("/proc/{pid}/exe")).map_or(0, |metadata| metadata.ino())
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("just copied").ino()
}
