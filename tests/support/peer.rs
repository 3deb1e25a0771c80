//! Peers that say whatever a test wants: a client half and a server half made of nothing but carriers.

use super::sshd::TestSshd;
use bowline::carrier::{Carrier, CarrierError, accept_quic, dial_quic, listen_quic};
use bowline::identity::raw_key::{ServerKey, TlsKey, server_config};
use bowline::identity::statement::{OpenFields, load_host_keys, open_message};
use bowline::transport::quic::{EndpointSecrets, MtuCap, QuicDialer, QuicLimits};
use bowline::wire::{Answer, Authorization, Epoch, Frame, Hello, Host, Offset, Open, SessionId, UserName, VERSION};
use bytes::Bytes;
use quinn::crypto::rustls::QuicServerConfig;
use std::future::{pending, poll_fn};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a peer waits for the other end to say or do something.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client half without manners.
pub struct RawClient {
    carrier: Carrier,
    runtime: Runtime,
}

impl RawClient {
    /// Proves `key` to a server half and reads its host message.
    ///
    /// # Panics
    /// When there is no server half that talks.
    pub fn dial(server: SocketAddr, key: &TlsKey) -> RawClient {
        RawClient::try_dial(server, key).expect("a server half that takes it")
    }

    /// The same; `None` when it is turned away.
    ///
    /// # Panics
    /// When there is no server half that talks.
    pub fn try_dial(server: SocketAddr, key: &TlsKey) -> Option<RawClient> {
        let runtime = runtime();
        let carrier = runtime.block_on(async {
            let dialer = QuicDialer::new(server, MtuCap::default()).expect("a UDP socket");
            let dialed = timeout(PATIENCE, dial_quic(&dialer, server, key, ServerKey::Any)).await;
            let dialed = dialed.expect("an answer in time").ok()?;
            let host = timeout(PATIENCE, dialed.host()).await.expect("a host message in time");
            let (carrier, host) = host.ok()?;
            assert!(!host.statements.is_empty(), "the server half says who it is");
            Some(carrier)
        });
        carrier.map(|carrier| RawClient { carrier, runtime })
    }

    /// Sends a hello; `None` when the server half closed the carrier instead of answering.
    pub fn ask(&mut self, hello: &Hello) -> Option<Answer> {
        self.ask_raw(hello.encode())
    }

    /// Sends a hello that is not answered.
    pub fn say(&mut self, hello: &Hello) {
        let said = self.runtime.block_on(self.carrier.send_message(hello.encode()));
        said.expect("an open carrier");
    }

    /// Sends bytes in place of a hello.
    pub fn ask_raw(&mut self, bytes: Bytes) -> Option<Answer> {
        let answer = self.runtime.block_on(async {
            self.carrier.send_message(bytes).await?;
            timeout(PATIENCE, self.carrier.read_message())
                .await
                .expect("an answer or a close in time")
        });
        answer
            .ok()
            .map(|message| Answer::decode(message).expect("a well-formed answer"))
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The server half has closed the carrier.
    pub fn send(&mut self, frame: &Frame) -> Result<(), CarrierError> {
        frame.encode(self.carrier.outbox());
        self.runtime.block_on(poll_fn(|cx| self.carrier.poll_flush(cx)))
    }

    /// Sends bytes in place of a frame.
    ///
    /// # Errors
    /// The server half has closed the carrier.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), CarrierError> {
        self.carrier.outbox().extend_from_slice(bytes);
        self.runtime.block_on(poll_fn(|cx| self.carrier.poll_flush(cx)))
    }

    /// What a user key has to sign for an open on this carrier.
    pub fn open_message(&self, key: &TlsKey, session: SessionId, user: &str) -> Vec<u8> {
        open_message(OpenFields {
            exporter: &self.carrier.info().exporter,
            server_spki: &self.carrier.info().peer_key,
            client_spki: key.spki(),
            session,
            user,
            version: VERSION,
        })
    }

    /// The next frame; copies of what the ordered stream brings are left out.
    ///
    /// # Errors
    /// The server half has closed the carrier.
    ///
    /// # Panics
    /// When nothing happens.
    pub fn next_frame(&mut self) -> Result<Frame, CarrierError> {
        loop {
            let next = async { timeout(PATIENCE, poll_fn(|cx| self.carrier.poll_frame(cx))).await };
            let heard = self.runtime.block_on(next).expect("a frame or a close in time")?;
            if !(heard.is_copy && matches!(heard.frame, Frame::Data { .. })) {
                return Ok(heard.frame);
            }
        }
    }

    /// Sends bytes and insists that an echo behind the session returns them.
    #[track_caller]
    pub fn assert_echoes(&mut self, at: &mut Offset, bytes: &'static [u8]) {
        let (mut expected, start) = (*at, *at);
        self.send(&Frame::Data {
            offset: start,
            bytes: Bytes::from_static(bytes),
        })
        .expect("an open carrier");
        *at = start.saturating_add(bytes.len() as u64);
        let mut back = vec![];
        while back.len() < bytes.len() {
            match self.next_frame().expect("an open carrier") {
                Frame::Data { offset, bytes } => {
                    assert_eq!(offset, expected, "without gap or repetition");
                    back.extend_from_slice(&bytes);
                    expected = offset.saturating_add(bytes.len() as u64);
                    self.send(&Frame::Ack {
                        delivered: expected,
                        window: 1 << 20,
                    })
                    .expect("an open carrier");
                }
                Frame::Close { code, message } => panic!("closed: {code:?} {message}"),
                _ => {}
            }
        }
        assert_eq!(back, bytes, "the echo");
    }
}

/// An `Open` without authorizations, for a server half that wants none.
pub fn open(session: SessionId, epoch: u32) -> Hello {
    open_with("anyone", session, epoch, vec![])
}

/// An `Open` with authorizations.
pub fn open_by(user: &str, session: SessionId, authorizations: Vec<Authorization>) -> Hello {
    open_with(user, session, 1, authorizations)
}

fn open_with(user: &str, session: SessionId, epoch: u32, authorizations: Vec<Authorization>) -> Hello {
    Hello::Open(Open {
        version: VERSION,
        session,
        epoch: Epoch::new(epoch),
        user: UserName::new(user).expect("a user name"),
        authorizations,
        window: 1 << 20,
        reap_hash: [0; 32],
        first: Bytes::new(),
    })
}

/// A server half that proves the host keys of a sshd and then says the same bytes to whatever it is told.
pub struct FakeServer {
    address: SocketAddr,
    _runtime: Runtime,
}

impl FakeServer {
    /// Says `words` after the first hello of every carrier, and keeps the carrier open.
    pub fn saying(sshd: &TestSshd, words: Bytes) -> FakeServer {
        FakeServer::answering(sshd, words, 1)
    }

    /// Says them after every hello.
    pub fn repeating(sshd: &TestSshd, words: Bytes) -> FakeServer {
        FakeServer::answering(sshd, words, usize::MAX)
    }

    fn answering(sshd: &TestSshd, words: Bytes, times: usize) -> FakeServer {
        let key = TlsKey::generate();
        let (host_keys, _) = load_host_keys(&sshd.host_keys(), &[]);
        let statements = host_keys
            .iter()
            .flat_map(|host| host.statements(key.spki()).expect("keys that sign"));
        let host = Host {
            statements: statements.collect(),
        }
        .encode();
        let runtime = runtime();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port on loopback");
        let address = socket.local_addr().expect("a bound socket has an address");
        let secrets = EndpointSecrets::new([7; 32]).of_listener(address);
        let guard = runtime.enter();
        let listener = listen_quic(socket, &key, &secrets, &QuicLimits::default()).expect("a listener");
        drop(guard);
        runtime.spawn(async move {
            let mut clients = JoinSet::new();
            while let Some(incoming) = listener.accept().await {
                let (host, words) = (host.clone(), words.clone());
                clients.spawn(async move {
                    let client = accept_quic(incoming, host).await?;
                    let mut carrier = client.carrier().await?;
                    for _ in 0..times {
                        carrier.read_message().await?;
                        carrier.send_message(words.clone()).await?;
                    }
                    pending::<Result<(), CarrierError>>().await
                });
            }
        });
        FakeServer {
            address,
            _runtime: runtime,
        }
    }

    /// Closes every connection with this reason.
    pub fn closing_with(reason: &'static str) -> FakeServer {
        FakeServer::of_quic(b"bowline/1", move |connection| {
            connection.close(quinn::VarInt::from_u32(9), reason.as_bytes());
        })
    }

    /// Speaks only a protocol of another name.
    pub fn of_another_protocol() -> FakeServer {
        FakeServer::of_quic(b"bowline/9", |_| {})
    }

    fn of_quic(protocol: &[u8], act: impl Fn(&quinn::Connection) + Send + Sync + 'static) -> FakeServer {
        let tls = server_config(&TlsKey::generate(), protocol).expect("a TLS configuration");
        let config = QuicServerConfig::try_from(tls).expect("a suite for QUIC");
        let config = quinn::ServerConfig::with_crypto(Arc::new(config));
        let runtime = runtime();
        let guard = runtime.enter();
        let endpoint = quinn::Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).expect("an endpoint");
        drop(guard);
        let address = endpoint.local_addr().expect("a bound socket has an address");
        runtime.spawn(async move {
            // One that is given up half-way holds up no other.
            let (act, mut clients) = (Arc::new(act), JoinSet::new());
            while let Some(incoming) = endpoint.accept().await {
                let act = Arc::clone(&act);
                clients.spawn(async move { incoming.await.map(|connection| act(&connection)) });
            }
        });
        FakeServer {
            address,
            _runtime: runtime,
        }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// A UDP service that answers every datagram with garbage.
pub struct GarbageServer {
    address: SocketAddr,
}

impl GarbageServer {
    /// It answers until the test process ends.
    pub fn start() -> GarbageServer {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port on loopback");
        let address = socket.local_addr().expect("a bound socket has an address");
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let garbage = super::data::random_bytes(length as u64, length);
                let _ = socket.send_to(&garbage, from);
            }
        });
        GarbageServer { address }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}
