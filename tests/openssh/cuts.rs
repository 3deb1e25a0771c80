//! The path vanishes at the worst moments: in the open exchange, and in the last bytes before the exit.

use crate::support::gate::{Direction, UdpGate};
use crate::support::process::{Running, run};
use crate::support::rig::Rig;
use crate::support::ssh::{HOST, SshFiles, SshSetup};
use crate::support::sshd::SESSIONS_FROM;
use crate::support::{heavy, measured};
use std::io::{Read, Write};
use std::time::Duration;

/// How long the path is away: longer than a first suspicion, shorter than anyone's patience.
const AWAY: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(40);
/// What an open of half a second takes at most when its path is away for 400 ms: QUIC's own repeats, at 0.45, 1.35 and
/// 3.15 s from the loss. Half that again is left for a busy machine; the server half's limit of 10 s is well above.
const SLOWEST_OPEN: Duration = Duration::from_secs(7);

/// Which ways are cut.
const WAYS: [&[Direction]; 3] = [
    &[Direction::ToServer, Direction::ToClient],
    &[Direction::ToClient],
    &[Direction::ToServer],
];

#[test]
fn the_exit_code_survives_a_link_lost_in_the_last_bytes() {
    let _turn = heavy();
    let rig = Rig::bowline();
    // The exchange from the last byte typed to the exit takes some ten datagrams: a cut after each of them.
    for packets in 0..12 {
        std::thread::scope(|scope| {
            for ways in WAYS {
                let rig = &rig;
                scope.spawn(move || exit_7_with_a_cut(rig, ways, packets));
            }
        });
    }
}

fn exit_7_with_a_cut(rig: &Rig, ways: &[Direction], packets: u32) {
    let gate = UdpGate::to(rig.serve().udp());
    let ssh = files(rig, &gate);
    let command = "echo ready; read line; echo last words; exit 7";
    let (running, mut stdin, mut stdout) = Running::start_piped(&mut ssh.ssh(&[HOST, command]));
    let mut ready = [0; 6];
    stdout
        .read_exact(&mut ready)
        .unwrap_or_else(|e| panic!("no login: {e}: {}", running.err_so_far()));
    for way in ways {
        gate.cut_after(*way, packets);
    }
    stdin.write_all(b"\n").expect("ssh reads its stdin");
    std::thread::sleep(AWAY);
    gate.restore();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("our own pipe");
    let outcome = running.finish(LIMIT);
    let case = format!("cut after {packets} datagrams of {ways:?}");
    assert_eq!(
        (outcome.code, rest.as_str()),
        (Some(7), "last words\n"),
        "{case}: {}",
        outcome.err()
    );
}

#[test]
fn an_open_exchange_cut_after_each_datagram_reaches_sshd_once() {
    let _turn = heavy();
    let rig = Rig::bowline();
    let mut slowest = Duration::ZERO;
    for packets in 0..14 {
        for ways in WAYS {
            let gate = UdpGate::to(rig.serve().udp());
            let ssh = files(&rig, &gate);
            let before = rig.sshd.connections_from(SESSIONS_FROM);
            for way in ways {
                gate.cut_after(*way, packets);
            }
            let restorer = std::thread::scope(|scope| {
                let restoring = scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(400));
                    gate.restore();
                });
                let outcome = run(&mut ssh.ssh(&[HOST, "exit 7"]), LIMIT);
                restoring.join().expect("it only sleeps");
                outcome
            });
            let case = format!("cut after {packets} datagrams of {ways:?}");
            assert_eq!(restorer.code, Some(7), "{case}: {}", restorer.err());
            assert_eq!(
                rig.sshd.connections_from(SESSIONS_FROM) - before,
                1,
                "{case}: connections to sshd"
            );
            assert!(restorer.took <= SLOWEST_OPEN, "{case}: {:?}", restorer.took);
            slowest = slowest.max(restorer.took);
        }
    }
    measured("slowest open of those cut for 400 ms", format_args!("{slowest:?}"));
}

/// The user's files for a client half that goes through this gate.
fn files(rig: &Rig, gate: &UdpGate) -> SshFiles {
    SshSetup::bowline(&rig.sshd, gate.port()).write()
}
