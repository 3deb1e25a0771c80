//! The built-in SSH server over many sessions: alone in its process, whose descriptors and children it counts.

#![allow(clippy::unwrap_used)]

#[path = "builtin_sshd/harness.rs"]
#[allow(
    dead_code,
    reason = "shared with the other tests of this server, which use more of it"
)]
mod harness;

use harness::{Server, assert_success, eventually};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Children of this process, living or dead.
fn children() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.map(|task| of(task.unwrap()).split_whitespace().count()).sum()
}

#[test]
fn two_hundred_sessions_leave_no_descriptor_and_no_zombie() {
    let server = Server::start();
    let session = |number: usize, more: &[&str]| {
        // A terminal, pipes, and the subsystem, in turn.
        let (kind, remote) = [
            ("-tt", "echo done"),
            ("-T", "echo done"),
            ("-s", "sftp"),
            ("-s", "sftp"),
        ][number % 4];
        assert_success(&server.run(&[more, &[kind]].concat(), remote, b""));
    };
    // The first ones open what is kept for good: signal pipes, thread pools.
    (0..8).for_each(|number| session(number, &[]));
    let mut before = 0;
    eventually("the first sessions are over", || {
        let (last, now) = (std::mem::replace(&mut before, open_descriptors()), open_descriptors());
        last == now
    });
    (0..200).for_each(|number| session(number, &[]));
    eventually("all descriptors are closed", || open_descriptors() <= before);
    assert_eq!(children(), 0);

    // And within one connection.
    let control = format!("ControlPath={}", server.path("control").display());
    let master = server.start_ssh(&["-M", "-o", &control], "echo ready; cat");
    let with_master = open_descriptors();
    (0..100).for_each(|number| session(number, &["-o", &control]));
    eventually("all channels are forgotten", || open_descriptors() <= with_master);
    drop(master);
}
