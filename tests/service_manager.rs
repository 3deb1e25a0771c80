//! The server half as packaged, under a service manager: what it does to the unit costs no session.
//!
//! Each test runs under the stand-in, and under systemd where one can be had.

#[path = "service_manager/memory_limit.rs"]
mod memory_limit;
#[path = "service_manager/unit.rs"]
mod packaged;
mod scenarios;
mod support;

use packaged::Packaged;
use rustix::process::Signal;
use scenarios::ticker::Ticker;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command};
use std::time::{Duration, Instant};
use support::daemon::Home;
use support::data::{MIB, hash_bytes, random_bytes};
use support::manager::{Kind, Unit, UnitChange};
use support::place::{Place, has_open, socket_at};
use support::process::{Running, raise_descriptor_limit, read_within, run, run_with_input};
use support::ssh::HOST;
use support::{BOWLINE, heavy, measured, measured_time, now, wait_for};

/// A client comes back within a second or so; on a busy machine a few.
const LIMIT: Duration = Duration::from_secs(20);

/// Room in the store for what is not a session's.
const BESIDE: usize = 16;

support::manager::under_both_managers! {
    a_restart_keeps_sessions,
    a_keeper_that_is_killed_is_started_again_with_its_sessions,
    a_reload_keeps_sessions_and_the_keeper,
    bytes_flow_through_restarts_both_ways,
    a_changed_configuration_counts_after_a_restart_which_keeps_sessions,
    a_broken_configuration_costs_no_session,
    a_store_that_is_too_small_lowers_the_limit,
    a_stop_ends_sessions_and_the_clients_say_why,
    the_end_of_the_machine_ends_sessions_and_the_clients_say_why,
    a_stop_that_a_start_overtakes_keeps_sessions,
    a_restart_that_a_stop_overtakes_ends_sessions,
    a_signal_without_an_order_keeps_sessions,
    a_stop_of_a_unit_that_preserves_its_store_keeps_sessions,
    a_store_that_shrinks_is_noticed_and_what_fits_is_kept,
    a_store_that_is_emptied_with_the_units_file_is_filled_again_with_it,
    a_store_with_room_for_no_session_stops_nobody_from_being_served,
    a_port_for_tls_stays_the_same_socket,
}

fn a_restart_keeps_sessions(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let mut ticker = Ticker::start(&packaged.rig);
    for _ in 0..3 {
        let keeper = packaged.manager.main_pid();
        let before = now();
        packaged.manager.restart().expect("restarts");
        assert_ne!(packaged.manager.main_pid(), keeper);
        ticker.next_line_after(now(), LIMIT);
        measured_time("silence over a restart", ticker.longest_silence_since(before));
    }
    ticker.finish_in_order();
    assert_eq!(
        packaged.manager.restarts(),
        0,
        "none by itself: {}",
        packaged.manager.log()
    );
}

fn a_keeper_that_is_killed_is_started_again_with_its_sessions(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let mut ticker = Ticker::start(&packaged.rig);
    for killed in 1..=3 {
        let before = now();
        packaged.kill_keeper();
        let again = wait_for(LIMIT, || (packaged.manager.restarts() == killed).then_some(()));
        assert!(
            again.is_some(),
            "the manager starts it again: {}",
            packaged.manager.log()
        );
        ticker.next_line_after(now(), LIMIT);
        measured_time("silence over a killed keeper", ticker.longest_silence_since(before));
        std::thread::sleep(Duration::from_secs(1));
    }
    ticker.finish_in_order();
}

fn a_reload_keeps_sessions_and_the_keeper(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let mut ticker = Ticker::start(&packaged.rig);
    let keeper = packaged.manager.main_pid();
    packaged.manager.reload().expect("reloads");
    let again = || packaged.manager.log().matches("event=\"ready\"").count() == 2;
    let next = wait_for(LIMIT, || again().then_some(()));
    assert!(next.is_some(), "another worker: {}", packaged.manager.log());
    ticker.next_line_after(now(), LIMIT);
    assert_eq!(packaged.manager.main_pid(), keeper);
    // What the keeper stores after it has started itself anew is stored as before.
    packaged.manager.restart().expect("restarts");
    ticker.next_line_after(now(), LIMIT);
    ticker.finish_in_order();
}

fn bytes_flow_through_restarts_both_ways(kind: Kind) {
    let _turn = heavy();
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let bytes = random_bytes(17, (96 * MIB) as usize);
    let sent = hash_bytes(&bytes);
    let mut cat = packaged.rig.ssh.ssh(&[HOST, "cat; exit 7"]);
    let transfer = std::thread::spawn(move || run_with_input(&mut cat, bytes, Duration::from_secs(120)));
    let mut disturbed = 0;
    while disturbed < 4 && !transfer.is_finished() {
        std::thread::sleep(Duration::from_millis(700));
        match disturbed % 2 {
            0 => packaged.manager.restart().expect("restarts"),
            _ => packaged.kill_keeper(),
        }
        disturbed += 1;
    }
    let outcome = transfer.join().expect("no panic there").expect_code(7);
    assert_eq!(
        hash_bytes(&outcome.stdout),
        sent,
        "{} bytes came back",
        outcome.stdout.len()
    );
    assert!(packaged.rig.resumes() > 0, "{disturbed} disturbances");
}

fn a_changed_configuration_counts_after_a_restart_which_keeps_sessions(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let mut ticker = Ticker::start(&packaged.rig);
    packaged.rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    packaged.configure("max-sessions = 1\n");
    packaged.manager.restart().expect("restarts");
    ticker.next_line_after(now(), LIMIT);
    assert_is_refused(&packaged);
    packaged.configure("max-sessions = 2\n");
    packaged.manager.reload().expect("reloads");
    let taken = wait_for(LIMIT, || {
        let outcome = packaged.rig.ssh.remote("exit 7", LIMIT);
        (outcome.code == Some(7)).then_some(())
    });
    assert!(
        taken.is_some(),
        "a reload reads the file as well: {}",
        packaged.manager.log()
    );
    ticker.finish_in_order();
}

fn a_broken_configuration_costs_no_session(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let mut ticker = Ticker::start(&packaged.rig);
    packaged.configure("max-sesions = 1\n");
    packaged.manager.reload().expect("reloads");
    std::thread::sleep(Duration::from_millis(500));
    ticker.next_line_after(now(), LIMIT);
    assert!(
        packaged.manager.log().contains("max-sesions"),
        "{}",
        packaged.manager.log()
    );
    assert!(packaged.manager.restart().is_err(), "it cannot start with that");
    std::thread::sleep(Duration::from_secs(2));
    let starts = packaged.manager.restarts();
    assert!(starts < 20, "tried {starts} times in 2 s");
    packaged.configure("");
    ticker.next_line_after(now(), LIMIT);
    ticker.finish_in_order();
}

fn a_port_for_tls_stays_the_same_socket(kind: Kind) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, Place::free_port()));
    let Some(packaged) = Packaged::start(kind, |_, config| *config += &format!("listen-tls = \"{address}\"\n")) else {
        return;
    };
    let socket = socket_at(address).expect("somebody listens");
    let stored = packaged.manager.stored();
    // Its keeper has the very socket that the first one has bound; so has its worker, or it would not serve.
    let serves = |times: usize| {
        let is_ready = || packaged.manager.log().matches("event=\"ready\"").count() >= times;
        let has_it = || packaged.manager.main_pid().is_some_and(|pid| has_open(pid, &socket));
        let found = wait_for(LIMIT, || (is_ready() && has_it()).then_some(()));
        assert!(found.is_some(), "{}", packaged.manager.log());
        assert_eq!(socket_at(address).as_ref(), Some(&socket));
    };
    serves(1);
    packaged.manager.restart().expect("restarts");
    serves(2);
    packaged.kill_keeper();
    serves(3);
    packaged.manager.reload().expect("reloads");
    serves(4);
    assert_eq!(packaged.manager.stored(), stored);
}

/// The limits are the packaged unit's own; only one user has all the sessions here.
#[test]
fn as_many_sessions_as_the_packaged_unit_takes_are_kept() {
    let kind = Kind::systemd_if_possible("as_many_sessions_as_the_packaged_unit_takes_are_kept");
    const SESSIONS: usize = 1000;
    /// Started at once.
    const AT_ONCE: usize = 20;
    /// A thousand handshakes by a thousand processes are seconds of work for all cores, which others may want too.
    const LIMIT: Duration = Duration::from_secs(120);
    let _turn = heavy();
    raise_descriptor_limit();
    let Some(packaged) = Packaged::before_echo(kind, |_, config| {
        *config += &format!("max-sessions-per-key = {}\nauth = \"none\"\n", 2 * SESSIONS);
    }) else {
        return;
    };
    let mut sessions = vec![];
    while sessions.len() < SESSIONS {
        let mut more: Vec<_> = (0..AT_ONCE).map(|_| Echoing::open_idly(&packaged)).collect();
        more.iter_mut()
            .for_each(|session| session.echoes_within(LIMIT, "before"));
        sessions.append(&mut more);
    }
    assert_is_refused(&packaged);
    let stored = packaged.manager.stored();
    assert!((2 * SESSIONS..=2 * SESSIONS + BESIDE).contains(&stored), "{stored}");
    for what in ["a restart", "a crash"] {
        let start = now();
        match what {
            "a restart" => packaged.manager.restart().expect("restarts"),
            _ => packaged.kill_keeper(),
        }
        for (index, session) in sessions.iter_mut().enumerate() {
            let echoed = session.try_echo(LIMIT, what);
            assert!(
                echoed.is_ok(),
                "session {index}, {:?} after {what}: {echoed:?}; {} stored; the service:\n{}",
                start.elapsed(),
                packaged.manager.stored(),
                last_lines(&packaged.manager.log())
            );
        }
        measured_time(
            &format!("until all of {SESSIONS} have answered after {what}"),
            start.elapsed(),
        );
    }
}

fn a_store_that_is_too_small_lowers_the_limit(kind: Kind) {
    const FIT: usize = 3;
    // A process that this one forks at the wrong moment holds what the store has closed, which then looks kept.
    let _turn = heavy();
    let Some(packaged) = Packaged::before_echo(kind, |unit, config| {
        unit.store_max = 2 * FIT + BESIDE + 1;
        *config += "max-sessions = 50\nauth = \"none\"\n";
    }) else {
        return;
    };
    let said = packaged.manager.log();
    assert!(
        said.lines().any(|line| line.contains("WARN") && line.contains("store")),
        "{said}"
    );
    let mut sessions: Vec<_> = (0..FIT).map(|_| Echoing::start(&packaged)).collect();
    sessions.iter_mut().for_each(|session| session.echoes("before"));
    assert_is_refused(&packaged);
    packaged.manager.restart().expect("restarts");
    sessions.iter_mut().for_each(|session| session.echoes("after"));
}

fn a_stop_ends_sessions_and_the_clients_say_why(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let session = Login::start(&packaged);
    let before = now();
    packaged.manager.stop().expect("stops");
    session.ends_with_the_service(&packaged, before, "a stop");
}

fn the_end_of_the_machine_ends_sessions_and_the_clients_say_why(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let session = Login::start(&packaged);
    let before = now();
    packaged.manager.shut_down().expect("ends everything");
    session.ends_with_the_service(&packaged, before, "the end of the machine");
}

fn a_restart_that_a_stop_overtakes_ends_sessions(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let session = Login::start(&packaged);
    let before = now();
    // The worker takes its time, so that one order surely comes before the end that the other asks for.
    packaged.signal_worker(Signal::STOP);
    packaged.manager.restart_and_stop_at_once().expect("stops");
    session.ends_with_the_service(&packaged, before, "a restart that a stop overtook");
}

fn a_stop_that_a_start_overtakes_keeps_sessions(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let mut ticker = Ticker::start(&packaged.rig);
    let keeper = packaged.manager.main_pid();
    packaged.manager.stop_and_start_at_once().expect("starts");
    assert_ne!(packaged.manager.main_pid(), keeper);
    ticker.next_line_after(now(), LIMIT);
    ticker.finish_in_order();
}

fn a_signal_without_an_order_keeps_sessions(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let mut ticker = Ticker::start(&packaged.rig);
    packaged.signal_keeper(Signal::TERM);
    let again = wait_for(LIMIT, || (packaged.manager.restarts() == 1).then_some(()));
    assert!(again.is_some(), "{}", packaged.manager.log());
    ticker.next_line_after(now(), LIMIT);
    ticker.finish_in_order();
}

fn a_stop_of_a_unit_that_preserves_its_store_keeps_sessions(kind: Kind) {
    let test = "a_stop_of_a_unit_that_preserves_its_store_keeps_sessions";
    if kind == Kind::Systemd && systemd_version() < 254 {
        return measured(test, "SKIPPED under systemd: before 254 no store outlives a stop");
    }
    let packaged = Packaged::start(kind, |unit, _| {
        unit.preserves_store = true;
        unit.text += "[Service]\nFileDescriptorStorePreserve=yes\n";
    });
    let Some(packaged) = packaged else { return };
    let mut ticker = Ticker::start(&packaged.rig);
    packaged.manager.stop().expect("stops");
    assert!(packaged.manager.stored() > 2);
    packaged.manager.start().expect("starts");
    ticker.next_line_after(now(), LIMIT);
    ticker.finish_in_order();
}

/// Sessions that have no place end with the next restart, and their clients are told; the others go on.
fn a_store_that_shrinks_is_noticed_and_what_fits_is_kept(kind: Kind) {
    const SESSIONS: usize = 5;
    const FIT: usize = 2;
    let _turn = heavy();
    let Some(packaged) = Packaged::before_echo(kind, |_, config| *config += "auth = \"none\"\n") else {
        return;
    };
    let mut sessions: Vec<_> = (0..SESSIONS).map(|_| Echoing::start(&packaged)).collect();
    let stored = packaged.manager.stored();
    // One is there to be noticed when it goes.
    let given = stored - 1;
    let small = given - 2 * (SESSIONS - FIT);
    let before = now();
    packaged.manager.change_unit(UnitChange::StoreMax(small));
    let noticed = format!("only {small} of {given} descriptors are kept");
    assert_status(&packaged, &noticed);
    measured_time("until a store that shrank is noticed", before.elapsed());
    assert_logged(&packaged, "FileDescriptorStoreMax");
    // The other has process ids of its own, by which status tells who answers.
    if kind == Kind::StandIn {
        let status = run(&mut packaged.status(), LIMIT).expect_code(0).out();
        let shown = format!(
            "stores only {small} of {given} file descriptors for the next start (FileDescriptorStoreMax={small})"
        );
        assert!(status.contains(&shown), "{status}");
    }
    sessions.iter_mut().for_each(|session| session.echoes("meanwhile"));

    packaged.manager.change_unit(UnitChange::Back);
    let again = wait_for(LIMIT, || (packaged.manager.stored() == stored).then_some(()));
    assert!(again.is_some(), "{}", packaged.manager.log());
    packaged.manager.change_unit(UnitChange::StoreMax(small));
    // Not noticed yet: the stop looks as well.
    packaged.manager.restart().expect("restarts");
    let living = sessions
        .iter_mut()
        .map(Echoing::goes_on)
        .filter(|goes_on| *goes_on)
        .count();
    assert_eq!(living, FIT, "{}", packaged.manager.log());
}

/// A service that starts again and again serves nobody; one without a store serves all, until its next restart.
fn a_store_with_room_for_no_session_stops_nobody_from_being_served(kind: Kind) {
    // A process that this one forks at the wrong moment holds what the store has closed, which then looks kept.
    let _turn = heavy();
    let Some(packaged) = Packaged::before_echo(kind, |_, config| *config += "auth = \"none\"\n") else {
        return;
    };
    let mut open = Echoing::start(&packaged);
    packaged.manager.change_unit(UnitChange::StoreMax(2));
    open.echoes("the store is gone");
    for start in 1..=2 {
        packaged.manager.restart().expect("restarts");
        let before = packaged.manager.restarts();
        let said = || packaged.manager.log().matches("has no room for a session").count();
        let is_said = wait_for(LIMIT, || (said() == start).then_some(()));
        assert!(is_said.is_some(), "start {start}: {}", packaged.manager.log());
        let stored = wait_for(LIMIT, || (packaged.manager.stored() == 0).then_some(()));
        assert!(stored.is_some(), "nothing of former sessions stays");
        let mut next = Echoing::start(&packaged);
        next.echoes("served");
        assert_eq!(packaged.manager.restarts(), before, "{}", packaged.manager.log());
    }
    packaged.manager.change_unit(UnitChange::Back);
    packaged.manager.restart().expect("restarts");
    let mut kept = Echoing::start(&packaged);
    packaged.manager.restart().expect("restarts");
    kept.echoes("kept again");
}

fn a_store_that_is_emptied_with_the_units_file_is_filled_again_with_it(kind: Kind) {
    let Some(packaged) = Packaged::start(kind, |_, _| ()) else {
        return;
    };
    let mut ticker = Ticker::start(&packaged.rig);
    let stored = packaged.manager.stored();
    packaged.manager.change_unit(UnitChange::Gone);
    if kind == Kind::Systemd && systemd_version() >= 254 {
        assert_eq!(
            packaged.manager.stored(),
            stored,
            "newer ones keep the store of what runs"
        );
    } else {
        assert_eq!(packaged.manager.stored(), 0);
        assert_logged(&packaged, "has dropped stored descriptors");
    }
    packaged.manager.change_unit(UnitChange::Back);
    let again = wait_for(LIMIT, || (packaged.manager.stored() == stored).then_some(()));
    assert!(again.is_some(), "{}", packaged.manager.log());
    packaged.manager.restart().expect("restarts");
    ticker.next_line_after(now(), LIMIT);
    ticker.finish_in_order();
}

/// Who manages a unit without a socket for questions is not asked in vain for long, and costs no session.
#[test]
fn a_manager_that_cannot_be_asked_leaves_sessions_and_the_log_says_what_that_means() {
    let packaged = Packaged::start(Kind::StandIn, |unit, _| unit.private_socket = false).expect("always possible");
    assert_logged(&packaged, "clients are not told");
    let mut ticker = Ticker::start(&packaged.rig);
    packaged.manager.restart().expect("restarts");
    ticker.next_line_after(now(), LIMIT);
    ticker.finish_in_order();
}

#[test]
fn the_builtin_server_is_a_unit_of_its_own_that_lets_users_processes_be() {
    let home = Home::mine();
    let port = Place::free_port();
    let mut unit = Unit::read(&packaged::file("bowline-sshd.service"));
    let text = |path: PathBuf| path.display().to_string();
    unit.command = vec![BOWLINE.into(), "sshd".into()];
    for (option, value) in [
        ("--listen", format!("127.0.0.1:{port}")),
        ("--state-dir", text(home.path("state"))),
        ("--authorized-keys", text(home.authorized_keys())),
    ] {
        unit.command.extend([option.into(), value.into()]);
    }
    let Some(manager) = Kind::Systemd.manage("bowline-sshd.service", unit) else {
        return;
    };
    manager.start().unwrap_or_else(|e| panic!("{e}\n{}", manager.log()));
    let up = wait_for(LIMIT, || manager.log().contains("ready ").then_some(()));
    assert!(up.is_some(), "{}", manager.log());
    let background = text(home.path("background"));
    let left = format!("nohup sh -c 'sleep 2; touch {background}' >/dev/null 2>&1 & exit 7");
    run(&mut home.ssh(port, "user", false, &[&left]), LIMIT).expect_code(7);
    manager.restart().expect("restarts");
    let done = wait_for(LIMIT, || home.path("background").exists().then_some(()));
    assert!(done.is_some(), "what a user left running went on");
}

/// One session more than the limit. A client asks again until its time is up, as a session may end.
#[track_caller]
fn assert_is_refused(packaged: &Packaged) {
    let mut proxy = packaged.rig.ssh.proxy();
    let refused = run_with_input(proxy.args(["--connect-timeout", "5s"]), vec![], LIMIT).expect_code(77);
    assert!(refused.err().contains("sessions are open"), "{}", refused.err());
}

#[track_caller]
fn assert_logged(packaged: &Packaged, text: &str) {
    let is_there = |line: &str| line.contains("WARN") && line.contains(text);
    let logged = wait_for(LIMIT, || packaged.manager.log().lines().any(is_there).then_some(()));
    assert!(logged.is_some(), "{text}: {}", packaged.manager.log());
}

#[track_caller]
fn assert_status(packaged: &Packaged, text: &str) {
    let said = wait_for(LIMIT, || packaged.manager.status().contains(text).then_some(()));
    let (status, log) = (packaged.manager.status(), packaged.manager.log());
    assert!(said.is_some(), "{text}, not {status}: {log}");
}

fn systemd_version() -> u32 {
    let said = run(std::process::Command::new("systemctl").arg("--version"), LIMIT).out();
    let number = said.split_whitespace().nth(1).unwrap_or_default();
    number
        .chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(0)
}

/// A login that lasts until somebody ends it.
struct Login {
    running: Running,
    _stdin: ChildStdin,
    _stdout: ChildStdout,
}

impl Login {
    fn start(packaged: &Packaged) -> Login {
        let mut ssh = packaged.rig.ssh.ssh(&[HOST, "echo up; sleep 999"]);
        let (running, _stdin, mut stdout) = Running::start_piped(&mut ssh);
        stdout.read_exact(&mut [0; 3]).expect("the session is up");
        let _stdout = stdout;
        Login {
            running,
            _stdin,
            _stdout,
        }
    }

    /// The service has ended and is not started again: nobody is there who could tell the client later.
    #[track_caller]
    fn ends_with_the_service(mut self, packaged: &Packaged, since: Instant, what: &str) {
        let rig = &packaged.rig;
        assert!(
            self.running.ended(LIMIT),
            "the client hears of it: {}\n{}",
            packaged.manager.log(),
            rig.ssh.proxy_log()
        );
        measured_time(&format!("until the client has ended after {what}"), since.elapsed());
        assert_eq!((packaged.manager.main_pid(), packaged.manager.stored()), (None, 0));
        let outcome = self.running.finish(LIMIT).expect_code(255);
        assert!(
            outcome.err().contains("the server half was stopped"),
            "{}",
            outcome.err()
        );
        let alone = wait_for(LIMIT, || (rig.sshd.processes() == 1).then_some(()));
        assert!(alone.is_some(), "sshd has let go of it");
    }
}

/// The same command at the lowest priority.
fn idly(command: &Command) -> Command {
    let mut nice = Command::new("nice");
    nice.args(["-n", "19"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => nice.env(name, value),
            None => nice.env_remove(name),
        };
    }
    nice
}

/// What a failure shows of a log.
fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(100)..].join("\n")
}

/// A client half before an echo.
struct Echoing {
    running: Running,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

impl Echoing {
    fn start(packaged: &Packaged) -> Echoing {
        let mut session = Echoing::open(packaged);
        session.echoes("first");
        session
    }

    fn open(packaged: &Packaged) -> Echoing {
        Echoing::run(&mut packaged.rig.ssh.proxy())
    }

    /// A client that takes no processor from the server half: elsewhere a thousand clients are a thousand machines.
    fn open_idly(packaged: &Packaged) -> Echoing {
        Echoing::run(&mut idly(&packaged.rig.ssh.proxy()))
    }

    fn run(command: &mut Command) -> Echoing {
        let (running, stdin, stdout) = Running::start_piped(command);
        Echoing { running, stdin, stdout }
    }

    #[track_caller]
    fn echoes(&mut self, word: &str) {
        self.echoes_within(LIMIT, word);
    }

    /// Whether it still does, or has ended by the server half's word.
    fn goes_on(&mut self) -> bool {
        let mut back = [0; 2];
        let asked = self.stdin.write_all(b"on");
        asked
            .and_then(|()| read_within(&mut self.stdout, &mut back, LIMIT))
            .is_ok()
    }

    #[track_caller]
    fn echoes_within(&mut self, limit: Duration, word: &str) {
        self.try_echo(limit, word).expect("it echoes");
    }

    fn try_echo(&mut self, limit: Duration, word: &str) -> Result<(), String> {
        let mut back = vec![0; word.len()];
        let written = self.stdin.write_all(word.as_bytes());
        match written.and_then(|()| read_within(&mut self.stdout, &mut back, limit)) {
            Ok(()) if back == word.as_bytes() => Ok(()),
            answered => Err(format!(
                "{word}: {answered:?}, {:?}; its client says: {}",
                String::from_utf8_lossy(&back),
                self.running.err_so_far()
            )),
        }
    }
}
