//! Tests with real processes. The worker reports to the test, and takes orders from it, on the listening socket that
//! it inherited.

mod harness;
mod orphaned;
mod reload;
mod roles;
mod stored;

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use rustix::process::Signal as OsSignal;

use self::harness::{KeeperProcess, is_running, send_signal, status_field, wait_until_gone};
use super::*;
use crate::server::{
    handover::HandoverError,
    handover::MAX_WORKER_SETTINGS,
    ipc::Response,
    worker::inheritance::{InheritanceError, WorkerInheritance},
};

#[test]
fn killed_worker_is_replaced_with_the_same_sockets_and_settings() {
    let mut keeper = KeeperProcess::start("plain");
    let address = keeper.socket.peer_addr().unwrap();
    for _ in 0..3 {
        let before = keeper.worker;
        keeper.kill_worker();
        assert_ne!(keeper.next_worker(), before);
        assert_eq!(keeper.socket.peer_addr().unwrap(), address);
    }
}

#[test]
fn worker_that_ends_by_itself_is_replaced() {
    let mut keeper = KeeperProcess::start("plain");
    for code in [0, 1, 70, 75, 101] {
        keeper.order(&format!("exit {code}"));
        keeper.next_worker();
    }
}

#[test]
fn worker_that_says_it_cannot_work_ends_the_keeper() {
    for code in FINAL_EXIT_CODES {
        let mut keeper = KeeperProcess::start("plain");
        keeper.order(&format!("exit {code}"));
        assert_eq!(keeper.wait().code(), Some(code));
    }
}

#[test]
fn worker_that_does_not_stop_is_killed_after_the_grace_period() {
    let mut keeper = KeeperProcess::start("deaf impatient");
    keeper.signal(OsSignal::TERM);
    assert_eq!(keeper.wait().code(), Some(0));
    assert!(!is_running(keeper.worker));
}

#[test]
fn second_sigterm_does_not_wait_for_the_grace_period() {
    let mut keeper = KeeperProcess::start("deaf");
    let start = clock::now();
    keeper.signal(OsSignal::TERM);
    // Two pending signals of the same kind count as one; the worker's answer shows that the first was handled.
    while clock::now() - start < Duration::from_millis(100) {
        keeper.ask("stdin");
    }
    keeper.signal(OsSignal::TERM);
    assert_eq!(keeper.wait().code(), Some(0));
    assert!(clock::now() - start < Duration::from_secs(20));
    assert!(!is_running(keeper.worker));
}

#[test]
fn requests_are_answered_by_the_keeper() {
    let keeper = KeeperProcess::start("plain");
    let answer = keeper.ask("ask ann");
    assert!(answer.contains("ann 2001:db8::7 22"), "{answer}");
    assert_eq!(keeper.ask("ask unasked"), "Unavailable");
}

#[test]
fn file_that_the_keeper_opens_is_read_by_the_worker() {
    let keeper = KeeperProcess::start("plain");
    assert_eq!(keeper.ask("open"), format!("by {}", keeper.child.id()));
}

#[test]
fn worker_that_speaks_another_language_is_replaced() {
    let mut keeper = KeeperProcess::start("plain");
    let before = keeper.worker;
    keeper.order("babble");
    assert_ne!(keeper.next_worker(), before);
}

#[test]
fn sidecar_is_kept_running_through_workers_and_stopped_at_the_end() {
    let mut keeper = KeeperProcess::start("sidecar");
    let sidecar = |keeper: &KeeperProcess| keeper.children().into_iter().find(|&pid| pid != keeper.worker);
    let first = sidecar(&keeper).unwrap();
    keeper.kill_worker();
    keeper.next_worker();
    assert_eq!(sidecar(&keeper), Some(first));
    send_signal(first, OsSignal::KILL);
    wait_until_gone(first);
    keeper.signal(OsSignal::HUP);
    keeper.next_worker();
    let second = sidecar(&keeper).unwrap();
    keeper.signal(OsSignal::TERM);
    assert_eq!(keeper.wait().code(), Some(0));
    assert!(!is_running(second) && !is_running(keeper.worker));
}

#[test]
fn worker_has_no_privileges_left_and_a_clean_slate() {
    let keeper = KeeperProcess::start("plain");
    assert_eq!(keeper.ask("stdin"), "/dev/null");
    let status = keeper.ask("status");
    assert_eq!(status_field(&status, "NoNewPrivs"), "1");
    assert_eq!(status_field(&status, "SigBlk"), "0".repeat(16));
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for ids in ["Uid", "Gid"] {
        let ids = status_field(&status, ids);
        assert!(ids.split_whitespace().all(|id| id != "0"), "{ids}");
    }
    assert_eq!(status_field(&status, "Groups"), "");
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_field(&status, capabilities), "0".repeat(16), "{capabilities}");
    }
}

#[test]
fn process_that_no_keeper_started_is_told_so() {
    if std::env::var_os(roles::ROLE).is_some() {
        return;
    }
    assert!(matches!(
        WorkerInheritance::take(),
        Err(InheritanceError::NotStartedByKeeper)
    ));
    assert!(matches!(Handover::take(), Err(HandoverError::NotGiven)));
}

#[test]
fn plan_that_cannot_be_handed_over_is_refused() {
    let plan = |listeners: usize, worker_settings: usize| WorkerPlan {
        program: "/nonexistent".into(),
        args: Vec::new(),
        keeper_args: Vec::new(),
        reload_args: None,
        listeners: (0..listeners)
            .map(|_| Listener::Udp(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()))
            .collect(),
        worker_settings: vec![0; worker_settings],
        handler_settings: Vec::new(),
        store_limit: 0,
        user: None,
        sidecar: None,
        control_listener: None,
        grace: Duration::ZERO,
        manager: ServiceManager::default(),
        client_address_name: String::new(),
        addresses: None,
        stops_when_idle: false,
    };
    let start = |plan| {
        Keeper::start(plan, Box::new(|_| Response::Unavailable.into()))
            .err()
            .unwrap()
    };
    assert!(matches!(
        start(plan(MAX_LISTENERS + 1, 0)),
        KeeperError::TooManyListeners { given: 65 }
    ));
    assert!(matches!(
        start(plan(0, MAX_WORKER_SETTINGS + 1)),
        KeeperError::WorkerSettingsTooLarge { .. }
    ));
}

#[test]
fn sigterm_and_sigint_end_the_sessions_then_the_worker_then_the_keeper() {
    for signal in [OsSignal::TERM, OsSignal::INT] {
        let mut keeper = KeeperProcess::start("plain");
        keeper.signal(signal);
        assert_eq!(keeper.hear(), "stopping Some(End)");
        assert_eq!(keeper.wait().code(), Some(0));
        assert!(!is_running(keeper.worker));
    }
}

#[test]
fn worker_that_hangs_is_killed_and_replaced() {
    let mut keeper = KeeperProcess::start("plain");
    let before = keeper.worker;
    // Before its first message it has more time.
    keeper.ask("ready");
    send_signal(before, OsSignal::STOP);
    let start = clock::now();
    keeper.next_worker();
    let took = clock::now() - start;
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(10)).contains(&took),
        "{took:?}"
    );
    assert!(!is_running(before));
}

#[test]
fn keeper_that_was_stopped_itself_does_not_blame_its_worker() {
    let keeper = KeeperProcess::start("plain");
    keeper.signal(OsSignal::STOP);
    std::thread::sleep(Duration::from_secs(6));
    keeper.signal(OsSignal::CONT);
    assert!(keeper.ask("ask ann").contains("ann"));
    assert!(is_running(keeper.worker));
}
