//! The stand-in for a service manager, held against the real one: both pass the same tests.

use super::service::{Service, program};
use crate::support::manager::{KillMode, Kind, Unit};
use crate::support::process::pid_of;
use crate::support::{measured_time, now, wait_for};
use rustix::process::{Signal, kill_process};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

crate::support::manager::under_both_managers! {
    a_restart_keeps_what_is_stored_and_a_stop_lets_it_go,
    a_dead_main_process_takes_the_others_with_it_and_its_store_is_given_to_the_next,
    what_finds_no_room_is_ignored_without_a_word,
    a_store_of_two_thousand_is_given_to_a_process_that_may_open_twice_as_many,
    an_open_file_is_stored_once_and_removed_by_name,
    what_hangs_up_is_let_go_unless_it_is_not_polled,
    only_the_main_process_is_listened_to,
    a_silent_process_is_killed_by_the_watchdog,
    a_process_that_does_not_stop_is_killed,
    the_rest_of_a_mixed_unit_is_killed_after_its_main_process,
    a_reload_is_a_signal,
    a_process_that_ends_before_it_is_ready_has_not_started,
}

fn a_restart_keeps_what_is_stored_and_a_stop_lets_it_go(kind: Kind) {
    let Some(service) = Service::start(kind, |unit| unit.store_max = 3) else {
        return;
    };
    let first = service.manager.main_pid();
    assert_eq!(service.ask("store a b c"), "stored");
    assert_eq!(service.manager.stored(), 3);
    service.manager.restart().expect("restarts");
    assert_ne!(service.manager.main_pid(), first);
    assert_eq!(service.ask("inherited"), "a=a b=b c=c");
    assert_eq!(service.manager.status(), "inherited 3");
    service.manager.restart().expect("restarts");
    assert_eq!(service.ask("inherited"), "a=a b=b c=c", "still stored");
    assert_eq!(service.manager.restarts(), 0);
    service.manager.stop().expect("stops");
    assert_eq!(service.manager.main_pid(), None);
    service.manager.start().expect("starts");
    assert_eq!(service.ask("inherited"), "");
}

fn a_dead_main_process_takes_the_others_with_it_and_its_store_is_given_to_the_next(kind: Kind) {
    let settings = |unit: &mut Unit| {
        unit.store_max = 1;
        // Otherwise this child, which ignores SIGTERM, would hold up the restart for the whole of TimeoutStopSec.
        unit.kill_mode = KillMode::Mixed;
    };
    let Some(service) = Service::start(kind, settings) else {
        return;
    };
    service.ask("store a");
    let child = service.spawned();
    service.kill_main();
    assert_eq!(service.ask("inherited"), "a=a");
    assert_eq!(service.manager.restarts(), 1);
    assert!(!is_alive(child), "the child is gone");
}

fn what_finds_no_room_is_ignored_without_a_word(kind: Kind) {
    for most in [0, 2] {
        let Some(service) = Service::start(kind, |unit| unit.store_max = most) else {
            return;
        };
        assert_eq!(service.ask("store a b c d"), "stored");
        assert_eq!(service.manager.stored(), most);
    }
}

fn a_store_of_two_thousand_is_given_to_a_process_that_may_open_twice_as_many(kind: Kind) {
    let settings = |unit: &mut Unit| {
        unit.store_max = 2048;
        unit.limit_nofile = Some(4096);
    };
    let Some(service) = Service::start(kind, settings) else {
        return;
    };
    service.ask("store-many 2048");
    assert_eq!(service.manager.stored(), 2048);
    let before = now();
    service.manager.restart().expect("restarts");
    measured_time("a restart with 2048 descriptors", before.elapsed());
    assert_eq!(service.manager.status(), "inherited 2048");
    assert_eq!(service.ask("inherited").split(' ').count(), 2048);
}

fn an_open_file_is_stored_once_and_removed_by_name(kind: Kind) {
    let Some(service) = Service::start(kind, |unit| unit.store_max = 9) else {
        return;
    };
    assert_eq!(service.ask("twice a"), "stored");
    assert_eq!(service.manager.stored(), 1);
    service.ask("store b b c");
    assert_eq!(service.manager.stored(), 4);
    service.ask("remove b");
    assert_eq!(service.manager.stored(), 2);
    service.manager.restart().expect("restarts");
    assert_eq!(service.ask("inherited"), "a=a c=c");
}

fn what_hangs_up_is_let_go_unless_it_is_not_polled(kind: Kind) {
    let Some(service) = Service::start(kind, |unit| unit.store_max = 9) else {
        return;
    };
    service.ask("store-hung-up-unpolled a");
    assert_eq!(service.manager.stored(), 1);
    service.ask("store-hung-up b");
    assert!(wait_for(LIMIT, || (service.manager.stored() == 1).then_some(())).is_some());
    service.manager.restart().expect("restarts");
    assert_eq!(service.ask("inherited"), "a=");
}

fn only_the_main_process_is_listened_to(kind: Kind) {
    let Some(service) = Service::start(kind, |unit| unit.store_max = 9) else {
        return;
    };
    assert_eq!(service.ask("child-stores a"), "stored", "a barrier is for everybody");
    assert_eq!(service.manager.stored(), 0);
}

fn a_silent_process_is_killed_by_the_watchdog(kind: Kind) {
    let settings = |unit: &mut Unit| {
        unit.store_max = 1;
        unit.watchdog = Some(Duration::from_millis(600));
    };
    let Some(service) = Service::start(kind, settings) else {
        return;
    };
    service.ask("store a");
    std::thread::sleep(Duration::from_millis(900));
    assert_eq!(service.manager.restarts(), 0, "it is not silent");
    let first = service.manager.main_pid().expect("runs");
    kill_process(pid_of(first), Signal::STOP).expect("a process of our own");
    assert!(wait_for(LIMIT, || (service.manager.restarts() == 1).then_some(())).is_some());
    assert_eq!(service.ask("inherited"), "a=a");
    assert!(!is_alive(first));
}

fn a_process_that_does_not_stop_is_killed(kind: Kind) {
    let settings = |unit: &mut Unit| {
        unit.store_max = 1;
        unit.timeout_stop = Duration::from_millis(500);
    };
    let Some(service) = Service::start(kind, settings) else {
        return;
    };
    service.ask("store a");
    service.ask("deaf");
    let first = service.manager.main_pid().expect("runs");
    let before = now();
    service.manager.restart().expect("restarts");
    assert!(before.elapsed() < Duration::from_secs(10));
    assert_eq!(service.ask("inherited"), "a=a");
    assert!(!is_alive(first));
}

fn the_rest_of_a_mixed_unit_is_killed_after_its_main_process(kind: Kind) {
    let Some(service) = Service::start(kind, |unit| unit.kill_mode = KillMode::Mixed) else {
        return;
    };
    let child = service.spawned();
    let before = now();
    service.manager.stop().expect("stops");
    assert!(!is_alive(child), "though it ignores SIGTERM");
    assert!(before.elapsed() < Duration::from_secs(10), "nobody waits for it");
}

fn a_reload_is_a_signal(kind: Kind) {
    let Some(service) = Service::start(kind, |_| ()) else {
        return;
    };
    let first = service.manager.main_pid();
    service.manager.reload().expect("a running service");
    assert!(wait_for(LIMIT, || service.manager.log().contains("reloading").then_some(())).is_some());
    assert_eq!(service.manager.main_pid(), first);
}

fn a_process_that_ends_before_it_is_ready_has_not_started(kind: Kind) {
    let unit = Unit {
        restart_after: Duration::from_secs(1000),
        ..Unit::of(["/bin/sh", "-c", "exit 3"].map(Into::into).into())
    };
    let Some(manager) = kind.manage("a failing start", unit) else {
        return;
    };
    assert!(manager.start().is_err());
    assert_eq!(manager.main_pid(), None);
    manager.stop().expect("it is not started again");
}

/// Not gone, and not dead and yet to be waited for.
fn is_alive(pid: u32) -> bool {
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline"));
    command_line.is_ok_and(|words| !words.is_empty())
}

/// The program of the units here: does nothing unless a manager has started it.
#[test]
fn service_program() {
    program();
}
