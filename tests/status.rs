//! `bowline status` and `bowline kill` on real sessions: real ssh, sshd and both halves, on a path that is cut.

#[path = "status/others.rs"]
mod others;
mod support;
#[path = "status/watch.rs"]
mod watch;

use rustix::io::Errno;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::gate::UdpGate;
use support::process::{Running, pid_of, run};
use support::rig::Rig;
use support::serve::{Serve, ServeOptions};
use support::ssh::{HOST, SshSetup};
use support::sshd::TestSshd;
use support::{BOWLINE, now, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

/// Runs `bowline COMMAND` on one runtime folder.
fn bowline(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BOWLINE);
    command.args(arguments).arg("--runtime-dir").arg(folder);
    command
}

fn status(folder: &Path) -> Value {
    let told = run(&mut bowline(folder, &["status", "--json"]), LIMIT).expect_code(0);
    serde_json::from_slice(&told.stdout).unwrap_or_else(|error| panic!("{error}: {}", told.out()))
}

/// The sessions that have not ended.
fn live(folder: &Path) -> Vec<Value> {
    let mut sessions = status(folder)["sessions"].as_array().expect("sessions").clone();
    sessions.retain(|session| session["state"] != "gone");
    sessions
}

/// Waits until the only session is in this state.
fn in_state(folder: &Path, state: &str) -> Value {
    let found = wait_for(LIMIT, || {
        live(folder).into_iter().find(|session| session["state"] == state)
    });
    found.unwrap_or_else(|| panic!("no session is {state}: {:#}", status(folder)))
}

fn client_folder(rig: &Rig) -> PathBuf {
    rig.ssh.path("run")
}

fn server_folder(rig: &Rig) -> PathBuf {
    rig.serve().path("run")
}

/// A login that stays open.
fn log_in(rig: &Rig) -> Running {
    let mut command = rig.ssh.ssh(&[HOST, "echo here; exec sleep 600"]);
    let running = Running::start(&mut command);
    let is_in = wait_for(LIMIT, || running.out_so_far().contains("here").then_some(()));
    assert!(is_in.is_some(), "no login: {}", running.err_so_far());
    running
}

fn text<'a>(session: &'a Value, name: &str) -> &'a str {
    session[name]
        .as_str()
        .unwrap_or_else(|| panic!("{name} in {session:#}"))
}

#[test]
fn without_sessions_that_is_said_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let told = run(&mut bowline(folder.path(), &["status"]), LIMIT).expect_code(0);
    assert_eq!(told.out(), "no sessions on this machine\n");
    let nowhere = folder.path().join("nowhere");
    assert_eq!(
        run(&mut bowline(&nowhere, &["status"]), LIMIT).expect_code(0).out(),
        "no sessions on this machine\n"
    );
}

#[test]
fn both_halves_tell_of_a_session_and_of_its_outage() {
    let rig = Rig::gated(|setup| setup);
    let (client, server) = (client_folder(&rig), server_folder(&rig));
    let _ssh = log_in(&rig);

    let ours = in_state(&client, "connected");
    let theirs = in_state(&server, "connected");
    assert_eq!(ours["id"], theirs["id"]);
    assert_eq!((text(&ours, "half"), text(&theirs, "half")), ("client", "server"));
    assert_eq!(text(&ours, "host"), HOST);
    let gate = rig.gate().address();
    assert_eq!(text(&ours, "path"), format!("quic {gate}"));
    assert_eq!(text(&ours, "peer"), gate.to_string());
    assert!(ours["rtt_ms"].as_f64().is_some_and(|rtt| rtt < 1000.0), "{ours:#}");
    assert!(ours["age_ms"].as_u64().is_some_and(|age| age < 60_000), "{ours:#}");
    assert!(
        ours["bytes_in"].as_u64() > Some(1000) && ours["bytes_out"].as_u64() > Some(1000),
        "{ours:#}"
    );
    assert_eq!(ours["outages"]["survived"], 0);
    assert_eq!(ours["epoch"], theirs["epoch"]);
    // sshd sees a loopback address and the port of this connection.
    let alias = text(&theirs, "alias");
    assert!(alias.starts_with("127."), "{alias}");
    assert_eq!(theirs["keeper_pid"], rig.serve().half().keeper());
    assert_eq!(theirs["worker_pid"], rig.serve().half().worker());
    assert!(text(&theirs, "key").starts_with("SHA256:"), "{theirs:#}");

    rig.gate().cut();
    // The client half soon detects the silence and does not report `connected`.
    let suspected = wait_for(LIMIT, || {
        live(&client)
            .into_iter()
            .find(|session| session["state"] != "connected")
    });
    let suspected = suspected.unwrap_or_else(|| panic!("still connected: {:#}", status(&client)));
    assert!(
        matches!(text(&suspected, "state"), "probing" | "detached"),
        "{suspected:#}"
    );

    let detached = in_state(&client, "detached");
    assert!(text(&detached, "age").starts_with("detached "), "{detached:#}");
    assert_eq!(detached["path"], Value::Null);

    rig.gate().restore();
    let back = in_state(&client, "connected");
    assert_eq!(back["id"], ours["id"]);
    assert!(back["epoch"].as_u64() > ours["epoch"].as_u64(), "{back:#}");
    assert_eq!(back["outages"]["survived"], 1, "{back:#}");
    assert!(back["outages"]["longest_ms"].as_u64() > Some(0), "{back:#}");
}

/// Each half closes its carriers after one second, so that neither has to detect that the path is cut.
fn rig_of_short_carriers() -> Rig {
    const FAULT: &str = "close-carrier-after=1000ms";
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here().fault(FAULT));
    let gate = UdpGate::to(serve.udp());
    let ssh = SshSetup::bowline(&sshd, gate.port()).fault(FAULT).write();
    Rig {
        ssh,
        serve: Some(serve),
        gate: Some(gate),
        sshd,
    }
}

#[test]
fn a_detached_session_has_an_age_and_can_be_killed() {
    let rig = rig_of_short_carriers();
    let (client, server) = (client_folder(&rig), server_folder(&rig));
    let ssh = log_in(&rig);
    let id = text(&in_state(&client, "connected"), "id").to_owned();
    rig.gate().cut();
    let detached = in_state(&client, "detached");
    assert_eq!(text(&detached, "id"), id);
    assert!(text(&detached, "age").starts_with("detached "), "{detached:#}");
    assert_eq!(detached["path"], Value::Null);
    let older = wait_for(LIMIT, || {
        live(&client)
            .into_iter()
            .find(|session| session["age_ms"].as_u64() > Some(1500))
    });
    assert_eq!(text(&older.expect("it grows older"), "state"), "detached");

    let told = run(&mut bowline(&client, &["kill", &id[..6]]), LIMIT).expect_code(0);
    assert!(told.out().starts_with(&format!("ended {id}")), "{}", told.out());
    // The exit code of a ProxyCommand is not ssh's, but its messages are shown.
    let ended = ssh.finish(LIMIT).expect_code(255);
    assert!(
        ended
            .err()
            .contains("error: the session was ended: `bowline kill` asked for it"),
        "{}",
        ended.err()
    );
    assert!(live(&client).is_empty());
    // The server half could not be told.
    let orphan = in_state(&server, "detached");
    assert_eq!(text(&orphan, "id"), id);
    let told = run(&mut bowline(&server, &["kill", "--orphans"]), LIMIT).expect_code(0);
    assert!(told.out().contains(&id), "{}", told.out());
    assert!(wait_for(LIMIT, || live(&server).is_empty().then_some(())).is_some());
    let gone = &status(&server)["sessions"][0];
    assert_eq!((text(gone, "id"), text(gone, "state")), (id.as_str(), "gone"));
    assert!(text(gone, "age").contains("bowline kill"), "{gone:#}");
    let none = run(&mut bowline(&server, &["kill", "--orphans"]), LIMIT).expect_code(0);
    assert_eq!(none.out(), "no matching sessions on this machine\n");
}

#[test]
fn the_proxy_of_a_killed_session_ends_with_75() {
    let rig = Rig::gated(|setup| setup);
    let (client, server) = (client_folder(&rig), server_folder(&rig));
    let open = || {
        let mut command = rig.ssh.proxy();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (running, stdin, stdout) = Running::start_piped(&mut command);
        (in_state(&client, "connected"), running, stdin, stdout)
    };
    let (session, running, _stdin, _stdout) = open();
    run(&mut bowline(&client, &["kill", text(&session, "id")]), LIMIT).expect_code(0);
    let ended = running.finish(LIMIT).expect_code(75);
    assert!(ended.err().contains("`bowline kill` asked for it"), "{}", ended.err());
    assert!(
        wait_for(LIMIT, || live(&server).is_empty().then_some(())).is_some(),
        "it was told"
    );

    // From the server, by the key.
    let (session, running, _stdin, _stdout) = open();
    let key = text(&in_state(&server, "connected"), "key").to_owned();
    let told = run(&mut bowline(&server, &["kill", "--key", &key]), LIMIT).expect_code(0);
    assert!(told.out().contains(text(&session, "id")), "{}", told.out());
    let ended = running.finish(LIMIT).expect_code(75);
    assert!(
        ended.err().contains("ended by `bowline kill` on the server"),
        "{}",
        ended.err()
    );
}

#[test]
fn what_names_no_session_is_an_error_and_ends_nothing() {
    let rig = Rig::bowline();
    let client = client_folder(&rig);
    let _ssh = log_in(&rig);
    let id = text(&in_state(&client, "connected"), "id").to_owned();
    let other = if id.starts_with('0') { "1" } else { "0" }.repeat(32);
    let told = run(&mut bowline(&client, &["kill", &id, &other]), LIMIT).expect_code(69);
    assert!(
        told.err()
            .contains(&format!("no session here has an id that begins with {other}")),
        "{}",
        told.err()
    );
    assert_eq!(in_state(&client, "connected")["id"], *id);
    run(&mut bowline(&client, &["kill"]), LIMIT).expect_code(64);
    run(&mut bowline(&client, &["kill", "no-id"]), LIMIT).expect_code(64);
    run(&mut bowline(&client, &["kill", "--orphans"]), LIMIT).expect_code(69);
}

#[test]
fn a_process_that_is_stopped_or_dead_holds_nobody_up() {
    let rig = Rig::bowline();
    let (client, server) = (client_folder(&rig), server_folder(&rig));
    let _ssh = log_in(&rig);
    let pid = in_state(&client, "connected")["pid"].as_u64().expect("a process id");
    let proxy = pid_of(u32::try_from(pid).expect("a process id"));
    for (folder, stopped) in [(&client, proxy), (&server, pid_of(rig.serve().half().worker()))] {
        kill_process(stopped, Signal::STOP).expect("our own process");
        let began = now();
        let told = status(folder);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        match kill_process(stopped, Signal::CONT) {
            // The keeper was faster, see below.
            Err(Errno::SRCH) if stopped != proxy => {}
            other => other.expect("our own process"),
        }
        let silent = told["silent"].as_array().expect("a list");
        if silent.is_empty() && stopped != proxy {
            // The keeper kills a worker that hangs after about the time that `status` waits for an answer.
            assert_ne!(pid_of(rig.serve().half().worker()), stopped, "{told:#}");
            continue;
        }
        assert_eq!(silent.len(), 1, "{told:#}");
        assert_eq!(silent[0]["pid"], stopped.as_raw_nonzero().get(), "{told:#}");
    }
    in_state(&client, "connected");
    kill_process(proxy, Signal::KILL).expect("our own process");
    let gone = wait_for(LIMIT, || live(&client).is_empty().then_some(()));
    assert!(gone.is_some());
    assert!(status(&client)["silent"].as_array().is_some_and(Vec::is_empty));
    let left = std::fs::read_dir(&client).expect("the folder").count();
    assert_eq!(left, 0, "the socket of a dead process is removed");
}

#[test]
fn sessions_are_shown_by_every_worker_and_keeper_that_follows() {
    let rig = Rig::bowline();
    let server = server_folder(&rig);
    let _ssh = log_in(&rig);
    let before = in_state(&server, "connected");
    let half = rig.serve().half();
    let worker = half.worker();
    kill_process(pid_of(worker), Signal::KILL).expect("our own process");
    let after = wait_for(LIMIT, || {
        let found = live(&server)
            .into_iter()
            .find(|session| session["state"] == "connected")?;
        (found["worker_pid"] != worker).then_some(found)
    });
    let after = after.unwrap_or_else(|| panic!("no other worker: {:#}", status(&server)));
    assert_eq!((&after["id"], &after["alias"]), (&before["id"], &before["alias"]));
    assert_eq!(after["outages"]["survived"], 1);
    let keeper = half.keeper();
    kill_process(pid_of(keeper), Signal::KILL).expect("our own process");
    let raised = wait_for(LIMIT, || {
        live(&server)
            .into_iter()
            .find(|session| session["keeper_pid"] != keeper)
    });
    let raised = raised.unwrap_or_else(|| panic!("no other keeper: {:#}", status(&server)));
    assert_eq!(raised["id"], before["id"]);
}
