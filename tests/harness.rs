//! The harness checked against itself: every scenario over plain ssh, and the bad networks against what they promise.
//!
//! A scenario that fails here is unfair, and says nothing about bowline.

#[path = "harness/managers.rs"]
mod managers;
mod scenarios;
#[path = "harness/service.rs"]
mod service;
mod support;

use bowline::identity::raw_key::TlsKey;
use bowline::wire::{Accepted, Answer, Offset, SessionId};
use scenarios::ticker::Ticker;
use scenarios::{endings, forwarding, goodput, transfers};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;
use support::data::MIB;
use support::gate::{Direction, UdpGate};
use support::lab::Lab;
use support::peer::{FakeServer, RawClient, open};
use support::rig::Rig;
use support::sshd::TestSshd;
use support::{heavy, measured, now};

const SHORT: Duration = Duration::from_millis(150);

#[test]
fn plain_ssh_keeps_exit_codes_and_sshd_is_seen_by_its_log() {
    let rig = Rig::plain();
    endings::exit_codes_are_kept(&rig);
    assert_eq!(rig.sshd.connections_from("127.0.0.1 "), endings::EXIT_CODES.len());
    assert_eq!(rig.sshd.logins(), endings::EXIT_CODES.len());
}

#[test]
fn plain_ssh_carries_every_kind_of_transfer() {
    let _turn = heavy();
    let rig = Rig::plain();
    transfers::rsync_both_ways(&rig, 8 * MIB);
    transfers::scp_both_ways(&rig, 8 * MIB);
    transfers::sftp_put_and_get(&rig, 8 * MIB);
    transfers::git_clone_and_push(&rig, 4 * MIB);
}

#[test]
fn plain_ssh_forwards_everything() {
    let rig = Rig::plain();
    forwarding::local(&rig);
    forwarding::remote(&rig);
    forwarding::dynamic(&rig);
    forwarding::agent(&rig);
    forwarding::stdio(&rig);
    forwarding::jump(&rig);
    forwarding::ten_sessions_over_one_control_master(&rig);
}

#[test]
fn plain_ssh_ends_and_flows_as_the_scenarios_expect() {
    let _turn = heavy();
    let rig = Rig::plain();
    endings::half_close_reaches_the_remote_command(&rig);
    endings::full_windows_both_ways_do_not_deadlock(&rig, 4 * MIB);
    endings::a_slow_reader_gets_every_byte(&rig, 4 * MIB);
    endings::a_closed_stdout_ends_the_remote_command(&rig);
}

#[test]
fn the_gate_delays_loses_and_cuts() {
    let (server, echo) = udp_echo(bound());
    let gate = UdpGate::to(server);
    let client = connected(bound(), gate.address());
    assert!(round_trip(&client, 1).is_some(), "open at first");

    gate.set("delay=40");
    let took = round_trip(&client, 2).expect("delayed, not lost").1;
    assert!(
        took >= Duration::from_millis(80) && took < Duration::from_millis(140),
        "two delays, not {took:?}"
    );
    gate.set("delay=0");

    gate.cut_one(Direction::ToClient);
    assert!(round_trip(&client, 3).is_none(), "the way back is cut");
    gate.restore();
    assert!(round_trip(&client, 4).is_some(), "open again");

    gate.cut_after(Direction::ToServer, 2);
    let through = (10..15).filter(|n| round_trip(&client, *n).is_some()).count();
    assert_eq!(through, 2, "two packets, then none");
    gate.restore();

    gate.set("loss=50");
    for _ in 0..400 {
        let _ = client.send(&[0]);
    }
    std::thread::sleep(SHORT);
    let lost = gate.counters(Direction::ToServer).lost;
    assert!((150..250).contains(&lost), "half of 400, not {lost}");
    drop(gate);
    stop(server, echo);
}

#[test]
fn the_gate_rebinds_like_a_nat() {
    let (server, echo) = udp_echo(bound());
    let gate = UdpGate::to(server);
    let client = connected(bound(), gate.address());
    let before = round_trip(&client, 1).expect("open at first").0;
    gate.rebind();
    let after = round_trip(&client, 2).expect("still open").0;
    assert_ne!(before, after, "the server sees another port");
    drop(gate);
    stop(server, echo);
}

#[test]
fn the_lab_delays_rebinds_roams_and_filters() {
    if !Lab::possible("the lab checked against itself") {
        return;
    }
    let lab = Lab::up(&[("client", "delay=25,nat"), ("server", "")]);
    let (server, echo) = udp_echo(lab.udp_socket("server"));
    let client = connected(lab.udp_socket("client"), server);

    let (seen, took) = round_trip(&client, 1).expect("open at first");
    measured("lab, RTT asked for 50 ms", format_args!("{took:?}"));
    assert!(
        took >= Duration::from_millis(50) && took < Duration::from_millis(70),
        "{took:?}"
    );
    assert_eq!(seen.ip(), Ipv4Addr::new(198, 19, 1, 1), "the NAT's address");

    lab.rebind("client");
    let seen = round_trip(&client, 2).expect("a new mapping").0;
    assert_eq!(seen.ip(), Ipv4Addr::new(198, 19, 1, 2), "the NAT's next address");

    lab.drop_udp("client", true);
    assert!(round_trip(&client, 3).is_none(), "UDP is filtered");
    lab.drop_udp("client", false);
    lab.cut("client");
    assert!(round_trip(&client, 4).is_none(), "cut");
    lab.restore("client");
    assert!(round_trip(&client, 5).is_some(), "open again");

    lab.roam("client");
    assert!(round_trip(&client, 6).is_none(), "the socket's address is gone");
    let client = connected(lab.udp_socket("client"), server);
    assert!(round_trip(&client, 7).is_some(), "the new address leads back");
    lab.device_down("client");
    assert!(client.send(&[8]).is_err(), "programs see a device that is down");
    lab.device_up("client");
    assert!(round_trip(&client, 9).is_some(), "and up again");
    stop_by(&client, echo);
}

#[test]
fn plain_ssh_works_in_the_lab_at_the_speed_of_the_link() {
    if !Lab::possible("plain ssh in the lab") {
        return;
    }
    let _turn = heavy();
    let lab = Lab::up(&[("client", "delay=25"), ("server", "rate=20,queue=200")]);
    let rig = Rig::plain_in(&lab);
    rig.ssh.remote("exit 7", Duration::from_secs(20)).expect_code(7);
    let outcome = rig
        .ssh
        .remote("head -c 4194304 /dev/zero", Duration::from_secs(60))
        .expect_code(0);
    let rate = outcome.stdout.len() as f64 * 8.0 / outcome.took.as_secs_f64() / 1e6;
    measured(
        "plain ssh over a link of 20 Mbit/s, login included",
        format_args!("{rate:.1} Mbit/s"),
    );
    assert!((8.0..20.0).contains(&rate), "near the link's rate, never above: {rate}");
}

#[test]
fn goodput_over_plain_ssh_is_near_the_rate_of_a_slow_link() {
    if !Lab::possible("goodput of plain ssh") {
        return;
    }
    let _turn = heavy();
    let lab = Lab::up(&[("client", "delay=25"), ("server", "")]);
    let rig = Rig::plain_in(&lab);
    lab.set("client", "rate=0.256,queue=10000");
    for rate in [goodput::down(&rig, 250_000), goodput::up(&rig, 250_000)] {
        measured("goodput of plain ssh at 256 kbit/s", format_args!("{rate:.0} kbit/s"));
        assert!((180.0..300.0).contains(&rate), "{rate}");
    }
}

#[test]
fn the_ticker_sees_every_line_and_every_silence() {
    let rig = Rig::plain();
    let start = now();
    let mut ticker = Ticker::start(&rig);
    let next = ticker.next_line_after(now(), Duration::from_secs(5));
    assert!(next < Duration::from_secs(1), "a line each 20 ms, not {next:?}");
    assert!(ticker.longest_silence_since(start) < Duration::from_secs(1));
    assert!(ticker.finish_in_order() >= 10);
}

#[test]
fn raw_peers_understand_each_other() {
    let sshd = TestSshd::start();
    let accepted = Answer::Accepted(Accepted {
        key: None,
        received: Offset::ZERO,
        window: 9,
        ttl: 60,
    });
    let fake = FakeServer::saying(&sshd, accepted.encode());
    let mut client = RawClient::dial((Ipv4Addr::LOCALHOST, fake.port()).into(), &TlsKey::generate());
    assert_eq!(client.ask(&open(SessionId::new([1; 16]), 1)), Some(accepted));
}

fn bound() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port on loopback")
}

fn connected(socket: UdpSocket, to: SocketAddr) -> UdpSocket {
    socket.connect(to).expect("a route");
    socket.set_read_timeout(Some(SHORT)).expect("a socket of our own");
    socket
}

/// Answers every datagram with its number (first byte) and the sender's address as seen; an empty one ends it.
fn udp_echo(socket: UdpSocket) -> (SocketAddr, JoinHandle<()>) {
    let address = socket.local_addr().expect("a bound socket has an address");
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((1.., from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{} {from}", buffer[0]).as_bytes(), from);
        }
    });
    (address, thread)
}

/// Sends one numbered datagram; how the other end saw its source, and how long the answer took.
fn round_trip(client: &UdpSocket, number: u8) -> Option<(SocketAddr, Duration)> {
    let start = now();
    client.send(&[number]).ok()?;
    let mut buffer = [0; 2048];
    loop {
        let length = client.recv(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let (answered, from) = text.split_once(' ').expect("the echo's own format");
        // Answers to earlier datagrams may have been on their way.
        if answered.parse() == Ok(number) {
            return Some((from.parse().expect("an address"), start.elapsed()));
        }
    }
}

fn stop(server: SocketAddr, echo: JoinHandle<()>) {
    stop_by(&connected(bound(), server), echo);
}

fn stop_by(client: &UdpSocket, echo: JoinHandle<()>) {
    let _ = client.send(&[]);
    echo.join().expect("the echo does not panic");
}
