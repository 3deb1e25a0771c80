//! A real relay process with server halves, some of them dishonest, clients, and strangers.

#![allow(clippy::unwrap_used)]

#[path = "relay/crowd.rs"]
mod crowd;
#[path = "relay/status.rs"]
mod status;
mod support;

use bowline::carrier::via::{
    AddressSource, IncomingStream, Registration, RegistrationSettings, RegistrationState, RelayAddress,
    RelayConnectError, RelayConnectRequest, RelayTransport, RelayWindow, ResolveFuture, ViaStream, connect,
};
use bowline::identity::raw_key::TlsKey;
use bowline::identity::statement::{load_host_keys, sign_host, verify_host};
use bowline::transport::quic::MtuCap;
use bowline::wire::{KeyDigest, RelayRefusalCode, Statement};
use russh::keys::ssh_key::{Fingerprint, HashAlg};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use support::place::Place;
use support::process::run;
use support::relay::Relay;
use support::{BOWLINE, Scratch, measured_time, now};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const TIME: Duration = Duration::from_secs(20);
const BOTH: [RelayTransport; 2] = [RelayTransport::Quic, RelayTransport::Tls];

/// A server half as a relay sees it: a TLS key, and a host key that certifies it.
struct Server {
    key: TlsKey,
    statements: Vec<Statement>,
    digest: KeyDigest,
}

impl Server {
    fn new(folder: &Path, name: &str) -> Server {
        let key = TlsKey::generate();
        let statement = statement(&host_key(folder, name), &key);
        let proven = verify_host(&statement, key.spki()).unwrap();
        let Fingerprint::Sha256(digest) = proven.key.fingerprint(HashAlg::Sha256) else {
            panic!("SHA-256 was asked for")
        };
        Server {
            key,
            statements: vec![statement],
            digest: KeyDigest::new(digest),
        }
    }

    fn settings(&self) -> RegistrationSettings {
        RegistrationSettings {
            key: self.key.clone(),
            statements: self.statements.clone(),
            streams: 512,
            window: RelayWindow::default(),
            mtu_cap: MtuCap::default(),
            live: Arc::default(),
        }
    }
}

fn host_key(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&path)
        .status();
    assert!(made.unwrap().success());
    path
}

fn statement(host_key: &Path, key: &TlsKey) -> Statement {
    let (keys, _) = load_host_keys(&[host_key.to_owned()], &[]);
    sign_host(&keys[0].key, None, key.spki()).unwrap()
}

/// A relay at a fixed address.
struct FixedAddress(SocketAddr);

impl AddressSource for FixedAddress {
    fn addresses(&self) -> ResolveFuture<'_, Vec<SocketAddr>> {
        Box::pin(std::future::ready(Ok(vec![self.0])))
    }
}

/// A server half that registers, and echoes what clients send.
struct TestServerHalf {
    state: tokio::sync::watch::Receiver<RegistrationState>,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

impl TestServerHalf {
    fn at(relay: SocketAddr, server: &Server) -> TestServerHalf {
        let way = Arc::new(FixedAddress(relay));
        let registration = Registration::new("relay", way, None, server.settings());
        let (state, stop) = (registration.state(), CancellationToken::new());
        let (incoming, arrived) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(registration.run(incoming, stop.clone()));
        tasks.spawn(echo(arrived));
        TestServerHalf {
            state,
            stop,
            _tasks: tasks,
        }
    }

    async fn is_registered(&mut self) {
        let registered = self
            .state
            .wait_for(|state| matches!(state, RegistrationState::Registered { .. }));
        timeout(TIME, registered).await.expect("registered in time").unwrap();
    }

    /// Waits until the registration is refused for this reason.
    async fn is_refused(&mut self, why: &str) {
        let refused = self.state.wait_for(|state| match state {
            RegistrationState::Trying { failure } => failure.as_ref().is_some_and(|failure| failure.contains(why)),
            RegistrationState::Registered { .. } => false,
        });
        timeout(TIME, refused).await.expect("refused in time").unwrap();
    }

    /// Waits for the reason of the next refusal.
    async fn refusal(&mut self) -> String {
        let failed = |state: &RegistrationState| matches!(state, RegistrationState::Trying { failure: Some(_) });
        match &*timeout(TIME, self.state.wait_for(failed))
            .await
            .expect("refused in time")
            .unwrap()
        {
            RegistrationState::Trying { failure } => failure.clone().unwrap(),
            RegistrationState::Registered { .. } => unreachable!("waited for a failure"),
        }
    }
}

async fn echo(mut arrived: mpsc::Receiver<IncomingStream>) {
    let mut streams = JoinSet::new();
    while let Some(IncomingStream { mut stream, .. }) = arrived.recv().await {
        streams.spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..read]).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            let _ = stream.shutdown().await;
        });
    }
}

async fn ask(relay: SocketAddr, by: RelayTransport, digest: KeyDigest) -> Result<ViaStream, RelayConnectError> {
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
    timeout(TIME, connect(&address, by, &request))
        .await
        .expect("an answer in time")
}

fn refused(answer: Result<ViaStream, RelayConnectError>) -> RelayRefusalCode {
    match answer {
        Err(RelayConnectError::Refused(refusal)) => refusal.code,
        Err(error) => panic!("no refusal: {error}"),
        Ok(_) => panic!("taken"),
    }
}

async fn echoes(stream: &mut ViaStream, size: usize) {
    let sent: Vec<u8> = (0..size).map(|at| (at * 7 + at / 251) as u8).collect();
    let mut back = vec![0; size];
    let (mut read, mut write) = tokio::io::split(stream);
    let forth = async {
        write.write_all(&sent).await.unwrap();
        write.flush().await.unwrap();
    };
    let (_, returned) = timeout(TIME, async { tokio::join!(forth, read.read_exact(&mut back)) })
        .await
        .expect("an echo in time");
    returned.unwrap();
    assert!(back == sent, "what comes back is what was sent");
}

#[tokio::test]
async fn a_client_is_joined_to_whoever_proved_the_key_by_either_transport_on_either_side() {
    let (relay, scratch) = (Relay::start(Place::here()), Scratch::new());
    let server = Server::new(scratch.path(), "host");
    let mut registered = TestServerHalf::at(relay.address(), &server);
    registered.is_registered().await;
    for by in BOTH {
        let mut stream = ask(relay.address(), by, server.digest).await.unwrap();
        echoes(&mut stream, 300_000).await;
        // A half-close is forwarded, and the answer to it arrives.
        stream.write_all(b"last").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = vec![];
        timeout(TIME, stream.read_to_end(&mut rest))
            .await
            .expect("an end in time")
            .unwrap();
        assert_eq!(rest, b"last");
        // TLS over the stream shuts it down too.
        stream.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn only_a_proven_key_is_listed_and_only_under_its_own_name() {
    let (relay, scratch) = (Relay::start(Place::here()), Scratch::new());
    let (honest, mut thief) = (
        Server::new(scratch.path(), "honest"),
        Server::new(scratch.path(), "thief"),
    );
    // The statements of another server half, which anybody can receive from it.
    thief.statements = honest.statements.clone();
    let mut registered = TestServerHalf::at(relay.address(), &thief);
    assert!(registered.refusal().await.contains("not-proven"));
    for by in BOTH {
        assert_eq!(
            refused(ask(relay.address(), by, honest.digest).await),
            RelayRefusalCode::NotRegistered
        );
    }
    // An invalid statement among valid ones is ignored.
    let mut mixed = Server::new(scratch.path(), "mixed");
    mixed.statements.extend(honest.statements.iter().cloned());
    let mut registered = TestServerHalf::at(relay.address(), &mixed);
    registered.is_registered().await;
    assert!(ask(relay.address(), RelayTransport::Quic, mixed.digest).await.is_ok());
    assert_eq!(
        refused(ask(relay.address(), RelayTransport::Quic, honest.digest).await),
        RelayRefusalCode::NotRegistered
    );
}

#[tokio::test]
async fn a_list_of_host_keys_says_who_may_be_listed() {
    let scratch = Scratch::new();
    let (wanted, other) = (
        Server::new(scratch.path(), "wanted"),
        Server::new(scratch.path(), "other"),
    );
    let list = scratch.join("servers");
    std::fs::write(&list, format!("# ours\n{}\n", wanted.digest)).unwrap();
    let relay = Relay::with(Place::here(), &["--allow-servers", &list.display().to_string()]);
    let mut refused = TestServerHalf::at(relay.address(), &other);
    assert!(refused.refusal().await.contains("not-allowed"));
    TestServerHalf::at(relay.address(), &wanted).is_registered().await;
}

#[tokio::test]
async fn at_sighup_a_relay_lists_by_the_file_of_now_and_a_broken_one_changes_nothing() {
    let scratch = Scratch::new();
    let server = |name: &str| Server::new(scratch.path(), name);
    let (old, new, third) = (server("old"), server("new"), server("third"));
    let (list, config) = (scratch.join("servers"), scratch.join("bowline.toml"));
    std::fs::write(&list, old.digest.to_string()).unwrap();
    std::fs::write(&config, format!("[relay]\nallow-servers = '{}'\n", list.display())).unwrap();
    let relay = Relay::with(Place::here(), &["--config", &config.display().to_string()]);
    let mut first = TestServerHalf::at(relay.address(), &old);
    first.is_registered().await;
    let mut refused = TestServerHalf::at(relay.address(), &new);
    assert!(refused.refusal().await.contains("not-allowed"));
    drop(refused);

    std::fs::write(&list, new.digest.to_string()).unwrap();
    reload(&relay, "\"reloaded\"").await;
    TestServerHalf::at(relay.address(), &new).is_registered().await;
    // A server half that the new file does not allow is removed, and gets the reason when it
    // registers again.
    first.is_refused("not-allowed").await;

    std::fs::write(&config, "[relay]\nmax-serves = 1\n").unwrap();
    reload(&relay, "reload failed: ").await;
    assert_eq!(relay.logged("line 2: unknown key `max-serves`"), 1, "{}", relay.log());
    TestServerHalf::at(relay.address(), &new).is_registered().await;

    std::fs::write(&config, "[relay]\nopen = true\nmax-servers-per-source = 1\n").unwrap();
    reload(&relay, "\"reloaded\"").await;
    let mut only = TestServerHalf::at(relay.address(), &third);
    only.is_registered().await;
    TestServerHalf::at(relay.address(), &old).is_refused("quota").await;
}

/// Sends SIGHUP until the relay has logged once more what is expected.
async fn reload(relay: &Relay, expected: &str) {
    let before = relay.logged(expected);
    relay.hang_up();
    let said = async {
        while relay.logged(expected) == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TIME, said).await.unwrap_or_else(|_| panic!("{}", relay.log()));
}

#[tokio::test]
async fn a_relay_that_is_told_to_stop_leaves_running_streams_time_to_end() {
    let (mut relay, scratch) = (Relay::start(Place::here()), Scratch::new());
    let (address, server) = (relay.address(), Server::new(scratch.path(), "host"));
    let mut registered = TestServerHalf::at(address, &server);
    registered.is_registered().await;
    let mut stream = ask(address, RelayTransport::Tls, server.digest).await.unwrap();
    echoes(&mut stream, 1000).await;
    let stopping = tokio::task::spawn_blocking(move || relay.stop(TIME));
    // New connections are refused, and the old stream continues.
    let closed = async {
        while ask(address, RelayTransport::Tls, server.digest).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TIME, closed).await.expect("closed in time");
    echoes(&mut stream, 100_000).await;
    stream.shutdown().await.unwrap();
    drop(stream);
    assert_eq!(stopping.await.unwrap(), Some(0), "it ends when the last stream has");
    registered.stop.cancel();
}

#[tokio::test]
async fn a_relay_that_died_is_registered_at_again_when_it_is_back() {
    let (mut relay, scratch) = (Relay::start(Place::here()), Scratch::new());
    let server = Server::new(scratch.path(), "host");
    let mut registered = TestServerHalf::at(relay.address(), &server);
    registered.is_registered().await;
    relay.kill();
    relay.start_again();
    let back = now();
    let reached = async {
        while ask(relay.address(), RelayTransport::Tls, server.digest).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), reached)
        .await
        .expect("registered again");
    measured_time("registered again after a relay came back", now() - back);
}

#[test]
fn a_relay_for_a_host_whose_key_nobody_knows_is_answered_with_what_to_do() {
    let scratch = Scratch::new();
    let mut proxy = Command::new(BOWLINE);
    proxy.args([
        "proxy",
        "ada@127.0.0.1",
        "9",
        "--transport",
        "tls",
        "--tls-port",
        "9",
        "--relay",
        "127.0.0.1:9",
    ]);
    proxy
        .arg("--known-hosts")
        .arg(scratch.join("none"))
        .arg("--state-dir")
        .arg(scratch.path());
    proxy
        .arg("-F")
        .arg("/dev/null")
        .env("HOME", scratch.path())
        .env_remove("SSH_AUTH_SOCK");
    let refused = run(&mut proxy, TIME).expect_code(69);
    for fact in [
        "relay 127.0.0.1:9, tcp 127.0.0.1:9",
        "no key of this host is known",
        "hint: ",
        "--pin",
    ] {
        assert!(refused.err().contains(fact), "no {fact:?} in {}", refused.err());
    }
}
