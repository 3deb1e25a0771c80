//! What a session costs that nobody uses: memory of both halves, and packets on the path.

use crate::sides::Peer;
use crate::support::lab::Lab;
use crate::support::process::Running;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::{now, wait_for};
use crate::table::{Row, Table};
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// Sessions that the server half's memory is divided by: fewer than one key may have (100).
const SESSIONS: usize = 30;
/// What an opened session needs no more is given back within this.
const REST: Duration = Duration::from_secs(20);
/// Quiet before packets are counted, and for how long they are.
const QUIET: Duration = Duration::from_secs(310);
const COUNTED: Duration = Duration::from_secs(240);

/// Memory of their own, in KiB: of one client half, and of the server half for each session.
pub(crate) fn memory(table: &mut Table, _rounds: usize) {
    let rig = Rig::bowline();
    // The first makes what all share. Memory of an opened session is given back once it rests.
    let first = idle(&rig);
    thread::sleep(REST);
    let before = of_server(&rig);
    let sessions: Vec<Running> = (0..SESSIONS).map(|_| idle(&rig)).collect();
    thread::sleep(REST);
    let of_session = (of_server(&rig) - before) / SESSIONS as f64;
    let clients = sessions
        .iter()
        .chain([&first])
        .flat_map(|session| crate::support::process::tree(session.id()));
    let clients: Vec<f64> = clients.filter(|id| is_bowline(*id)).map(own_kib).collect();
    table.add(Row::new(
        "memory of a client half",
        "KiB",
        vec![(Peer::Bowline, clients.into())],
    ));
    table.add(Row::new(
        "memory of the server half, a session",
        "KiB",
        vec![(Peer::Bowline, vec![of_session].into())],
    ));
}

/// Packets a minute on the client's link, both ways, after five quiet minutes.
pub(crate) fn packets(table: &mut Table, _rounds: usize) {
    let lab = Lab::up(&[("client", "delay=25"), ("server", "")]);
    let rig = Rig::bowline_in(&lab);
    let _session = idle(&rig);
    thread::sleep(QUIET);
    let count = || {
        let (up, down) = lab.counters("client");
        (up.packets + down.packets) as f64
    };
    let (before, start) = (count(), now());
    thread::sleep(COUNTED);
    let a_minute = (count() - before) / start.elapsed().as_secs_f64() * 60.0;
    table.add(Row::new(
        "packets a minute of an idle session",
        "",
        vec![(Peer::Bowline, vec![a_minute].into())],
    ));
}

/// A session that has said a word and then nothing more.
fn idle(rig: &Rig) -> Running {
    let ready = rig.ssh.path("idle-ready");
    let _ = fs::remove_file(&ready);
    let command = format!("touch {}; exec sleep 3600", ready.display());
    let mut ssh = rig.ssh.ssh(&[HOST, &command]);
    let running = Running::spawn(ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    let opened = wait_for(Duration::from_secs(20), || ready.exists().then_some(()));
    assert!(opened.is_some(), "a session opens");
    running
}

fn of_server(rig: &Rig) -> f64 {
    let processes = rig.serve().half().processes();
    processes.iter().map(|(id, _)| own_kib(*id)).sum()
}

fn is_bowline(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("bowline"))
}

/// proc_pid_smaps(5): what it has written to, and its share of memory that has a descriptor. Pages of the program's file are left
/// out: they count as private for as long as nobody else happens to run it.
fn own_kib(id: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let own = text
        .lines()
        .filter(|line| ["Pss_Anon:", "Pss_Shmem:"].iter().any(|kind| line.starts_with(kind)));
    own.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
        .sum()
}
