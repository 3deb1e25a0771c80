//! Server halves and clients at a relay who take nothing: what waits for them is bounded, and everybody else is served.

use crate::support::gate::UdpGate;
use crate::support::place::Place;
use crate::support::relay::Relay;
use crate::support::{Scratch, heavy, measured, measured_time, now};
use bowline::carrier::via::{
    AddressSource, IncomingStream, Registration, RegistrationSettings, RegistrationState, RelayAddress,
    RelayConnectRequest, RelayTransport, RelayWindow, ResolveFuture, ViaStream, connect,
};
use bowline::identity::raw_key::TlsKey;
use bowline::identity::statement::{load_host_keys, sign_host, verify_host};
use bowline::transport::quic::MtuCap;
use bowline::wire::KeyDigest;
use russh::keys::ssh_key::{Fingerprint, HashAlg};
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const TIME: Duration = Duration::from_secs(30);
/// How long it is tried to fill the relay.
const FLOOD: Duration = Duration::from_secs(8);
/// What those who take nothing may make it hold, in KiB: four connections with one client each, from small windows on.
const HELD: u64 = 24 * 1024;
/// What a session's user may wait for an echo, 99 times of 100.
const ECHO: Duration = Duration::from_millis(300);
/// Lets a hostile server half be sent as much as anybody would buffer for it.
const GREEDY: u32 = 512 << 20;

/// A server half: it returns what clients send, or pours out bytes if the first is `POUR`.
struct ServerHalf {
    digest: KeyDigest,
    _tasks: JoinSet<()>,
}

const POUR: u8 = 0xff;

struct FixedAddress(SocketAddr);

impl AddressSource for FixedAddress {
    fn addresses(&self) -> ResolveFuture<'_, Vec<SocketAddr>> {
        Box::pin(std::future::ready(Ok(vec![self.0])))
    }
}

impl ServerHalf {
    /// One that is listed at the relay that is reached at `relay`.
    async fn at(relay: SocketAddr, scratch: &Scratch, name: &str, window: RelayWindow) -> ServerHalf {
        let host_key = scratch.join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&host_key)
            .status();
        assert!(made.expect("ssh-keygen").success());
        let key = TlsKey::generate();
        let (keys, _) = load_host_keys(&[host_key], &[]);
        let statement = sign_host(&keys[0].key, None, key.spki()).expect("a statement");
        let proven = verify_host(&statement, key.spki()).expect("a good one");
        let Fingerprint::Sha256(digest) = proven.key.fingerprint(HashAlg::Sha256) else {
            panic!("SHA-256 was asked for")
        };
        let settings = RegistrationSettings {
            key,
            statements: vec![statement],
            streams: 512,
            window,
            mtu_cap: MtuCap::default(),
            live: Arc::default(),
        };
        let registration = Registration::new("relay", Arc::new(FixedAddress(relay)), None, settings);
        let mut state = registration.state();
        let (incoming, arrived) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(registration.run(incoming, CancellationToken::new()));
        tasks.spawn(serve(arrived));
        let registered = state.wait_for(|state| matches!(state, RegistrationState::Registered { .. }));
        timeout(TIME, registered)
            .await
            .expect("registered in time")
            .expect("a registration");
        ServerHalf {
            digest: KeyDigest::new(digest),
            _tasks: tasks,
        }
    }
}

async fn serve(mut arrived: mpsc::Receiver<IncomingStream>) {
    let mut streams = JoinSet::new();
    while let Some(IncomingStream { mut stream, .. }) = arrived.recv().await {
        streams.spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                if buffer[0] == POUR {
                    while stream.write_all(&buffer).await.is_ok() {}
                    return;
                }
                if stream.write_all(&buffer[..read]).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            let _ = stream.shutdown().await;
        });
    }
}

async fn client(relay: SocketAddr, digest: KeyDigest, by: RelayTransport, window: RelayWindow) -> ViaStream {
    let address = RelayAddress {
        name: "relay".into(),
        address: relay,
        key: None,
    };
    let request = RelayConnectRequest {
        fingerprints: &[digest],
        key: &TlsKey::generate(),
        mtu_cap: MtuCap::default(),
        window,
    };
    let reached = timeout(TIME, connect(&address, by, &request)).await;
    reached.expect("an answer in time").expect("joined")
}

/// Times of echoes of a keystroke, one after the other until `end`.
async fn echoes(stream: &mut ViaStream, end: Instant) -> Vec<Duration> {
    let (mut times, mut back) = (vec![], [0; 8]);
    while now() < end {
        let sent = now();
        let echo = async {
            stream.write_all(b"keystrok").await?;
            stream.flush().await?;
            stream.read_exact(&mut back).await
        };
        timeout(TIME, echo).await.expect("an echo").expect("a session");
        times.push(sent.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
    times.sort();
    times
}

/// How long it takes until as much has come back as was sent.
async fn bulk(stream: &mut ViaStream, size: usize) -> Duration {
    let (sent, start) = (
        (0..size)
            .map(|at| (at * 7 + at / 251) as u8 & 0x7f)
            .collect::<Vec<u8>>(),
        now(),
    );
    let mut back = vec![0; size];
    let (mut read, mut write) = tokio::io::split(stream);
    let forth = async {
        write.write_all(&sent).await?;
        write.flush().await
    };
    let both = timeout(2 * TIME, async { tokio::join!(forth, read.read_exact(&mut back)) });
    let (sending, reading) = both.await.expect("all of it in time");
    sending.expect("sent");
    reading.expect("returned");
    assert!(back == sent, "what comes back is what was sent");
    start.elapsed()
}

#[track_caller]
fn assert_quick(times: &[Duration], what: &str) {
    let p99 = times[times.len() * 99 / 100];
    measured_time(&format!("echo through a relay, p99 of {}, {what}", times.len()), p99);
    assert!(p99 < ECHO, "{p99:?} {what}");
}

/// Pushes until nothing more is taken.
fn push(pushing: &mut JoinSet<()>, mut stream: ViaStream) {
    pushing.spawn(async move {
        let chunk = vec![0; 64 * 1024];
        while stream.write_all(&chunk).await.is_ok() {}
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn server_halves_that_stop_acknowledging_do_not_fill_the_relay() {
    let _turn = heavy();
    let (relay, scratch) = (Relay::start(Place::here()), Scratch::new());
    let honest = ServerHalf::at(relay.address(), &scratch, "honest", RelayWindow::default()).await;
    let mut user = client(
        relay.address(),
        honest.digest,
        RelayTransport::Quic,
        RelayWindow::default(),
    )
    .await;
    let calm = bulk(&mut user, 8 << 20).await;
    // Each is a registration of its own, behind a path that is to vanish.
    let gate = UdpGate::to(relay.address());
    let (mut hostile, mut pushing) = (vec![], JoinSet::new());
    for at in 0..4 {
        let server = ServerHalf::at(
            gate.address(),
            &scratch,
            &format!("hostile{at}"),
            RelayWindow::new(GREEDY),
        )
        .await;
        let mut stream = client(
            relay.address(),
            server.digest,
            RelayTransport::Quic,
            RelayWindow::default(),
        )
        .await;
        // The window has grown before it is used against the relay.
        bulk(&mut stream, 4 << 20).await;
        hostile.push((server, stream));
    }
    let before = relay.usage();
    gate.cut();
    let mut servers = vec![];
    for (server, stream) in hostile {
        servers.push(server);
        push(&mut pushing, stream);
    }
    let times = echoes(&mut user, now() + FLOOD).await;
    let after = relay.usage();
    measured(
        "a relay before and after four server halves stopped acknowledging",
        format_args!("{before:?}\n        {after:?}"),
    );
    let flooded = bulk(&mut user, 8 << 20).await;
    measured(
        "8 MiB there and back, without and with them",
        format_args!("{calm:?} {flooded:?}"),
    );
    assert_quick(&times, "with server halves that do not acknowledge");
    assert!(
        flooded < 5 * calm + Duration::from_secs(1),
        "{calm:?} before, {flooded:?} with them"
    );
    let grown = after.resident.saturating_sub(before.resident);
    assert!(grown < 4 * HELD, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_halves_that_never_acknowledge_cost_what_they_began_with() {
    let _turn = heavy();
    let (relay, scratch) = (Relay::start(Place::here()), Scratch::new());
    let gate = UdpGate::to(relay.address());
    let (mut hostile, mut pushing) = (vec![], JoinSet::new());
    for at in 0..4 {
        let server = ServerHalf::at(
            gate.address(),
            &scratch,
            &format!("hostile{at}"),
            RelayWindow::new(GREEDY),
        )
        .await;
        let stream = client(
            relay.address(),
            server.digest,
            RelayTransport::Quic,
            RelayWindow::default(),
        )
        .await;
        hostile.push((server, stream));
    }
    let before = relay.usage();
    gate.cut();
    let mut servers = vec![];
    for (server, stream) in hostile {
        servers.push(server);
        push(&mut pushing, stream);
    }
    sleep(FLOOD).await;
    let after = relay.usage();
    measured(
        "a relay before and after four server halves never acknowledged",
        format_args!("{before:?}\n        {after:?}"),
    );
    let grown = after.resident.saturating_sub(before.resident);
    assert!(grown < HELD, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_nothing_do_not_stop_others_of_the_same_server_half() {
    let _turn = heavy();
    let (relay, scratch) = (Relay::start(Place::here()), Scratch::new());
    let server = ServerHalf::at(relay.address(), &scratch, "host", RelayWindow::default()).await;
    let mut user = client(
        relay.address(),
        server.digest,
        RelayTransport::Quic,
        RelayWindow::default(),
    )
    .await;
    let before = relay.usage();
    let mut stalled = vec![];
    for at in 0..24 {
        let by = [RelayTransport::Quic, RelayTransport::Tls][at % 2];
        let mut stream = client(relay.address(), server.digest, by, RelayWindow::new(16 << 10)).await;
        stream.write_all(&[POUR]).await.expect("asked");
        stream.flush().await.expect("asked");
        stalled.push(stream);
    }
    let times = echoes(&mut user, now() + FLOOD).await;
    let after = relay.usage();
    measured(
        "a relay before and with 24 clients that read nothing",
        format_args!("{before:?}\n        {after:?}"),
    );
    assert_quick(&times, "with clients that read nothing");
    measured_time("8 MiB there and back beside them", bulk(&mut user, 8 << 20).await);
    let grown = after.resident.saturating_sub(before.resident);
    assert!(grown < 24 * 3 * 1024, "3 MiB a path: {grown} KiB");
    drop(stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_little_memory_paths_are_slower_and_nothing_is_lost() {
    let _turn = heavy();
    const PATHS: usize = 12;
    let relay = Relay::with(Place::here(), &["--open", "--memory-budget", "4MiB"]);
    let scratch = Scratch::new();
    let server = ServerHalf::at(relay.address(), &scratch, "host", RelayWindow::default()).await;
    let before = relay.usage();
    let mut bulks = JoinSet::new();
    for at in 0..PATHS {
        let by = [RelayTransport::Quic, RelayTransport::Tls][at % 2];
        let mut stream = client(relay.address(), server.digest, by, RelayWindow::default()).await;
        bulks.spawn(async move { bulk(&mut stream, 2 << 20).await });
    }
    let times = timeout(4 * TIME, bulks.join_all()).await.expect("all of them in time");
    let after = relay.usage();
    measured(
        "2 MiB on each of 12 paths, 4 MiB of memory",
        format_args!("{:?}", times.iter().max()),
    );
    let grown = after.resident.saturating_sub(before.resident);
    measured("of which the relay grew, KiB", grown);
    assert!(grown < 20 * 1024, "{grown} KiB");
    // Base parts for some dozen paths, and then no more.
    let mut kept = vec![];
    let address = RelayAddress {
        name: "relay".into(),
        address: relay.address(),
        key: None,
    };
    let refused = loop {
        let request = RelayConnectRequest {
            fingerprints: &[server.digest],
            key: &TlsKey::generate(),
            mtu_cap: MtuCap::default(),
            window: RelayWindow::default(),
        };
        match timeout(TIME, connect(&address, RelayTransport::Tls, &request))
            .await
            .expect("an answer")
        {
            Ok(stream) if kept.len() < 100 => kept.push(stream),
            Ok(_) => panic!("100 paths in 4 MiB"),
            Err(error) => break error,
        }
    };
    assert!(refused.to_string().contains("no memory"), "{refused}");
    assert!(kept.len() > 10, "{} paths", kept.len());
}
