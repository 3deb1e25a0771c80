//! Stateless resets (RFC 9000 sections 10.3 and 21.11): a listener that did not make a connection must not give away what
//! ends it, and the one that made it must, once it was started anew.

use crate::support::place::Place;
use crate::support::relay::Relay;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::sshd::TestSshd;
use crate::support::{data, wait_for};
use bowline::identity::raw_key::{ServerKey, TlsKey, client_config};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Length of the connection ids of a server half and a relay.
const ID: usize = 8;
/// Length of a stateless reset token.
const TOKEN: usize = 16;
/// Packets on loopback, and their answers, have arrived by then.
const SETTLED: Duration = Duration::from_millis(400);
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn no_listener_of_a_server_half_gives_away_what_ends_connections_of_another() {
    let (_sshd, serve, v6) = server_half();
    nothing_is_given_away(b"bowline/1", [serve.udp(), v6]);
}

#[test]
fn no_listener_of_a_relay_gives_away_what_ends_connections_of_another() {
    let (relay, v6) = relay();
    nothing_is_given_away(b"bowline-relay/1", [relay.address(), v6]);
}

#[test]
fn clients_of_every_listener_of_a_server_half_notice_its_restart_within_a_packet() {
    let (_sshd, serve, v6) = server_half();
    let victims = [serve.udp(), v6].map(|address| Victim::of(address, b"bowline/1"));
    let killed = serve.half().kill_worker();
    serve.half().worker_after(killed);
    victims.iter().for_each(Victim::expect_reset);
}

#[test]
fn clients_of_every_listener_of_a_relay_notice_its_restart_within_a_packet() {
    let (mut relay, v6) = relay();
    let victims = [relay.address(), v6].map(|address| Victim::of(address, b"bowline-relay/1"));
    relay.kill();
    relay.start_again();
    victims.iter().for_each(Victim::expect_reset);
}

fn server_half() -> (TestSshd, Serve, SocketAddr) {
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, Place::free_port()));
    let options = ServeOptions::here().argument("--listen").argument(v6.to_string());
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, options);
    (sshd, serve, v6)
}

fn relay() -> (Relay, SocketAddr) {
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, Place::free_port()));
    let relay = Relay::with(Place::here(), &["--open", "--listen", &v6.to_string()]);
    (relay, v6)
}

/// The attack: whoever saw one packet of a connection shows its id to the other listener, and sends the client what that
/// answers.
fn nothing_is_given_away(alpn: &[u8], [one, other]: [SocketAddr; 2]) {
    for (made, asked) in [(one, other), (other, one)] {
        let victim = Victim::of(made, alpn);
        let id = victim.path.observed();
        if let Some(token) = ask_for_reset(asked, id) {
            victim.path.forge_reset(token);
        }
        std::thread::sleep(SETTLED);
        let ended = victim.connection.close_reason();
        assert_eq!(ended, None, "{asked} gave away what ends a connection with {made}");
    }
}

/// What a socket answers to a packet of a connection that it does not have: the last bytes of it.
fn ask_for_reset(listener: SocketAddr, id: [u8; ID]) -> Option<[u8; TOKEN]> {
    let any = match listener {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    };
    let socket = UdpSocket::bind(any).expect("a UDP port on loopback");
    socket.set_read_timeout(Some(SETTLED)).expect("a socket of our own");
    let mut packet = data::random_bytes(1, 200);
    packet[0] = 0x40 | packet[0] & 0x3f;
    packet[1..=ID].copy_from_slice(&id);
    socket.send_to(&packet, listener).expect("loopback takes it");
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).ok()?;
    answer[..length].last_chunk().copied()
}

/// A client of a listener, behind a path that somebody watches.
struct Victim {
    connection: Connection,
    path: WatchedPath,
    runtime: Runtime,
}

impl Victim {
    fn of(server: SocketAddr, alpn: &[u8]) -> Victim {
        let path = WatchedPath::to(server);
        let runtime = Runtime::new().expect("a runtime");
        let tls = client_config(&TlsKey::generate(), ServerKey::Any, alpn).expect("a TLS configuration");
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a suite for QUIC")));
        let connection = runtime.block_on(async {
            let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a UDP port on loopback");
            let connecting = endpoint.connect_with(config, path.address(), "bowline");
            let connecting = connecting.expect("a fair configuration");
            tokio::time::timeout(LIMIT, connecting).await.expect("an answer")
        });
        let connection = connection.expect("a handshake");
        Victim {
            connection,
            path,
            runtime,
        }
    }

    /// Says something, unless its own keep-alive was answered before, and hears that the connection is not known any more.
    #[track_caller]
    fn expect_reset(&self) {
        let ended = self.runtime.block_on(async {
            let said = async {
                let (mut send, _receive) = self.connection.open_bi().await?;
                send.write_all(b"?").await?;
                Ok::<_, quinn::WriteError>(())
            };
            // A packet of QUIC itself may have met the new listener already: then the connection has ended, and how is asked below.
            let _ = said.await;
            tokio::time::timeout(LIMIT, self.connection.closed()).await
        });
        assert_eq!(ended, Ok(ConnectionError::Reset));
    }
}

/// A UDP path that tells the connection id of what the client sends, and takes forged packets.
struct WatchedPath {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    front: UdpSocket,
    back: UdpSocket,
    client: Mutex<Option<SocketAddr>>,
    observed: Mutex<Option<[u8; ID]>>,
    stop: AtomicBool,
}

impl WatchedPath {
    fn to(server: SocketAddr) -> WatchedPath {
        let any = match server {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
        };
        let back = UdpSocket::bind(any).expect("a UDP port on loopback");
        back.connect(server).expect("an address of loopback");
        let shared = Arc::new(Shared {
            front: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port on loopback"),
            back,
            client: Mutex::default(),
            observed: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        for socket in [&shared.front, &shared.back] {
            let look = Some(Duration::from_millis(50));
            socket.set_read_timeout(look).expect("a socket of our own");
        }
        let threads = [Shared::to_server, Shared::to_client].map(|work| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || work(&shared))
        });
        WatchedPath {
            shared,
            threads: threads.into(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.shared.front.local_addr().expect("a bound socket has an address")
    }

    /// The id that the client names the connection by.
    fn observed(&self) -> [u8; ID] {
        let observed = wait_for(LIMIT, || {
            *self.shared.observed.lock().expect("no panic while it is held")
        });
        observed.expect("a packet of the client after its handshake")
    }

    /// What looks like a packet of the server, and ends with a token.
    fn forge_reset(&self, token: [u8; TOKEN]) {
        let client = self.shared.client.lock().expect("no panic while it is held");
        let mut packet = data::random_bytes(2, 40);
        packet[0] = 0x40 | packet[0] & 0x3f;
        packet.extend(token);
        let client = client.expect("a client has been seen");
        self.shared.front.send_to(&packet, client).expect("loopback takes it");
    }
}

impl Drop for WatchedPath {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn to_server(&self) {
        let mut packet = [0; 65_536];
        while !self.stop.load(Relaxed) {
            let Ok((length, from)) = self.front.recv_from(&mut packet) else {
                continue;
            };
            *self.client.lock().expect("no panic while it is held") = Some(from);
            // A short header (RFC 9000 section 17.3): the first byte, the id.
            if packet[0] & 0x80 == 0 && length > ID {
                let id = packet[1..=ID].try_into().expect("as long as an id");
                *self.observed.lock().expect("no panic while it is held") = Some(id);
            }
            let _ = self.back.send(&packet[..length]);
        }
    }

    fn to_client(&self) {
        let mut packet = [0; 65_536];
        while !self.stop.load(Relaxed) {
            let Ok(length) = self.back.recv(&mut packet) else {
                continue;
            };
            let client = *self.client.lock().expect("no panic while it is held");
            if let Some(client) = client {
                let _ = self.front.send_to(&packet[..length], client);
            }
        }
    }
}
