//! Strangers at the UDP port: floods of handshakes that nobody finishes, and garbage. What runs must not notice.

#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../support/mod.rs"]
mod support;

mod initials;
mod queries;
mod relay_memory;
mod resets;
mod signatures;
mod silent;
mod strangers;
mod words;

use scenarios::echo_probe::{EchoProbe, UNDISTURBED as PROMPT};
use scenarios::ticker::Ticker;
use socket2::{Domain, Socket, Type};
use std::collections::VecDeque;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use support::link::Rng;
use support::process::run;
use support::rig::Rig;
use support::serve::ServeOptions;
use support::{data, heavy, measured, measured_time, now, wait_for};

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(6);
/// A flood comes in bursts, so that its rate is the same on every machine: some 5,000 handshakes a second. What
/// overflows the kernel's own buffers would be lost to any program.
const BURST: usize = 50;
const BURST_EVERY: Duration = Duration::from_millis(10);
/// A running session may at most hesitate so long.
const UNDISTURBED: Duration = Duration::from_millis(500);
/// Connections that strangers hold at once.
const HELD: usize = 600;
/// What strangers may make a server half hold, all together, in KiB.
const STRANGERS_SHARE: u64 = 64 * 1024;

#[test]
fn captured_handshakes_are_whole_first_flights_of_many_clients() {
    let flights = initials::capture(50);
    for datagram in flights.iter().flatten() {
        assert_eq!(datagram[0] & 0xf0, 0xc0, "an Initial: a long header of type 0");
        assert!(
            datagram.len() >= 1_200,
            "RFC 9000 section 14.1: {} bytes",
            datagram.len()
        );
    }
}

#[test]
fn a_flood_of_half_open_handshakes_leaves_a_session_undisturbed() {
    let _turn = heavy();
    let rig = Rig::bowline();
    let initials = initials::capture(2_000);
    disturbed_by(&rig, "half-open handshakes", |rng, server| {
        let source = stranger(rng)?;
        let handshake = &initials[rng.draw() as usize % initials.len()];
        handshake
            .iter()
            .map(|datagram| source.send_to(datagram, server).is_ok() as u64)
            .sum::<u64>()
            .into()
    });
}

#[test]
fn garbage_on_the_port_leaves_a_session_undisturbed() {
    let _turn = heavy();
    let rig = Rig::bowline();
    disturbed_by(&rig, "garbage", |rng, server| {
        let source = stranger(rng)?;
        let mut datagram = data::random_bytes(rng.draw(), 1 + rng.draw() as usize % 1_472);
        // Half of it looks like QUIC: a long header of version 1, or a short one.
        match rng.draw() % 4 {
            0 if datagram.len() > 5 => datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]),
            1 => datagram[0] = 0x40 | datagram[0] & 0x3f,
            _ => {}
        }
        Some(source.send_to(&datagram, server).is_ok().into())
    });
}

#[test]
fn connections_that_say_nothing_or_garbage_leave_a_session_undisturbed() {
    let _turn = heavy();
    let rig = Rig::with(
        ServeOptions::here().argument("--listen-tls").argument("127.0.0.1:0"),
        |setup| setup,
    );
    let tls = rig.serve().ready_field("tls").expect("a TLS port").to_owned();
    let address: SocketAddr = tls.parse().expect("an address");
    let held = Mutex::new(VecDeque::new());
    disturbed_by(&rig, "idle and nonsensical connections", |rng, _| {
        let mut stream = connect_as_stranger(rng, address)?;
        if rng.draw().is_multiple_of(2) {
            // The first bytes of TLS, and garbage after them.
            let mut garbage = data::random_bytes(rng.draw(), 1 + rng.draw() as usize % 4_096);
            garbage.splice(..0, [0x16, 3, 1]);
            let _ = stream.write_all(&garbage);
        }
        let mut held = held.lock().expect("no panic while it is held");
        held.push_back(stream);
        if held.len() > HELD {
            held.pop_front();
        }
        Some(1)
    });
    drop(held);
    // Of those that said nothing the last are given up ten seconds after they came.
    let port = address.port().to_string();
    let opens = wait_for(Duration::from_secs(15), || {
        let mut proxy = rig.ssh.proxy();
        proxy.args(["--transport", "tls", "--tls-port", &port]);
        run(&mut proxy, Duration::from_secs(10)).code.filter(|code| *code == 0)
    });
    assert!(opens.is_some(), "TLS serves again: {}", rig.serve().log());
}

/// Runs a session while strangers send what they like; then a new one must open.
fn disturbed_by(rig: &Rig, what: &str, send: impl Fn(&mut Rng, SocketAddr) -> Option<u64> + Sync) {
    let (ticker, probe) = (Ticker::start(rig), EchoProbe::start(rig));
    let quiet = probe.watch(Duration::from_secs(1));
    let (before, start) = (rig.serve().usage(), now());
    let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let under_flood = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut rng, server) = (Rng::new(71), rig.serve().udp());
            while !stop.load(Relaxed) {
                let burst = (0..BURST).filter_map(|_| send(&mut rng, server)).sum();
                sent.fetch_add(burst, Relaxed);
                std::thread::sleep(BURST_EVERY);
            }
        });
        std::thread::sleep(FLOOD / 2);
        let outcome = rig.ssh.remote("exit 7", Duration::from_secs(30));
        std::thread::sleep((start + FLOOD).saturating_duration_since(now()));
        stop.store(true, Relaxed);
        outcome
    });
    let (silence, after) = (ticker.longest_silence_since(start), rig.serve().usage());
    let flooded = probe.since(start);
    measured(&format!("echo before {what}"), quiet);
    measured(&format!("echo under {what}"), flooded);
    measured(&format!("datagrams of {what}"), sent.load(Relaxed));
    measured_time(&format!("longest silence of a session under {what}"), silence);
    measured_time(&format!("ssh true, opened under {what}"), under_flood.took);
    measured(
        &format!("server half before and after {what}"),
        format_args!("{before:?}\n        {after:?}"),
    );
    assert!(
        sent.load(Relaxed) > 1_000,
        "a flood is more than {} datagrams",
        sent.load(Relaxed)
    );
    assert!(silence <= UNDISTURBED, "silent for {silence:?}");
    flooded.expect_p99_within(PROMPT);
    assert!(
        after.resident.saturating_sub(before.resident) <= STRANGERS_SHARE,
        "{before:?} before, {after:?} after"
    );
    assert_eq!(rig.serve().logged("panicked"), 0, "{}", rig.serve().log());
    ticker.finish_in_order();
    probe.finish();
    under_flood.expect_code(7);
    rig.ssh.remote("exit 7", Duration::from_secs(20)).expect_code(7);
}

/// The same over TCP.
fn connect_as_stranger(rng: &mut Rng, server: SocketAddr) -> Option<TcpStream> {
    let [a, b, c, ..] = rng.draw().to_le_bytes();
    let source = SocketAddr::from((Ipv4Addr::new(127, a, b, c.clamp(1, 254)), 0));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&source.into()).ok()?;
    socket
        .connect_timeout(&server.into(), Duration::from_millis(200))
        .ok()?;
    Some(socket.into())
}

/// A socket somewhere in 127.0.0.0/8, another one each time: to the server half, another stranger.
fn stranger(rng: &mut Rng) -> Option<UdpSocket> {
    let [a, b, c, ..] = rng.draw().to_le_bytes();
    UdpSocket::bind((Ipv4Addr::new(127, a, b, c.clamp(1, 254)), 0)).ok()
}
