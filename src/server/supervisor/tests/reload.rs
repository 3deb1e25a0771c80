//! SIGHUP: the keeper becomes the program on disk, and the worker is replaced.

use std::{fs, path::Path, time::Duration};

use super::{KeeperProcess, OsSignal, harness::send_signal, is_running, status_field, wait_until_gone};

#[test]
fn sighup_replaces_the_worker_after_it_has_handed_over_by_a_configuration_read_anew() {
    let mut keeper = KeeperProcess::start("plain");
    let address = keeper.socket.peer_addr().unwrap();
    assert_eq!(keeper.ask("store 1 one"), "stored");
    for round in 0..7 {
        let before = keeper.worker;
        keeper.configure(Some(&format!("round {round}")));
        keeper.signal(OsSignal::HUP);
        assert_eq!(keeper.hear(), "stopping Some(HandOver)");
        assert_ne!(keeper.next_worker(), before);
        wait_until_gone(before);
        assert_eq!(keeper.configuration, format!("round {round}"));
        assert_eq!(keeper.ask("kept"), "1=one");
        // The same process, the same sockets.
        assert_eq!(keeper.children(), [keeper.worker]);
        assert_eq!(keeper.socket.peer_addr().unwrap(), address);
    }
    let status = keeper.ask("status");
    assert_eq!(status_field(&status, "SigBlk"), "0".repeat(16));
    keeper.signal(OsSignal::TERM);
    assert_eq!(keeper.wait().code(), Some(0));
}

#[test]
fn worker_that_does_not_hand_over_is_killed_and_replaced() {
    let mut keeper = KeeperProcess::start("deaf impatient");
    let before = keeper.worker;
    assert_eq!(keeper.ask("store 1 one"), "stored");
    keeper.signal(OsSignal::HUP);
    assert_ne!(keeper.next_worker(), before);
    assert!(!is_running(before));
    assert_eq!(keeper.ask("kept"), "1=one");
}

#[test]
fn worker_that_dies_in_the_hand_over_is_replaced_at_once() {
    let mut keeper = KeeperProcess::start("plain");
    assert_eq!(keeper.ask("store 1 one"), "stored");
    for delay in 0..10 {
        keeper.signal(OsSignal::HUP);
        assert_eq!(keeper.hear(), "stopping Some(HandOver)");
        std::thread::sleep(Duration::from_millis(delay));
        let before = keeper.worker;
        keeper.kill_worker();
        wait_until_gone(before);
        // It may have been restarted before it was killed.
        while keeper.next_worker() == before {}
        assert_eq!(keeper.ask("kept"), "1=one");
    }
}

#[test]
fn configuration_that_cannot_be_read_leaves_worker_and_settings_as_they_are() {
    let mut keeper = KeeperProcess::start("plain");
    keeper.configure(None);
    keeper.signal(OsSignal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    assert!(keeper.ask("ask ann").contains("ann"));
    let before = keeper.worker;
    keeper.kill_worker();
    assert_ne!(keeper.next_worker(), before);
    assert_eq!(keeper.configuration, "first");
}

#[test]
fn reload_takes_the_program_that_is_on_disk_by_then_for_keeper_and_worker() {
    let mut keeper = KeeperProcess::start("plain");
    let running = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).unwrap();
    keeper.install(&std::env::current_exe().unwrap());
    keeper.signal(OsSignal::HUP);
    keeper.next_worker();
    let on_disk = fs::metadata(keeper.folder.path().join("bowline")).unwrap();
    for pid in [keeper.child.id(), keeper.worker] {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(running(pid).ino(), on_disk.ino());
    }
}

#[test]
fn program_that_cannot_be_used_or_is_gone_is_done_without() {
    let mut keeper = KeeperProcess::start("plain");
    assert_eq!(keeper.ask("store 1 one"), "stored");
    let text = keeper.folder.path().join("text");
    fs::write(&text, "no program").unwrap();
    for (round, program) in [Some(Path::new("/bin/false")), Some(&text), None]
        .into_iter()
        .enumerate()
    {
        match program {
            Some(program) => keeper.install(program),
            None => fs::remove_file(keeper.folder.path().join("bowline")).unwrap(),
        }
        // The next worker does not run this program either.
        keeper.kill_worker();
        keeper.next_worker();
        keeper.configure(Some(&format!("round {round}")));
        keeper.signal(OsSignal::HUP);
        keeper.next_worker();
        assert_eq!(keeper.configuration, format!("round {round}"));
        assert_eq!(keeper.ask("kept"), "1=one");
    }
}

#[test]
fn sidecar_goes_on_untouched_over_reloads() {
    let mut keeper = KeeperProcess::start("sidecar");
    let sidecar = |keeper: &KeeperProcess| keeper.children().into_iter().find(|&pid| pid != keeper.worker);
    let first = sidecar(&keeper).unwrap();
    for _ in 0..2 {
        let before = keeper.worker;
        keeper.signal(OsSignal::HUP);
        keeper.next_worker();
        wait_until_gone(before);
        assert_eq!(sidecar(&keeper), Some(first));
    }
    send_signal(first, OsSignal::KILL);
    keeper.kill_worker();
    keeper.next_worker();
    let second = sidecar(&keeper).unwrap();
    keeper.signal(OsSignal::TERM);
    assert_eq!(keeper.wait().code(), Some(0));
    assert!(!is_running(second) && !is_running(first));
}

#[test]
fn reloads_and_kills_in_a_row_lose_nothing_of_thousands() {
    let mut keeper = KeeperProcess::start("plain");
    assert_eq!(keeper.ask("store many *2500"), "stored");
    for _ in 0..3 {
        keeper.kill_worker();
        keeper.next_worker();
        assert_eq!(keeper.ask("kept"), "many=many x2500");
        keeper.signal(OsSignal::HUP);
        keeper.next_worker();
        assert_eq!(keeper.ask("kept"), "many=many x2500");
    }
}
