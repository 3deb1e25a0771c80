//! A keeper dies: its worker continues, and starts another one.

use std::time::Duration;

use super::{KeeperProcess, OsSignal, harness::send_signal, is_running, status_field, wait_until_gone};

/// A worker whose keeper was just killed, with two stored descriptors.
fn orphaned(role: &str) -> KeeperProcess {
    let mut keeper = KeeperProcess::start(role);
    assert_eq!(keeper.ask("store 1 one"), "stored");
    assert_eq!(keeper.ask("store 2 two"), "stored");
    keeper.signal(OsSignal::KILL);
    keeper.wait();
    keeper
}

#[test]
fn worker_whose_keeper_is_killed_raises_another_that_has_everything() {
    let mut keeper = orphaned("plain");
    let worker = keeper.worker;
    let new_keeper = keeper.new_keeper();
    assert!(keeper.ask("ask ann").contains("ann"));
    assert_eq!(keeper.ask("store 3 three"), "stored");
    keeper.kill_worker();
    assert_ne!(keeper.next_worker(), worker);
    assert!(is_running(new_keeper) && !is_running(worker));
    assert_eq!(keeper.ask("kept"), "1=one 2=two 3=three");
    let status = keeper.ask("status");
    assert_eq!(status_field(&status, "NoNewPrivs"), "1");
}

#[test]
fn keeper_and_worker_killed_in_turn_lose_nothing() {
    let mut keeper = orphaned("plain");
    let mut new_keeper = keeper.new_keeper();
    for _ in 0..4 {
        // It has taken over once it answers.
        assert!(keeper.ask("ask ann").contains("ann"));
        keeper.kill_worker();
        keeper.next_worker();
        assert_eq!(keeper.ask("kept"), "1=one 2=two");
        send_signal(new_keeper, OsSignal::KILL);
        new_keeper = keeper.new_keeper();
    }
    // One that is only being started cannot be counted: until the kernel has set it up it has no environment.
    assert!(keeper.ask("ask ann").contains("ann"));
    assert_eq!(keeper.running().len(), 2);
}

#[test]
fn worker_killed_as_soon_as_it_has_raised_a_keeper_is_replaced_by_it() {
    for _ in 0..20 {
        let mut keeper = orphaned("plain");
        keeper.new_keeper();
        keeper.kill_worker();
        keeper.next_worker();
        assert_eq!(keeper.ask("kept"), "1=one 2=two");
    }
}

#[test]
fn what_is_stored_while_there_is_no_keeper_is_kept_by_the_next() {
    let mut keeper = KeeperProcess::start("plain");
    for round in 0..5 {
        keeper.order(&format!("store {round} x"));
        match round {
            0 => keeper.signal(OsSignal::KILL),
            _ => send_signal(keeper.new_keeper(), OsSignal::KILL),
        }
        assert_eq!(keeper.hear(), "stored");
        assert!(keeper.ask("ask ann").contains("ann"));
    }
    keeper.kill_worker();
    keeper.next_worker();
    assert_eq!(keeper.ask("kept"), "0=x 1=x 2=x 3=x 4=x");
}

#[test]
fn request_under_way_when_the_keeper_dies_is_answered_by_the_next() {
    let mut keeper = KeeperProcess::start("plain");
    keeper.signal(OsSignal::STOP);
    keeper.order("ask ann");
    std::thread::sleep(Duration::from_millis(50));
    keeper.signal(OsSignal::KILL);
    keeper.wait();
    assert!(keeper.hear().contains("ann"));
}

#[test]
fn sigterm_to_a_raised_keeper_ends_everything() {
    let keeper = orphaned("plain");
    let new_keeper = keeper.new_keeper();
    assert!(keeper.ask("ask ann").contains("ann"));
    send_signal(new_keeper, OsSignal::TERM);
    assert_eq!(keeper.hear(), "stopping Some(End)");
    wait_until_gone(keeper.worker);
    wait_until_gone(new_keeper);
    assert!(keeper.running().is_empty());
}

#[test]
fn sigterm_to_a_keeper_that_is_only_being_raised_is_not_lost() {
    for _ in 0..10 {
        let keeper = orphaned("plain");
        let new_keeper = keeper.new_keeper();
        send_signal(new_keeper, OsSignal::TERM);
        assert_eq!(keeper.hear(), "stopping Some(End)");
        wait_until_gone(keeper.worker);
        wait_until_gone(new_keeper);
        assert!(keeper.running().is_empty());
    }
}

#[test]
fn sighup_to_a_raised_keeper_replaces_the_worker() {
    let mut keeper = orphaned("plain");
    let new_keeper = keeper.new_keeper();
    assert!(keeper.ask("ask ann").contains("ann"));
    send_signal(new_keeper, OsSignal::HUP);
    assert_eq!(keeper.hear(), "stopping Some(HandOver)");
    keeper.next_worker();
    assert_eq!(keeper.ask("kept"), "1=one 2=two");
    assert!(is_running(new_keeper));
}

#[test]
fn hung_worker_of_a_raised_keeper_is_killed_and_replaced() {
    let mut keeper = orphaned("plain");
    let before = keeper.worker;
    assert!(keeper.ask("ask ann").contains("ann"));
    send_signal(before, OsSignal::STOP);
    keeper.next_worker();
    assert!(!is_running(before));
    assert_eq!(keeper.ask("kept"), "1=one 2=two");
}

#[test]
fn keeper_killed_while_its_worker_hands_over_is_replaced_before_the_worker_ends() {
    for _ in 0..3 {
        let mut keeper = KeeperProcess::start("slow");
        assert_eq!(keeper.ask("store 1 one"), "stored");
        keeper.signal(OsSignal::HUP);
        assert_eq!(keeper.hear(), "stopping Some(HandOver)");
        keeper.signal(OsSignal::KILL);
        keeper.next_worker();
        assert_eq!(keeper.ask("kept"), "1=one");
        assert!(keeper.ask("ask ann").contains("ann"));
        keeper.kill_worker();
        keeper.next_worker();
        assert_eq!(keeper.ask("kept"), "1=one");
    }
}

#[test]
fn sidecar_outlives_its_keeper_and_ends_with_the_next() {
    let mut keeper = KeeperProcess::start("sidecar");
    let sidecar = keeper.children().into_iter().find(|&pid| pid != keeper.worker).unwrap();
    keeper.signal(OsSignal::KILL);
    keeper.wait();
    let new_keeper = keeper.new_keeper();
    assert!(keeper.ask("ask ann").contains("ann"));
    keeper.kill_worker();
    keeper.next_worker();
    assert!(is_running(sidecar));
    send_signal(new_keeper, OsSignal::TERM);
    wait_until_gone(new_keeper);
    if !rustix::process::geteuid().is_root() {
        wait_until_gone(sidecar);
    }
}

#[test]
fn sockets_of_both_kinds_are_the_same_for_every_worker_of_every_keeper() {
    let mut keeper = KeeperProcess::start("plain");
    let sockets = keeper.ask("listeners");
    assert!(
        sockets.starts_with("udp 127.0.0.1:") && sockets.contains(", tcp 127.0.0.1:"),
        "{sockets}"
    );
    keeper.kill_worker();
    keeper.next_worker();
    assert_eq!(keeper.ask("listeners"), sockets);
    keeper.signal(OsSignal::HUP);
    keeper.next_worker();
    assert_eq!(keeper.ask("listeners"), sockets);
    keeper.signal(OsSignal::KILL);
    keeper.wait();
    assert!(keeper.ask("ask ann").contains("ann"));
    keeper.kill_worker();
    keeper.next_worker();
    assert_eq!(keeper.ask("listeners"), sockets);
}
