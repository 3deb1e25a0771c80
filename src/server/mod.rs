//! The server half: accepts carriers and connects sessions to sshd.

pub mod ask_sshd;
mod authority;
pub mod client_address;
pub mod connect_sshd;
mod failures;
pub mod handover;
mod handshake;
pub mod ipc;
mod prober;
mod registry;
mod relays;
pub(crate) mod session_store;
mod shared_read;
pub mod sshd_config;
mod startups;
pub mod supervisor;
pub mod takeover;
mod target_check;
mod upstream;
mod verifier;
pub mod worker;
pub mod worker_user;

pub use authority::{Authority, KeyList, OpenCheck, OpenObstacle};
pub use prober::SshdView;
pub use registry::ServerLimits;
pub(crate) use registry::{IdleWatch, ShutdownMode};
pub use relays::RelaySettings;

use crate::carrier::via::{IncomingStream, RegistrationSettings, RelayWindow};
use crate::carrier::{Carrier, IN_PROCESS, listen_quic, tls_server};
use crate::clock;
use crate::identity::raw_key::{TlsConfigError, TlsKey};
use crate::identity::statement::verify_host;
use crate::observe::{ControlHandler, Metrics};
use crate::session::SessionConfig;
use crate::tasks::Tasks;
use crate::transport::handshake_limiter::{Admission, HandshakeLimiter, Origin};
use crate::transport::quic::{EndpointSecrets, QuicLimits, QuicListener};
use crate::transport::tls::TlsServer;
use crate::transport::{self, ConfigError, tcp_listener, tls};
use crate::wire::{Host, Statement};
use connect_sshd::{Client, ConnectSshd};
use handshake::Acceptor;
use prober::Prober;
use registry::Registry;
use relays::Relays;
use russh::keys::ssh_key::{Fingerprint, HashAlg};
use session_store::{Recovery, SessionStore};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use upstream::Upstream;
use verifier::Verifier;

/// How long sessions may take to tell their clients that the server half stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// The same when a worker hands its sessions over: the next one waits until this one has closed its carriers.
const HAND_OVER_GRACE: Duration = Duration::from_millis(100);

/// The most streams that one relay may have open here.
const RELAYED_STREAMS: u32 = 512;

/// A carrier without a session costs memory only, a handshake costs processor time too: more of the former are
/// allowed.
const UNCLAIMED_PER_HANDSHAKE: usize = 8;

/// The configuration of a server half.
pub struct ServerConfig {
    /// Bound UDP sockets.
    pub sockets: Vec<UdpSocket>,
    /// Listening TCP sockets, for clients whose networks block UDP.
    pub tls_listeners: Vec<TcpListener>,
    /// Relays to register with. Default: none.
    pub relays: RelaySettings,
    /// bowline's own TLS key.
    pub tls_key: TlsKey,
    /// Signatures of SSH host keys over the TLS key.
    pub statements: Vec<Statement>,
    /// The secret behind QUIC's stateless resets, by which clients notice a restart within a packet.
    pub secrets: EndpointSecrets,
    /// Opens connections to the sshd that sessions are connected to.
    pub sshd: Arc<dyn ConnectSshd>,
    /// Who may open sessions.
    pub authority: Authority,
    /// Whether sessions may be opened at present. Default: none, they may.
    pub open_check: Option<Box<dyn OpenCheck>>,
    /// Tells clients that probe what sshd's settings mean for sessions. Default: none.
    pub sshd_view: Option<Box<dyn SshdView>>,
    /// Buffers of each session.
    pub session: SessionConfig,
    /// Limits on sessions and handshakes.
    pub limits: ServerLimits,
    /// Settings of QUIC.
    pub quic: QuicLimits,
}

/// A server half could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// QUIC could not be set up.
    #[error("cannot listen for QUIC")]
    Quic(#[from] ConfigError),
    /// TLS could not be set up.
    #[error("cannot listen for TLS")]
    Tls(#[from] TlsConfigError),
    /// A listening socket cannot be used.
    #[error("cannot use a TCP socket")]
    Tcp(#[source] io::Error),
    /// The local address of a socket is unknown.
    #[error("cannot determine the listening address")]
    Address(#[source] io::Error),
}

/// Accepts carriers that do not come from the sockets of a [`Server`]: for embedding, and for tests.
#[derive(Clone)]
pub struct CarrierAcceptor {
    acceptor: Arc<Acceptor>,
}

impl CarrierAcceptor {
    /// Reads the hello on `carrier`, answers it and passes the carrier to its session. The caller guarantees that the
    /// peer has proved the key in [`Carrier::info`] and knows the server's identity: no host message is sent.
    pub async fn receive(&self, carrier: Carrier) {
        let client = Client::new(carrier.info().remote.unwrap_or(IN_PROCESS), None);
        let origin = Origin::direct(client.remote.ip());
        self.acceptor.admit_carrier(carrier, client, origin).await;
    }
}

/// A server half that listens.
pub struct Server {
    listeners: Vec<Arc<QuicListener>>,
    tls: TlsServer,
    relays: RelaySettings,
    registration: RegistrationSettings,
    tls_listeners: Vec<tokio::net::TcpListener>,
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    acceptor: Arc<Acceptor>,
    max_half_open: usize,
}

impl Server {
    /// Listens on the sockets of `config`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn new(config: ServerConfig) -> Result<Server, ServerError> {
        Server::with_session_store(config, None)
    }

    /// The same with a session store: continues the sessions of a previous worker, and stores all sessions for the
    /// next one.
    pub(crate) fn with_session_store(
        config: ServerConfig,
        store: Option<(SessionStore, Recovery)>,
    ) -> Result<Server, ServerError> {
        let (sockets, tls_listeners, quic) = (config.sockets, config.tls_listeners, config.quic);
        let (tls_key, secrets) = (config.tls_key, config.secrets);
        let listeners = sockets.into_iter().map(|socket| {
            let secrets = secrets.of_listener(socket.local_addr()?);
            listen_quic(socket, &tls_key, &secrets, &quic).map(Arc::new)
        });
        let listeners = listeners.collect::<Result<Vec<_>, ConfigError>>()?;
        let addresses: io::Result<Vec<_>> = listeners.iter().map(|listener| listener.local_addr()).collect();
        let tls_addresses: io::Result<Vec<_>> = tls_listeners.iter().map(TcpListener::local_addr).collect();
        let tls_listeners: io::Result<Vec<_>> = tls_listeners.into_iter().map(tcp_listener).collect();
        let authority = Arc::new(config.authority);
        let upstream = Upstream::new(Arc::clone(&config.sshd));
        let split = |(store, recovery): (_, Recovery)| ((store, recovery.closed_sessions), recovery.sessions);
        let (kept, recovered) = store.map(split).unzip();
        let prober = Prober::new(&upstream, config.limits.ttl, config.sshd_view);
        let registry = Registry::new(config.limits, config.session, upstream, kept);
        registry.restore(recovered.unwrap_or_default());
        let statements = config.statements.clone();
        let acceptor = Acceptor {
            host: Host { statements }.encode(),
            server_key: tls_key.spki().to_vec(),
            verifier: Verifier::new(authority.failures()),
            authority,
            sshd: Arc::clone(&config.sshd),
            open_check: config.open_check,
            registry,
            prober,
            unclaimed: HandshakeLimiter::new(config.limits.half_open.saturating_mul(UNCLAIMED_PER_HANDSHAKE)),
            // Bounded by each owner's share.
            owners: HandshakeLimiter::new(usize::MAX),
        };
        Ok(Server {
            listeners,
            tls: tls_server(&tls_key)?,
            relays: config.relays,
            registration: RegistrationSettings {
                key: tls_key,
                statements: config.statements,
                streams: RELAYED_STREAMS,
                window: RelayWindow::default(),
                mtu_cap: quic.mtu_cap,
                live: Arc::default(),
            },
            tls_listeners: tls_listeners.map_err(ServerError::Tcp)?,
            addresses: addresses.map_err(ServerError::Address)?,
            tls_addresses: tls_addresses.map_err(ServerError::Address)?,
            acceptor: Arc::new(acceptor),
            max_half_open: config.limits.half_open,
        })
    }

    /// The addresses on which it listens for TLS.
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// The addresses on which it listens for QUIC.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Accepts carriers from elsewhere. They share sessions and limits with those that come from the sockets.
    pub fn carrier_acceptor(&self) -> CarrierAcceptor {
        CarrierAcceptor {
            acceptor: Arc::clone(&self.acceptor),
        }
    }

    /// The sessions, for `bowline status`.
    pub(crate) fn observed(&self) -> Arc<dyn ControlHandler> {
        Arc::clone(&self.acceptor.registry) as Arc<dyn ControlHandler>
    }

    /// To be told when there are no sessions.
    pub(crate) fn idle_watch(&self) -> IdleWatch {
        self.acceptor.registry.idle_watch()
    }

    /// The metrics of its sessions.
    pub(crate) fn metrics(&self) -> Arc<dyn Metrics> {
        Arc::clone(&self.acceptor.registry) as Arc<dyn Metrics>
    }

    /// Serves until `shutdown`, then ends all sessions, tells their clients and returns.
    pub async fn run(self, shutdown: CancellationToken) {
        self.run_until(shutdown, || ShutdownMode::Ended).await;
    }

    /// Serves until `shutdown`, then ends the sessions or hands them over as `how` says.
    pub(crate) async fn run_until(self, shutdown: CancellationToken, how: impl FnOnce() -> ShutdownMode) {
        let (acceptor, listeners) = (Arc::clone(&self.acceptor), self.listeners.clone());
        self.serve(&shutdown).await;
        match how() {
            ShutdownMode::Ended => end(&acceptor, &listeners).await,
            ShutdownMode::HandedOver => {
                // Clients dial again as soon as they are told. From now on their packets wait in the sockets for the
                // next worker.
                listeners.iter().for_each(|listener| listener.stop_receiving());
                acceptor
                    .registry
                    .shutdown(ShutdownMode::HandedOver, HAND_OVER_GRACE)
                    .await;
                info!(event = "stopped", "sessions are left to the next worker");
            }
        }
    }

    async fn serve(self, shutdown: &CancellationToken) {
        let limiter = HandshakeLimiter::new(self.max_half_open);
        let accepting = Tasks::under(shutdown);
        for listener in self.listeners {
            let (acceptor, limiter, token) = (Arc::clone(&self.acceptor), limiter.clone(), accepting.token());
            accepting.spawn("accept quic", async move {
                token
                    .run_until_cancelled(accept_quic(&listener, &acceptor, &limiter))
                    .await;
            });
        }
        // A TCP connection costs an attacker less than a QUIC handshake, so TLS has a limit of its own.
        let limiter = HandshakeLimiter::new(self.max_half_open);
        for listener in self.tls_listeners {
            let (acceptor, limiter, token) = (Arc::clone(&self.acceptor), limiter.clone(), accepting.token());
            let tls = self.tls.clone();
            accepting.spawn("accept tls", async move {
                token
                    .run_until_cancelled(accept_tls(&listener, &tls, &acceptor, &limiter))
                    .await;
            });
        }
        let relays = (!self.relays.names.is_empty()).then(|| {
            let host_keys = host_keys(&self.registration);
            let (relays, arrived) = Relays::start(self.relays, host_keys, self.registration);
            let (acceptor, limiter) = (self.acceptor, HandshakeLimiter::new(self.max_half_open));
            accepting.spawn("accept relayed", accept_relayed(arrived, self.tls, acceptor, limiter));
            relays
        });
        shutdown.cancelled().await;
        if let Some(relays) = relays {
            relays.stop().await;
        }
        accepting.shutdown(Duration::ZERO).await;
    }
}

async fn end(acceptor: &Acceptor, listeners: &[Arc<QuicListener>]) {
    acceptor.registry.shutdown(ShutdownMode::Ended, STOP_GRACE).await;
    for listener in listeners {
        // Without a result in time the sockets are closed when the process ends.
        let _ = tokio::time::timeout(Duration::from_secs(1), listener.close()).await;
    }
    info!(event = "stopped", "server half stopped");
}

async fn accept_quic(listener: &QuicListener, acceptor: &Arc<Acceptor>, limiter: &HandshakeLimiter) {
    let carriers = Tasks::new();
    let admit = |source: SocketAddr, is_proved| limiter.admit(Origin::direct(source.ip()), is_proved, clock::now());
    transport::accept_quic(listener, admit, |incoming, permit| {
        let acceptor = Arc::clone(acceptor);
        carriers.spawn("handshake", async move { acceptor.receive(incoming, permit).await });
    })
    .await;
}

async fn accept_tls(
    listener: &tokio::net::TcpListener,
    tls: &TlsServer,
    acceptor: &Arc<Acceptor>,
    limiter: &HandshakeLimiter,
) {
    let carriers = Tasks::new();
    let admit = |source: SocketAddr| limiter.admit(Origin::direct(source.ip()), true, clock::now());
    transport::accept_tls(listener, admit, |stream, source, permit| {
        let (acceptor, tls) = (Arc::clone(acceptor), tls.clone());
        carriers.spawn("handshake", async move {
            acceptor.receive_tls(stream, source, &tls, permit).await;
        });
    })
    .await;
}

/// Fingerprints of the host keys that have signed our TLS key: relays and clients find this server half by them.
fn host_keys(registration: &RegistrationSettings) -> Vec<Fingerprint> {
    let proven = registration
        .statements
        .iter()
        .filter_map(|statement| verify_host(statement, registration.key.spki()).ok());
    proven.map(|proven| proven.key.fingerprint(HashAlg::Sha256)).collect()
}

async fn accept_relayed(
    mut arrived: mpsc::Receiver<IncomingStream>,
    tls: TlsServer,
    acceptor: Arc<Acceptor>,
    limiter: HandshakeLimiter,
) {
    let carriers = Tasks::new();
    while let Some(incoming) = arrived.recv().await {
        // The client address that the relay reports is used only to tell the clients of one relay apart.
        let origin = Origin::relayed(&incoming.relay, incoming.source.ip());
        let Admission::Admitted(permit) = limiter.admit(origin, true, clock::now()) else {
            debug!(relay = %incoming.relay, source = %incoming.source, "refused: too many handshakes");
            tls::turn_away(incoming.stream);
            continue;
        };
        let (acceptor, tls) = (Arc::clone(&acceptor), tls.clone());
        carriers.spawn("handshake", async move {
            acceptor.receive_relayed(incoming, &tls, permit).await;
        });
    }
}
