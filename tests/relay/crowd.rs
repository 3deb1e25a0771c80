//! A relay under load: many strangers from one source, many server halves, many clients.

use super::{Server, TestServerHalf, ask, echoes};
use crate::support::place::Place;
use crate::support::process::raise_descriptor_limit;
use crate::support::relay::Relay;
use crate::support::{Scratch, measured, now};
use bowline::carrier::via::{RelayConnectError, RelayTransport};
use bowline::wire::{KeyDigest, RelayRefusalCode};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

#[tokio::test]
async fn garbage_silence_and_floods_of_one_source_leave_others_served() {
    let (relay, scratch) = (Relay::start(Place::here()), Scratch::new());
    let server = Server::new(scratch.path(), "host");
    let mut registered = TestServerHalf::at(relay.address(), &server);
    registered.is_registered().await;
    let mut stream = ask(relay.address(), RelayTransport::Quic, server.digest).await.unwrap();
    let before = relay.usage();
    let mut held = vec![];
    for round in 0..2_000 {
        // All of them from 127.0.0.2; the other clients are 127.0.0.1.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        if let Ok(Ok(mut stranger)) = timeout(Duration::from_secs(1), socket.connect(relay.address())).await {
            if round % 2 == 0 {
                let _ = stranger.write_all(&[0x16, 3, 1, 0, 200, 1, 2, 3, 4, 5]).await;
            }
            held.push(stranger);
            if held.len() > 400 {
                held.remove(0);
            }
        }
    }
    echoes(&mut stream, 100_000).await;
    let mut another = ask(relay.address(), RelayTransport::Tls, server.digest).await.unwrap();
    echoes(&mut another, 100_000).await;
    let after = relay.usage();
    measured(
        "a relay before and after 2000 strangers",
        format_args!("{before:?}\n        {after:?}"),
    );
    assert!(
        after.resident.saturating_sub(before.resident) < 32 * 1024,
        "{before:?} {after:?}"
    );
    assert!(!relay.log().contains("panicked"), "{}", relay.log());
}

/// Connections per second and source; twice as many may be saved up.
const RATE: u64 = 5;
const HURRY: Duration = Duration::from_secs(5);

#[tokio::test]
async fn one_source_is_held_to_its_rate_over_quic_and_is_told_so() {
    let relay = Relay::with(
        Place::here(),
        &["--open", "--max-connections-per-second", &RATE.to_string()],
    );
    let (start, address) = (now(), relay.address());
    let (mut crowd, mut answered, mut told) = (JoinSet::new(), 0, 0);
    for _ in 0..16 {
        crowd.spawn(async move {
            let (mut answered, mut told) = (0, 0);
            while start.elapsed() < HURRY {
                match ask(address, RelayTransport::Quic, KeyDigest::new([7; 32])).await {
                    Err(RelayConnectError::Refused(refusal)) if refusal.code == RelayRefusalCode::NotRegistered => {
                        answered += 1
                    }
                    Err(error) if error.to_string().contains("too many connections") => told += 1,
                    // The relay forgets a refused connection after a while, and resets it if a packet comes later.
                    Err(error) if error.to_string().contains("reset by peer") => told += 1,
                    Err(RelayConnectError::Connect(error))
                        if error.to_string().contains("accepts no more connections") =>
                    {
                        told += 1
                    }
                    Err(error) => panic!("{error}"),
                    Ok(_) => panic!("nobody is registered"),
                }
            }
            (answered, told)
        });
    }
    while let Some(one) = crowd.join_next().await {
        let (one_answered, one_told) = one.unwrap();
        answered += one_answered;
        told += one_told;
    }
    let most = RATE * 2 + RATE * start.elapsed().as_secs() + RATE;
    measured(
        "a source's connections over QUIC",
        format_args!("{answered} answered, {told} turned away"),
    );
    assert!(
        answered >= RATE && answered <= most,
        "{answered} answered, at most {most}"
    );
    assert!(told > most, "only {told} attempts were beyond the limit");
}

/// All of them run in this process: that many processes would measure the machine, not the relay.
const SERVERS: usize = 200;
const STREAMS: usize = 2_000;

#[tokio::test]
async fn two_hundred_server_halves_and_two_thousand_streams_fit_one_relay() {
    // Each client has its own socket in this process.
    raise_descriptor_limit();
    let limits = [
        "--open",
        "--max-servers-per-source",
        "1000",
        "--max-splices-per-source",
        "5000",
    ];
    let relay = Relay::with(
        Place::here(),
        &[&limits[..], &["--max-connections-per-second", "100000"]].concat(),
    );
    let (scratch, idle) = (Scratch::new(), relay.usage().resident);
    let servers: Vec<Server> = (0..SERVERS)
        .map(|at| Server::new(scratch.path(), &format!("host{at}")))
        .collect();
    let mut registered: Vec<TestServerHalf> = servers
        .iter()
        .map(|server| TestServerHalf::at(relay.address(), server))
        .collect();
    for one in &mut registered {
        one.is_registered().await;
    }
    let with_servers = relay.usage().resident;
    let (mut streams, start, cpu) = (Vec::with_capacity(STREAMS), now(), relay.cpu());
    for at in 0..STREAMS {
        let stream = ask(relay.address(), RelayTransport::Quic, servers[at % SERVERS].digest).await;
        streams.push(stream.unwrap_or_else(|error| panic!("stream {at}: {error}")));
    }
    let (took, opening) = (now() - start, relay.cpu() - cpu);
    for stream in &mut streams {
        echoes(stream, 1_000).await;
    }
    let cpu = relay.cpu();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let resting = relay.cpu() - cpu;
    let full = relay.usage().resident;
    measured("memory of an idle relay, KiB", idle);
    measured("with 200 server halves, KiB", with_servers);
    measured("with 2000 streams beside, KiB", full);
    measured(
        "to open 2000 streams, s",
        format_args!("{:.1}, {opening:.2} of the relay's processor", took.as_secs_f64()),
    );
    measured(
        "processor for 2000 resting streams, of one core",
        format_args!("{:.1} %", resting / 3.0 * 100.0),
    );
    assert!(
        full - idle < (STREAMS as u64) * 128,
        "128 KiB a stream are plenty: {} KiB",
        full - idle
    );
}
