//! Strangers who connect and say nothing, from a few networks, as many as there are permits: users come in beside them.

use crate::scenarios::echo_probe::{EchoProbe, UNDISTURBED};
use crate::support::echo::TcpEcho;
use crate::support::peer::{RawClient, open};
use crate::support::place::Place;
use crate::support::process::raise_descriptor_limit;
use crate::support::relay::{REGISTERED, Relay};
use crate::support::rig::Rig;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::sshd::TestSshd;
use crate::support::{heavy, measured, measured_time, now, wait_for};
use bowline::carrier::via::{self, RelayAddress, RelayConnectRequest, RelayTransport, RelayWindow};
use bowline::carrier::{self, Dialed, dial_quic};
use bowline::identity::known_hosts::tls_key_fingerprint;
use bowline::identity::raw_key::{ServerKey, TlsKey, client_config};
use bowline::transport::quic::MtuCap;
use bowline::transport::tls;
use bowline::wire::{ALPN, Answer, Epoch, Frame, Hello, KeyDigest, Offset, RelayMessage, Resume, SessionId};
use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use russh::keys::ssh_key::Fingerprint;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const OWNED: SessionId = SessionId::new([0x41; 16]);
/// Fewer permits than the 256 of the default, so that the strangers leave a processor to those who are measured.
const FEW: [&str; 2] = ["--max-half-open", "64"];
/// Four times this are all the permits for carriers without a session: eight for each handshake.
const SILENT: usize = 128;
/// An owner's resume, and a new user's open, through all of them. The machine of the tests is busy.
const AT_ONCE: Duration = Duration::from_secs(2);
/// What one silent stranger may make a server half hold, in KiB, what is left of the one before it included.
const HELD: u64 = 80;

/// A server half in front of an echo that lets anybody open.
struct Scene {
    serve: Serve,
    _echo: TcpEcho,
    _sshd: TestSshd,
}

impl Scene {
    fn new(more: &[&str]) -> Scene {
        raise_descriptor_limit();
        let (sshd, echo) = (TestSshd::start(), TcpEcho::start());
        let mut options = ServeOptions::here().argument("--auth").argument("none");
        for key in sshd.host_keys() {
            options = options.argument("--host-key").argument(key);
        }
        options = more.iter().fold(options, |options, more| options.argument(*more));
        Scene {
            serve: Serve::start_before(echo.address(), options),
            _echo: echo,
            _sshd: sshd,
        }
    }

    fn opened(&self, session: SessionId, key: &TlsKey) -> RawClient {
        let mut client = RawClient::dial(self.serve.udp(), key);
        let answer = client.ask(&open(session, 1));
        assert!(matches!(answer, Some(Answer::Accepted(_))), "{answer:?}");
        client
    }
}

fn resume(at: Offset, epoch: u32) -> Hello {
    Hello::Resume(Resume {
        session: OWNED,
        epoch: Epoch::new(epoch),
        received: at,
        window: 1 << 20,
    })
}

/// An address in a network of its own: the n-th stranger's.
fn stranger(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 10 + n, 0, 1)
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime")
}

fn quic_client() -> quinn::ClientConfig {
    let tls = client_config(&TlsKey::generate(), ServerKey::Any, ALPN).expect("a TLS configuration");
    let tls = QuicClientConfig::try_from(tls).expect("a suite for QUIC");
    quinn::ClientConfig::new(Arc::new(tls))
}

/// Sends four bytes and waits for them; copies of what came before are skipped.
fn echo(session: &mut RawClient, at: &mut Offset) {
    let bytes = Bytes::from_static(b"echo");
    session
        .send(&Frame::Data { offset: *at, bytes })
        .expect("an open carrier");
    let end = at.saturating_add(4);
    while *at < end {
        match session.next_frame().expect("an open carrier") {
            Frame::Data { offset, bytes } => *at = (*at).max(offset.saturating_add(bytes.len() as u64)),
            Frame::Close { code, message } => panic!("closed: {code:?} {message}"),
            _ => {}
        }
    }
    let (delivered, window) = (end, 1 << 20);
    session
        .send(&Frame::Ack { delivered, window })
        .expect("an open carrier");
}

#[test]
fn four_networks_of_silent_carriers_keep_neither_an_owner_nor_a_new_user_out() {
    let _turn = heavy();
    raise_descriptor_limit();
    let options = ["--auth", "none"].iter().chain(&FEW);
    let rig = Rig::with(
        options.fold(ServeOptions::here(), |all, one| all.argument(*one)),
        |setup| setup,
    );
    let (key, server, runtime) = (TlsKey::generate(), rig.serve().udp(), runtime());
    let mut owner = RawClient::dial(server, &key);
    let answer = owner.ask(&open(OWNED, 1));
    assert!(matches!(answer, Some(Answer::Accepted(_))), "{answer:?}");
    let probe = EchoProbe::start(&rig);
    let quiet = probe.watch(Duration::from_secs(2));
    let (before, start, dialed) = (rig.serve().usage(), now(), Arc::new(AtomicU64::new(0)));
    let mut strangers = JoinSet::new();
    for n in 0..4 {
        let _inside = runtime.enter();
        let endpoint = quinn::Endpoint::client((stranger(n), 0).into()).expect("an address of loopback");
        for at in 0..SILENT {
            let first = Duration::from_millis(20) * at as u32;
            let silent = silent(endpoint.clone(), server, first, Arc::clone(&dialed));
            strangers.spawn_on(silent, runtime.handle());
        }
    }
    let all = wait_for(Duration::from_secs(60), || {
        (dialed.load(Relaxed) >= 4 * SILENT as u64).then_some(())
    });
    assert!(all.is_some(), "only {} strangers came", dialed.load(Relaxed));
    let asked = now();
    let answer = RawClient::dial(server, &key).ask(&resume(Offset::ZERO, 2));
    let resumed = asked.elapsed();
    assert!(matches!(answer, Some(Answer::Accepted(_))), "{answer:?}");
    let opened = rig.ssh.remote("exit 7", Duration::from_secs(30));
    std::thread::sleep(Duration::from_secs(3));
    let (flooded, after) = (probe.since(start), rig.serve().usage());
    measured("silent carriers", dialed.load(Relaxed));
    measured_time("an owner's resume among them", resumed);
    measured_time("ssh true, opened among them", opened.took);
    measured("echo before and among them", format_args!("{quiet}; {flooded}"));
    measured(
        "server half before and after",
        format_args!("{before:?}\n        {after:?}"),
    );
    let held = after.resident.saturating_sub(before.resident) / (4 * SILENT as u64);
    measured("KiB for each silent carrier", held);
    opened.expect_code(7);
    assert!(resumed < AT_ONCE, "{resumed:?}");
    flooded.expect_p99_within(UNDISTURBED);
    assert!(held < HELD, "{before:?} {after:?}");
    assert_eq!(rig.serve().logged("panicked"), 0, "{}", rig.serve().log());
    probe.finish();
}

/// Connects, says nothing, and does so again when it is closed.
async fn silent(endpoint: quinn::Endpoint, server: SocketAddr, first: Duration, dialed: Arc<AtomicU64>) {
    sleep(first).await;
    loop {
        if let Ok(dialing) = endpoint.connect_with(quic_client(), server, "bowline")
            && let Ok(connection) = dialing.await
        {
            dialed.fetch_add(1, Relaxed);
            connection.closed().await;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

#[test]
fn four_networks_of_unfinished_handshakes_keep_no_owner_out() {
    let _turn = heavy();
    let scene = Scene::new(&[]);
    let (key, mut at) = (TlsKey::generate(), Offset::ZERO);
    let mut session = scene.opened(OWNED, &key);
    session.assert_echoes(&mut at, b"before");
    let (server, runtime) = (scene.serve.udp(), runtime());
    let begun = Arc::new(AtomicU64::new(0));
    let mut strangers = JoinSet::new();
    for n in 0..4 {
        for _ in 0..80 {
            strangers.spawn_on(unfinished(stranger(n), server, Arc::clone(&begun)), runtime.handle());
        }
    }
    // A quarter each is all that there is: 64.
    let all = wait_for(Duration::from_secs(30), || (begun.load(Relaxed) >= 256).then_some(()));
    assert!(all.is_some(), "only {} handshakes were begun", begun.load(Relaxed));
    let (mut slowest, mut epoch) = (Duration::ZERO, 1);
    for _ in 0..5 {
        epoch += 1;
        let start = now();
        let mut resumed = RawClient::dial(server, &key);
        let answer = resumed.ask(&resume(at, epoch));
        assert!(matches!(answer, Some(Answer::Accepted(_))), "{answer:?}");
        slowest = slowest.max(start.elapsed());
        echo(&mut resumed, &mut at);
    }
    measured("handshakes that were begun", begun.load(Relaxed));
    measured_time("the slowest of an owner's five resumes among them", slowest);
    assert!(slowest < AT_ONCE, "{slowest:?}");
}

/// A client of QUIC that proves its address and never answers the server's first flight; again and again.
async fn unfinished(from: Ipv4Addr, server: SocketAddr, begun: Arc<AtomicU64>) {
    loop {
        // Between the client and the server: lets nothing of the client pass once the server has said more than Retry.
        let near = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port");
        let far = tokio::net::UdpSocket::bind((from, 0)).await.expect("a port");
        let between = near.local_addr().expect("bound");
        let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let dialing = endpoint
            .connect_with(quic_client(), between, "bowline")
            .expect("a fair configuration");
        let forward = async {
            let (mut out, mut back) = ([0; 2048], [0; 2048]);
            let (mut client, mut is_answered) = (between, false);
            loop {
                tokio::select! {
                    Ok((length, sender)) = near.recv_from(&mut out) => {
                        client = sender;
                        if !is_answered {
                            let _ = far.send_to(&out[..length], server).await;
                        }
                    }
                    Ok((length, _)) = far.recv_from(&mut back) => {
                        // RFC 9000 section 17.2: the type of a long header; 3 is Retry.
                        if back[0] & 0x30 != 0x30 && !is_answered {
                            is_answered = true;
                            begun.fetch_add(1, Relaxed);
                        }
                        let _ = near.send_to(&back[..length], client).await;
                    }
                }
            }
        };
        let _ = timeout(Duration::from_secs(4), async { tokio::join!(dialing, forward) }).await;
    }
}

#[test]
fn five_networks_of_idle_connections_do_not_close_the_tls_port() {
    let _turn = heavy();
    let scene = Scene::new(&["--listen-tls", "127.0.0.1:0"]);
    let (key, mut at) = (TlsKey::generate(), Offset::ZERO);
    let mut session = scene.opened(OWNED, &key);
    session.assert_echoes(&mut at, b"before");
    let address: SocketAddr = scene
        .serve
        .ready_field("tls")
        .expect("a TLS port")
        .parse()
        .expect("an address");
    let runtime = runtime();
    let (idle, slowest) = runtime.block_on(async {
        let mut idle = vec![];
        for n in 0..5 {
            for _ in 0..80 {
                idle.push(connect(stranger(n), address).await);
            }
        }
        let mut slowest = Duration::ZERO;
        for epoch in 2..7 {
            let start = now();
            let (_, answer) = dial_tls(address, &key)
                .await
                .ask(&resume(at, epoch))
                .await
                .expect("an answer");
            assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
            slowest = slowest.max(start.elapsed());
        }
        (idle.len(), slowest)
    });
    measured("idle connections", idle);
    measured_time("the slowest of five resumes over TLS among them", slowest);
    assert!(slowest < AT_ONCE, "{slowest:?}");
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("an address of loopback");
    let connected = timeout(Duration::from_secs(5), socket.connect(to)).await;
    connected.expect("a connection in time").expect("a connection")
}

async fn dial_tls(address: SocketAddr, key: &TlsKey) -> Dialed {
    let dialing = async {
        let stream = tls::connect(address).await.expect("a connection");
        carrier::dial_tls(Box::new(stream), Some(address), key, ServerKey::Any).await
    };
    timeout(Duration::from_secs(10), dialing)
        .await
        .expect("a handshake in time")
        .expect("a handshake")
}

#[test]
fn four_networks_of_silent_clients_do_not_close_a_servers_path_by_a_relay() {
    let _turn = heavy();
    let relay = Relay::start(Place::here());
    let scene = Scene::new(&["--relay", &relay.name()]);
    let registered = wait_for(REGISTERED, || {
        (scene.serve.logged("registered at the relay") > 0).then_some(())
    });
    assert!(registered.is_some(), "{}", scene.serve.log());
    let key = TlsKey::generate();
    let mut session = scene.opened(OWNED, &key);
    let mut at = Offset::ZERO;
    session.assert_echoes(&mut at, b"before");
    let server_key = server_key(scene.serve.udp());
    let digest = digest(&server_key);
    let runtime = runtime();
    let (held, slowest) = runtime.block_on(async {
        let mut coming = JoinSet::new();
        for n in 0..320 {
            coming.spawn(reach_from(stranger(n as u8 % 4), relay.address(), digest));
        }
        let strangers = coming.join_all().await;
        let held = strangers.iter().flatten().count();
        assert!(held >= 256, "only {held} strangers were joined");
        let mut slowest = Duration::ZERO;
        for epoch in 2..7 {
            let start = now();
            let (_, answer) = ask_by_relay(relay.address(), digest, &key, &resume(at, epoch)).await;
            assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
            slowest = slowest.max(start.elapsed());
        }
        (held, slowest)
    });
    measured("silent clients of a relay", held);
    measured_time("the slowest of five resumes by the relay among them", slowest);
    assert!(slowest < AT_ONCE, "{slowest:?}");
}

/// The server half's TLS key.
fn server_key(server: SocketAddr) -> Vec<u8> {
    use bowline::transport::quic::QuicDialer;
    runtime().block_on(async {
        let dialer = QuicDialer::new(server, MtuCap::default()).expect("a socket");
        let dialed = dial_quic(&dialer, server, &TlsKey::generate(), ServerKey::Any)
            .await
            .expect("a server half");
        dialed.carrier().info().peer_key.to_vec()
    })
}

fn digest(spki: &[u8]) -> KeyDigest {
    match tls_key_fingerprint(spki) {
        Some(Fingerprint::Sha256(digest)) => KeyDigest::new(digest),
        other => panic!("{other:?}"),
    }
}

/// A stream to a server half by way of a relay, from an address of one's own.
async fn reach_from(
    from: Ipv4Addr,
    relay: SocketAddr,
    digest: KeyDigest,
) -> Option<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let config = client_config(&TlsKey::generate(), ServerKey::Any, b"bowline-relay/1").expect("a TLS configuration");
    let name = rustls::pki_types::ServerName::try_from("bowline").expect("a name");
    for _ in 0..20 {
        let stream = connect(from, relay).await;
        let connecting = tokio_rustls::TlsConnector::from(Arc::new(config.clone())).connect(name.clone(), stream);
        if let Ok(Ok(mut stream)) = timeout(Duration::from_secs(5), connecting).await {
            let word = RelayMessage::Reach {
                fingerprints: vec![digest],
            };
            stream.write_all(&word.encode()).await.expect("an open stream");
            let mut answer = RelayMessage::Reached.encode().to_vec();
            stream.read_exact(&mut answer).await.ok()?;
            return (answer == RelayMessage::Reached.encode()[..]).then_some(stream);
        }
        // The relay takes 50 connections a second from one source.
        sleep(Duration::from_millis(100)).await;
    }
    None
}

async fn ask_by_relay(
    relay: SocketAddr,
    digest: KeyDigest,
    key: &TlsKey,
    hello: &Hello,
) -> (bowline::carrier::Carrier, Answer) {
    let address = RelayAddress {
        name: "relay".into(),
        address: relay,
        key: None,
    };
    let request = RelayConnectRequest {
        fingerprints: &[digest],
        key: &TlsKey::generate(),
        mtu_cap: MtuCap::default(),
        window: RelayWindow::default(),
    };
    let asking = async {
        let stream = via::connect(&address, RelayTransport::Quic, &request)
            .await
            .expect("a stream");
        let dialed = carrier::dial_tls(Box::new(stream), None, key, ServerKey::Any)
            .await
            .expect("a handshake");
        dialed.ask(hello).await.expect("an answer")
    };
    timeout(Duration::from_secs(15), asking)
        .await
        .expect("an answer in time")
}

#[test]
fn a_carrier_that_says_nothing_is_closed_after_five_seconds_unless_it_asks_for_more() {
    let scene = Scene::new(&[]);
    let silent = |hello: Option<Hello>| {
        let mut client = RawClient::dial(scene.serve.udp(), &TlsKey::generate());
        if let Some(hello) = hello {
            client.say(&hello);
        }
        std::thread::sleep(Duration::from_secs(7));
        client.ask(&open(SessionId::new([0x50; 16]), 1))
    };
    let (quiet, waiting) = std::thread::scope(|scope| {
        let quiet = scope.spawn(|| silent(None));
        let waiting = scope.spawn(|| silent(Some(Hello::Wait)));
        (quiet.join().expect("no panic"), waiting.join().expect("no panic"))
    });
    assert_eq!(quiet, None, "closed");
    assert!(matches!(waiting, Some(Answer::Accepted(_))), "{waiting:?}");
}

#[test]
fn a_draft_version_of_quic_is_answered_with_version_1_and_nothing_else() {
    let scene = Scene::new(&[]);
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a socket of our own");
    // The drafts 29 to 34 of version 1, and version 2 (RFC 9369).
    for version in (29..=34).map(|draft| 0xff00_0000 + draft).chain([0x6b33_43cf]) {
        // RFC 9000 section 17.2.2: an Initial by its header, padded to 1200 bytes.
        let mut initial = vec![0xc0];
        initial.extend_from_slice(&u32::to_be_bytes(version));
        initial.extend_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8, 4, 9, 9, 9, 9, 0]);
        initial.resize(1200, 0);
        socket.send_to(&initial, scene.serve.udp()).expect("sent");
        let mut answer = [0; 2048];
        let length = socket.recv(&mut answer).expect("an answer");
        // RFC 9000 section 17.2.1: version 0, both connection ids, and versions of four bytes.
        assert_eq!(answer[1..5], [0; 4], "Version Negotiation for {version:#x}");
        let versions = answer[5 + 1 + 4 + 1 + 8..length].chunks(4);
        let versions = versions.map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes")));
        // Section 15: versions of the form 0x?a?a?a?a are nobody's.
        let offered: Vec<u32> = versions
            .filter(|version| version & 0x0f0f_0f0f != 0x0a0a_0a0a)
            .collect();
        assert_eq!(offered, [1], "for {version:#x}");
    }
}

#[test]
fn idle_connections_from_five_networks_do_not_close_a_relay() {
    let _turn = heavy();
    raise_descriptor_limit();
    let relay = Relay::start(Place::here());
    let runtime = runtime();
    let slowest = runtime.block_on(async {
        let mut idle = vec![];
        // 512 permits, a quarter for each address.
        for n in 0..5 {
            for _ in 0..130 {
                idle.push(connect(stranger(n), relay.address()).await);
                sleep(Duration::from_millis(5)).await;
            }
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..5 {
            let start: Instant = now();
            assert!(is_answered(relay.address()).await, "{}", relay.log());
            slowest = slowest.max(start.elapsed());
        }
        slowest
    });
    measured_time("the slowest of five answers of a relay among idle connections", slowest);
    assert!(slowest < AT_ONCE, "{slowest:?}");
}

/// Whether a relay says over TLS that it does not know a key.
async fn is_answered(relay: SocketAddr) -> bool {
    let address = RelayAddress {
        name: "relay".into(),
        address: relay,
        key: None,
    };
    let request = RelayConnectRequest {
        fingerprints: &[KeyDigest::new([7; 32])],
        key: &TlsKey::generate(),
        mtu_cap: MtuCap::default(),
        window: RelayWindow::default(),
    };
    let asked = timeout(
        Duration::from_secs(15),
        via::connect(&address, RelayTransport::Tls, &request),
    )
    .await;
    matches!(asked, Ok(Err(bowline::carrier::via::RelayConnectError::Refused(_))))
}
