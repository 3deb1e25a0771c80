//! The library as other programs use it: a server half and clients in one process, over real UDP.

#![allow(clippy::unwrap_used)]

use bowline::carrier::{Path, dial_quic};
use bowline::client::{self, Boxed, ClientConfig, Credentials, EarlyData, HostTrust, OpenError, Port, Target};
use bowline::identity::raw_key::{ServerKey, TlsKey};
use bowline::identity::statement::ProvenKey;
use bowline::pump::Outcome;
use bowline::server::connect_sshd::FromLoopback;
use bowline::server::{Authority, RelaySettings, Server, ServerConfig, ServerLimits};
use bowline::session::SessionConfig;
use bowline::transport::quic::{EndpointSecrets, MtuCap, QuicDialer, QuicLimits, bind};
use bowline::wire::{Authorization, RefusalCode, UserName};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct Anybody;

impl HostTrust for Anybody {
    fn verify<'a>(
        &'a self,
        _proven: &'a [ProvenKey],
        _tls_key: &'a [u8],
    ) -> Boxed<'a, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async { Ok(()) })
    }
}

impl Credentials for Anybody {
    fn sign<'a>(&'a self, _round: usize, _message: &'a [u8]) -> Boxed<'a, Option<Vec<Authorization>>> {
        Box::pin(async { None })
    }

    fn handle_accepted(&self, _key: &[u8]) {}

    fn describe(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Somebody whose agent asks at each use, and counts how often it was asked.
#[derive(Default)]
struct SlowAgent(AtomicUsize);

impl Credentials for SlowAgent {
    fn sign<'a>(&'a self, round: usize, message: &'a [u8]) -> Boxed<'a, Option<Vec<Authorization>>> {
        Box::pin(async move {
            self.0.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_secs(8)).await;
            Anybody.sign(round, message).await
        })
    }

    fn handle_accepted(&self, _key: &[u8]) {}

    fn describe(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An upstream that sends back what it reads, and ends when its reader ends.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let (mut from, mut to) = stream.into_split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

fn serve(target: SocketAddr) -> (SocketAddr, CancellationToken) {
    serve_with(target, 256)
}

fn serve_with(target: SocketAddr, half_open: usize) -> (SocketAddr, CancellationToken) {
    let server = Server::new(ServerConfig {
        sockets: vec![bind("127.0.0.1:0".parse().unwrap()).unwrap()],
        tls_listeners: Vec::new(),
        relays: RelaySettings::default(),
        tls_key: TlsKey::generate(),
        statements: Vec::new(),
        secrets: EndpointSecrets::new([1; 32]),
        sshd: Arc::new(FromLoopback::new(target)),
        open_check: None,
        sshd_view: None,
        authority: Authority::Anyone,
        session: SessionConfig::default(),
        limits: ServerLimits {
            half_open,
            ..ServerLimits::default()
        },
        quic: QuicLimits::default(),
    })
    .unwrap();
    let (address, stop) = (server.local_addrs()[0], CancellationToken::new());
    tokio::task::spawn_local(server.run(stop.clone()));
    (address, stop)
}

fn config(server: SocketAddr) -> ClientConfig {
    ClientConfig {
        target: Target {
            host: server.ip().to_string(),
            ports: vec![Port::Quic(server.port())],
            family: None,
            relays: Vec::new(),
            alternate_routes: Vec::new(),
        },
        state_dir: None,
        user: UserName::new("anybody").expect("a user name"),
        trust: Arc::new(Anybody),
        credentials: Arc::new(Anybody),
        session: SessionConfig::default(),
        connect_timeout: Duration::from_secs(5),
        answer_timeout: Duration::from_secs(120),
        patience: None,
        mtu_cap: MtuCap::default(),
    }
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new()
        .run_until(tokio::time::timeout(Duration::from_secs(60), test))
        .await
        .expect("in time")
}

#[tokio::test]
async fn a_stream_carries_megabytes_both_ways_and_ends_in_good_order() {
    local(async {
        let (server, stop) = serve(echo().await);
        let stream = client::open(config(server)).await.unwrap().into_stream();
        let control = stream.control();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sent: Vec<u8> = (0..32u32 << 20).map(|n| (n ^ n >> 9) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::task::spawn_local(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
            writer
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        assert!(received == expected, "{} bytes", received.len());
        let stream = reader.unsplit(writing.await.unwrap());
        assert_eq!(stream.finish().await, Outcome::Finished);
        assert_eq!(control.stats().outages().outages, 0);
        stop.cancel();
    })
    .await;
}

#[tokio::test]
async fn what_was_said_before_goes_along_with_the_open_and_arrives_once() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (server, stop) = serve(listener.local_addr().unwrap());
        let (mut program, ours) = tokio::io::duplex(4096);
        program.write_all(b"SSH-2.0-first\r\n").await.unwrap();
        let (input, output) = tokio::io::split(ours);
        let mut input = EarlyData::new(input);
        let session = client::open_with(config(server), &mut input).await.unwrap();
        let (mut upstream, _) = listener.accept().await.unwrap();
        let mut first = [0; 15];
        upstream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"SSH-2.0-first\r\n", "though the session does not run yet");
        let running = tokio::task::spawn_local(session.run(input, output));
        program.write_all(b"then").await.unwrap();
        program.shutdown().await.unwrap();
        let mut rest = Vec::new();
        upstream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"then");
        drop(upstream);
        assert_eq!(running.await.unwrap(), Outcome::Finished);
        stop.cancel();
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_answers_after_eight_seconds_is_waited_for_and_asked_once() {
    local(async {
        let (server, stop) = serve(echo().await);
        let agent = Arc::new(SlowAgent::default());
        let config = ClientConfig {
            credentials: Arc::clone(&agent) as Arc<dyn Credentials>,
            ..config(server)
        };
        let mut stream = client::open(config).await.unwrap().into_stream();
        assert_eq!(agent.0.load(Relaxed), 1, "the first carrier was still there");
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        stop.cancel();
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_turned_away_is_told_so_and_gets_in_as_soon_as_a_silent_one_is_old_enough() {
    local(async {
        // One address gets a quarter: one handshake at a time, and eight silent carriers.
        let (server, stop) = serve_with(echo().await, 4);
        let mut silent = Vec::new();
        while silent.len() < 8 {
            let dialer = QuicDialer::new(server, MtuCap::default()).unwrap();
            match dial_quic(&dialer, server, &TlsKey::generate(), ServerKey::Any).await {
                Ok(dialed) => silent.push((dialer, dialed.host().await.unwrap())),
                Err(error) if error.is_busy() => tokio::time::sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{error}"),
            }
        }
        let in_a_hurry = ClientConfig {
            connect_timeout: Duration::from_millis(700),
            ..config(server)
        };
        let error = client::open(in_a_hurry).await.err().expect("nothing is free");
        assert!(
            matches!(&error, OpenError::Refused(refusal) if refusal.code == RefusalCode::RetryLater),
            "{error}"
        );
        let mut stream = client::open(config(server)).await.unwrap().into_stream();
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        stop.cancel();
    })
    .await;
}

#[tokio::test]
async fn nothing_listening_is_told_at_once_with_the_address() {
    local(async {
        let free = bind("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
        let begun = bowline::clock::now();
        let Err(OpenError::NoPath { attempts, .. }) = client::open(config(free)).await else {
            panic!("no path")
        };
        assert_eq!(attempts[0].path, Path::Quic(free));
        assert!(bowline::clock::now() - begun < Duration::from_secs(2));
    })
    .await;
}

#[tokio::test]
async fn a_stopped_server_half_says_so_to_its_clients() {
    local(async {
        let (server, stop) = serve(echo().await);
        let mut stream = client::open(config(server)).await.unwrap().into_stream();
        stream.write_all(b"hello").await.unwrap();
        stream.read_exact(&mut [0; 5]).await.unwrap();
        stop.cancel();
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        let outcome = stream.finish().await;
        assert!(
            matches!(&outcome, Outcome::ClosedByPeer(_, why) if why.contains("stopped")),
            "{outcome:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn what_was_written_before_the_stream_was_dropped_is_delivered() {
    local(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (server, stop) = serve(listener.local_addr().unwrap());
        let mut stream = client::open(config(server)).await.unwrap().into_stream();
        let outcome = stream.outcome();
        let sent = vec![7; 3 << 20];
        let reading = async {
            let (mut upstream, _) = listener.accept().await.unwrap();
            let mut received = Vec::new();
            upstream.read_to_end(&mut received).await.unwrap();
            received
        };
        let writing = async {
            stream.write_all(&sent).await.unwrap();
            drop(stream);
        };
        let (received, ()) = tokio::join!(reading, writing);
        assert!(received == sent, "{} bytes", received.len());
        assert_eq!(outcome.await, Outcome::Finished);
        stop.cancel();
    })
    .await;
}
