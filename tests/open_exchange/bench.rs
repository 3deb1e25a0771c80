//! A server half without sockets, an upstream that counts its connections, and clients made by hand.
#![allow(clippy::unwrap_used)]

use bowline::carrier::{Carrier, in_process};
use bowline::connection;
use bowline::identity::raw_key::TlsKey;
use bowline::pump::{
    Budget, MAX_COMMANDS, MAX_PATH_EVENTS, NewLead, Outcome, PathEvent, Pump, PumpParts, SessionStats,
};
use bowline::server::connect_sshd::FromLoopback;
use bowline::server::{Authority, CarrierAcceptor, RelaySettings, Server, ServerConfig, ServerLimits};
use bowline::session::{Session, SessionConfig, SessionMemory};
use bowline::transport::quic::{EndpointSecrets, QuicLimits};
use bowline::wire::{
    Accepted, Answer, CloseCode, Epoch, Hello, Open, Refusal, RefusalCode, SessionId, UserName, VERSION,
};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// TLS keys, as the server half sees them.
pub(crate) const OWNER: &[u8] = b"the owner's key";
pub(crate) const STRANGER: &[u8] = b"a stranger's key";
/// What ends a session.
pub(crate) const TOKEN: [u8; 32] = [5; 32];

pub(crate) struct Bench {
    carrier_acceptor: CarrierAcceptor,
    connections: Arc<AtomicUsize>,
    tasks: std::cell::RefCell<JoinSet<()>>,
    _server: Server,
}

impl Bench {
    pub(crate) async fn start(limits: ServerLimits) -> Bench {
        let mut tasks = JoinSet::new();
        let connections = Arc::new(AtomicUsize::new(0));
        let target = echo(&mut tasks, Arc::clone(&connections)).await;
        let server = Server::new(ServerConfig {
            sockets: Vec::new(),
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
            limits,
            quic: QuicLimits::default(),
        })
        .unwrap();
        Bench {
            carrier_acceptor: server.carrier_acceptor(),
            connections,
            tasks: tasks.into(),
            _server: server,
        }
    }

    /// Connections that upstream has seen.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The client's end of a carrier on which it proved `key`.
    pub(crate) fn dial(&self, key: &'static [u8]) -> DuplexStream {
        let (ours, theirs) = duplex(64 * 1024);
        let carrier_acceptor = self.carrier_acceptor.clone();
        let carrier = in_process(theirs, Bytes::from_static(key), [0; 32]);
        self.tasks
            .borrow_mut()
            .spawn(async move { carrier_acceptor.receive(carrier).await });
        ours
    }

    pub(crate) fn carrier(&self, key: &'static [u8]) -> Carrier {
        in_process(self.dial(key), Bytes::from_static(b"server"), [0; 32])
    }

    /// One hello on a carrier of its own, and its answer.
    pub(crate) async fn ask(&self, key: &'static [u8], hello: &Hello) -> Answer {
        let mut carrier = self.carrier(key);
        carrier.send_message(hello.encode()).await.unwrap();
        Answer::decode(carrier.read_message().await.unwrap()).unwrap()
    }

    pub(crate) async fn opened(&self, key: &'static [u8], id: SessionId, epoch: u32) -> (Carrier, Accepted) {
        let mut carrier = self.carrier(key);
        carrier.send_message(open(id, epoch).encode()).await.unwrap();
        match Answer::decode(carrier.read_message().await.unwrap()).unwrap() {
            Answer::Accepted(accepted) => (carrier, accepted),
            other => panic!("{other:?}"),
        }
    }

    /// Asks for a session that there is no room for; gives what is said to that.
    pub(crate) async fn busy(&self, id: SessionId) -> String {
        match self.ask(OWNER, &open(id, 1)).await {
            Answer::Refused(Refusal {
                code: RefusalCode::Busy,
                message,
            }) => message.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// Length of the answer to an open on the wire.
    pub(crate) async fn answer_length(&self, id: SessionId) -> usize {
        let (_, accepted) = self.opened(OWNER, id, 1).await;
        Answer::Accepted(accepted).encode().len()
    }

    /// Runs the session on `carrier` to its end: what it gives comes back whole.
    pub(crate) async fn echo(&self, carrier: Carrier, accepted: &Accepted, epoch: u32) {
        let (path_events, received) = mpsc::channel(MAX_PATH_EVENTS);
        let (_orders, ordered) = mpsc::channel(MAX_COMMANDS);
        let (ours, pipe) = duplex(64 * 1024);
        let lead = NewLead {
            carrier,
            accepted: connection::Accepted {
                epoch: Epoch::new(epoch),
                received: accepted.received,
                window: accepted.window,
            },
            first: Bytes::new(),
        };
        assert!(path_events.try_send(PathEvent::Lead(Box::new(lead))).is_ok());
        let (input, output) = split(pipe);
        let session = SessionConfig::default();
        let pump = Pump::new(PumpParts {
            session: Session::new(SessionMemory::heap(&session)),
            input,
            output,
            pipe_closed: CloseCode::PipeClosed,
            input_ends_itself: true,
            role: connection::Role::Server,
            path_events: received,
            epochs: Arc::default(),
            commands: ordered,
            stats: Arc::new(SessionStats::new(session.receive_window as u64)),
            checkpoints: None,
            detached_since: bowline::clock::now(),
            confirmed: false,
            detach_timeout: Duration::from_secs(5),
            unconfirmed_timeout: Duration::from_secs(5),
            budget: Budget::new(usize::MAX),
        });
        let said: Vec<u8> = (0..100_000u32).map(|n| (n ^ n >> 7) as u8).collect();
        let (mut reader, mut writer) = split(ours);
        let mut heard = Vec::new();
        let (outcome, (), read) = tokio::join!(
            pump.run(),
            async {
                writer.write_all(&said).await.unwrap();
                writer.shutdown().await.unwrap();
            },
            reader.read_to_end(&mut heard)
        );
        read.unwrap();
        assert_eq!(outcome, Outcome::Finished);
        assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
    }

    /// Waits until a session that was told to end has ended.
    pub(crate) async fn until_gone(&self, id: SessionId) {
        let resume = Hello::Resume(bowline::wire::Resume {
            session: id,
            epoch: Epoch::default(),
            received: bowline::wire::Offset::ZERO,
            window: 0,
        });
        for _ in 0..500 {
            if refused(self.ask(OWNER, &resume).await) == Some(RefusalCode::Gone) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("session {id} is still there");
    }
}

/// Lets every task that can move come to rest.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn session(n: usize) -> SessionId {
    SessionId::new((n as u128 + 1).to_be_bytes())
}

fn reap_hash() -> [u8; 32] {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &TOKEN);
    hash.as_ref().try_into().unwrap()
}

pub(crate) fn open(session: SessionId, epoch: u32) -> Hello {
    Hello::Open(Open {
        version: VERSION,
        session,
        epoch: Epoch::new(epoch),
        user: UserName::new("ada").expect("a user name"),
        authorizations: Vec::new(),
        window: 8 << 20,
        reap_hash: reap_hash(),
        first: Bytes::new(),
    })
}

pub(crate) fn refused(answer: Answer) -> Option<RefusalCode> {
    match answer {
        Answer::Refused(refusal) => Some(refusal.code),
        Answer::Accepted(_)
        | Answer::Standing
        | Answer::Probed(_)
        | Answer::Reaped
        | Answer::Asking(_)
        | Answer::KeyOk(_) => None,
    }
}

pub(crate) fn gone(why: &str) -> Answer {
    Answer::Refused(Refusal {
        code: RefusalCode::Gone,
        message: why.into(),
    })
}

/// An upstream that sends back what it reads.
async fn echo(tasks: &mut JoinSet<()>, connections: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        let mut streams = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            streams.spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    address
}
