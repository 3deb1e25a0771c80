//! Everything that ssh forwards: ports, SOCKS, the agent, stdio, jumps; and many sessions over one connection.

use super::LIMIT;
use crate::support::data::random_bytes;
use crate::support::echo::{TcpEcho, assert_echoes, connect, connect_by_socks};
use crate::support::place::Place;
use crate::support::process::{Running, run, run_with_input};
use crate::support::rig::Rig;
use crate::support::ssh::{HOST, INNER};
use crate::support::sshd::fingerprint;
use crate::support::wait_for;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

/// Enough to fill several windows and packets.
const SIZE: usize = 1 << 20;

/// `-L`
pub fn local(rig: &Rig) {
    let (echo, port) = (TcpEcho::start(), Place::free_port());
    let _ssh = Running::start(&mut rig.ssh.ssh(&["-N", "-L", &forward(port, echo.address()), HOST]));
    assert_echoes(connect(loopback(port)), &random_bytes(11, SIZE));
}

/// `-R`
pub fn remote(rig: &Rig) {
    let (echo, port) = (TcpEcho::start(), Place::free_port());
    let _ssh = Running::start(&mut rig.ssh.ssh(&["-N", "-R", &forward(port, echo.address()), HOST]));
    assert_echoes(connect(loopback(port)), &random_bytes(12, SIZE));
}

/// `-D`
pub fn dynamic(rig: &Rig) {
    let (echo, port) = (TcpEcho::start(), Place::free_port());
    let _ssh = Running::start(&mut rig.ssh.ssh(&["-N", "-D", &format!("127.0.0.1:{port}"), HOST]));
    assert_echoes(
        connect_by_socks(loopback(port), echo.address()),
        &random_bytes(13, SIZE),
    );
}

/// `-A`: the remote side sees the local agent's key.
pub fn agent(rig: &Rig) {
    let socket = rig.ssh.path("agent");
    let _agent = Running::start(Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket));
    assert!(
        wait_for(Duration::from_secs(10), || socket.exists().then_some(())).is_some(),
        "the agent comes up"
    );
    let limit = Duration::from_secs(10);
    run(
        Command::new("ssh-add")
            .arg("-q")
            .arg(rig.sshd.user_key())
            .env("SSH_AUTH_SOCK", &socket),
        limit,
    )
    .expect_code(0);
    let mut command = rig.ssh.ssh(&["-A", HOST, "ssh-add -l"]);
    let outcome = run(command.env("SSH_AUTH_SOCK", &socket), LIMIT).expect_code(0);
    assert!(
        outcome.out().contains(&fingerprint(&rig.sshd.user_key())),
        "the agent's key there: {}",
        outcome.out()
    );
}

/// `-W`
pub fn stdio(rig: &Rig) {
    let echo = TcpEcho::start();
    let bytes = random_bytes(14, SIZE);
    let mut command = rig.ssh.ssh(&["-W", &echo.address().to_string(), HOST]);
    let outcome = run_with_input(&mut command, bytes.clone(), LIMIT).expect_code(0);
    assert!(
        outcome.stdout == bytes,
        "{} of {SIZE} bytes came back the same",
        outcome.stdout.len()
    );
}

/// `-J`: another sshd behind this one (here the same, without any proxy of its own).
pub fn jump(rig: &Rig) {
    run(&mut rig.ssh.ssh(&["-J", HOST, INNER, "exit 9"]), LIMIT).expect_code(9);
}

/// ControlMaster: ten sessions at once over one connection, each with its own megabyte and exit code.
pub fn ten_sessions_over_one_control_master(rig: &Rig) {
    let control = rig.ssh.path("control").display().to_string();
    let option = format!("ControlPath={control}");
    let logins = rig.sshd.logins();
    let mut master = Running::start(&mut rig.ssh.ssh(&["-M", "-N", "-o", &option, HOST]));
    let up = wait_for(Duration::from_secs(20), || {
        rig.ssh.path("control").exists().then_some(())
    });
    assert!(up.is_some(), "the master comes up: {}", master.err_so_far());
    std::thread::scope(|scope| {
        for n in 0..10_u8 {
            let mut command = rig.ssh.ssh(&["-o", &option, HOST, &format!("cat; exit {n}")]);
            scope.spawn(move || {
                let bytes = random_bytes(20 + u64::from(n), SIZE);
                let outcome = run_with_input(&mut command, bytes.clone(), LIMIT).expect_code(n.into());
                assert!(
                    outcome.stdout == bytes,
                    "session {n}: {} of {SIZE} bytes",
                    outcome.stdout.len()
                );
            });
        }
    });
    run(&mut rig.ssh.ssh(&["-q", "-O", "exit", "-o", &option, HOST]), LIMIT).expect_code(0);
    assert!(master.ended(Duration::from_secs(10)), "the master ends when told");
    assert_eq!(rig.sshd.logins(), logins + 1, "all in one connection");
}

fn forward(port: u16, to: SocketAddr) -> String {
    format!("127.0.0.1:{port}:{to}")
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
