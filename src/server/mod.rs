//! The server half: takes carriers, and joins sessions to sshd.

pub mod ask_sshd;
mod authority;
pub mod client_address;
pub mod connect_sshd;
mod failures;
pub mod keeper;
mod prober;
mod registry;
mod relays;
mod shared_read;
pub mod sshd_config;
mod upstream;
mod vault;
mod verifier;
mod welcome;
pub mod worker;

pub use authority::{Authority, KeyList, OpenCheck};
pub use prober::SshdView;
pub(crate) use registry::Leaving;
pub use registry::RegistryLimits;
pub use relays::RelayPlaces;

use crate::carrier::Carrier;
use crate::carrier::handshake_limiter::{Admission, HandshakeLimiter, Origin};
use crate::carrier::memory::IN_PROCESS;
use crate::carrier::quic::{EndpointSecrets, QuicConfigError, QuicLimits, QuicListener, unmapped};
use crate::carrier::tls::{self, TlsServer};
use crate::carrier::via::{IncomingStream, RegistrationSettings, RelayWindow};
use crate::clock;
use crate::identity::raw_key::{TlsConfigError, TlsKey};
use crate::identity::statement::verify_host;
use crate::observe::{ControlHandler, Metrics};
use crate::session::SessionConfig;
use crate::tasks::Tasks;
use crate::wire::{Host, Statement};
use connect_sshd::{Client, ConnectSshd};
use prober::Prober;
use registry::Registry;
use relays::Relays;
use russh::keys::ssh_key::{Fingerprint, HashAlg};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use upstream::Upstream;
use vault::{Recovery, Vault};
use verifier::Verifier;
use welcome::Welcome;

/// How long sessions have to tell their clients that the server half stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// The same for the close of their carriers, while a successor waits to be started.
const HAND_OVER_GRACE: Duration = Duration::from_millis(100);

/// Most streams that one relay may have open here.
const RELAYED_STREAMS: u32 = 512;

/// When connections cannot be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An undecided carrier costs memory only, a handshake work as well: there may be more of them.
const UNDECIDED_PER_HANDSHAKE: usize = 8;

/// What a server half needs.
pub struct ServerConfig {
    /// Bound UDP sockets.
    pub sockets: Vec<UdpSocket>,
    /// Listening TCP sockets, for clients whose networks let no UDP through.
    pub tls_listeners: Vec<TcpListener>,
    /// Relays at which to be listed. Default: none.
    pub relays: RelayPlaces,
    /// bowline's own TLS key.
    pub tls_key: TlsKey,
    /// SSH host keys' signatures over it.
    pub statements: Vec<Statement>,
    /// What lets clients notice a restart within a packet.
    pub secrets: EndpointSecrets,
    /// Opens connections to the sshd that sessions are joined to.
    pub sshd: Arc<dyn ConnectSshd>,
    /// Who may open sessions.
    pub authority: Authority,
    /// Whether anything may be opened now. Default: none, it may.
    pub open_check: Option<Box<dyn OpenCheck>>,
    /// Tells those who probe what sshd's settings mean for sessions. Default: none, nobody is told.
    pub sshd_view: Option<Box<dyn SshdView>>,
    /// Buffers of each session.
    pub session: SessionConfig,
    /// Counts and times of sessions.
    pub limits: RegistryLimits,
    /// Most handshakes and hellos under way. Default 256.
    pub max_half_open: usize,
    /// Settings of QUIC.
    pub quic: QuicLimits,
}

/// A server half could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// QUIC could not be set up.
    #[error("cannot listen for QUIC")]
    Quic(#[from] QuicConfigError),
    /// TLS could not be set up.
    #[error("cannot listen for TLS")]
    Tls(#[from] TlsConfigError),
    /// A listening socket cannot be used.
    #[error("cannot use a TCP socket")]
    Tcp(#[source] io::Error),
    /// The addresses listened on are unknown.
    #[error("cannot tell the address that is listened on")]
    Address(#[source] io::Error),
}

/// Takes carriers that came by other ways than the sockets of a [`Server`]: for embedding, and for tests.
#[derive(Clone)]
pub struct Reception {
    half: Arc<Welcome>,
}

impl Reception {
    /// Hears the hello on `carrier`, answers it, and hands the carrier to its session. The peer is taken to have proved
    /// the key that [`Carrier::info`] names, and to know already who we are: no host message is sent.
    pub async fn receive(&self, carrier: Carrier) {
        let client = Client::new(carrier.info().remote.unwrap_or(IN_PROCESS), None);
        let origin = Origin::direct(client.remote.ip());
        self.half.admit_carrier(carrier, client, origin).await;
    }
}

/// A server half, listening.
pub struct Server {
    listeners: Vec<Arc<QuicListener>>,
    tls: TlsServer,
    relays: RelayPlaces,
    registration: RegistrationSettings,
    tls_listeners: Vec<tokio::net::TcpListener>,
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    half: Arc<Welcome>,
    max_half_open: usize,
}

impl Server {
    /// Listens on the sockets of `config`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn new(config: ServerConfig) -> Result<Server, ServerError> {
        Server::going_on(config, None)
    }

    /// The same, with the sessions of a predecessor, and so that a successor can go on with all of them.
    pub(crate) fn going_on(config: ServerConfig, vault: Option<(Vault, Recovery)>) -> Result<Server, ServerError> {
        let ServerConfig {
            sockets,
            tls_listeners,
            tls_key,
            secrets,
            quic,
            ..
        } = config;
        let listeners: Result<Vec<_>, _> = sockets
            .into_iter()
            .map(|socket| QuicListener::new(socket, &tls_key, &secrets, &quic).map(Arc::new))
            .collect();
        let listeners = listeners?;
        let addresses: io::Result<Vec<_>> = listeners.iter().map(|listener| listener.local_addr()).collect();
        let tls_addresses: io::Result<Vec<_>> = tls_listeners.iter().map(TcpListener::local_addr).collect();
        let tls_listeners: io::Result<Vec<_>> = tls_listeners.into_iter().map(in_tokio).collect();
        let authority = Arc::new(config.authority);
        let upstream = Upstream::new(Arc::clone(&config.sshd));
        let (kept, recovered) = match vault {
            Some((vault, Recovery { tombs, sessions, .. })) => (Some((vault, tombs)), sessions),
            None => (None, Vec::new()),
        };
        let prober = Prober::new(&upstream, config.limits.ttl, config.sshd_view);
        let registry = Registry::new(config.limits, config.session, upstream, kept);
        registry.restore(recovered);
        let statements = config.statements.clone();
        let half = Welcome {
            host: Host { statements }.encode(),
            server_key: tls_key.spki().to_vec(),
            verifier: Verifier::new(authority.failures()),
            authority,
            sshd: Arc::clone(&config.sshd),
            open_check: config.open_check,
            registry,
            prober,
            undecided: HandshakeLimiter::new(config.max_half_open.saturating_mul(UNDECIDED_PER_HANDSHAKE)),
            // Bounded by each owner's share.
            owners: HandshakeLimiter::new(usize::MAX),
        };
        Ok(Server {
            listeners,
            tls: TlsServer::new(&tls_key)?,
            relays: config.relays,
            registration: RegistrationSettings {
                key: tls_key,
                statements: config.statements,
                streams: RELAYED_STREAMS,
                window: RelayWindow::default(),
                quic,
                live: Arc::default(),
            },
            tls_listeners: tls_listeners.map_err(ServerError::Tcp)?,
            addresses: addresses.map_err(ServerError::Address)?,
            tls_addresses: tls_addresses.map_err(ServerError::Address)?,
            half: Arc::new(half),
            max_half_open: config.max_half_open,
        })
    }

    /// Where it listens for TLS.
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Where it listens for QUIC.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A way in for carriers made elsewhere, which share sessions and limits with those that come over the sockets.
    pub fn reception(&self) -> Reception {
        Reception {
            half: Arc::clone(&self.half),
        }
    }

    /// What is told of its sessions.
    pub(crate) fn observed(&self) -> Arc<dyn ControlHandler> {
        Arc::clone(&self.half.registry) as Arc<dyn ControlHandler>
    }

    /// The same, counted.
    pub(crate) fn metrics(&self) -> Arc<dyn Metrics> {
        Arc::clone(&self.half.registry) as Arc<dyn Metrics>
    }

    /// Serves until `shutdown`; then tells every client and returns.
    pub async fn run(self, shutdown: CancellationToken) {
        self.run_and_leave(shutdown, || Leaving::Ended).await;
    }

    /// Serves until `shutdown`; then asks `how` to leave the sessions.
    pub(crate) async fn run_and_leave(self, shutdown: CancellationToken, how: impl FnOnce() -> Leaving) {
        let (half, listeners) = (Arc::clone(&self.half), self.listeners.clone());
        self.serve(&shutdown).await;
        match how() {
            Leaving::Ended => end(&half, &listeners).await,
            Leaving::HandedOver => {
                // A client dials again as soon as it has heard of it: the next worker is to find that.
                listeners.iter().for_each(|listener| listener.end_hearing());
                half.registry.shutdown(Leaving::HandedOver, HAND_OVER_GRACE).await;
                info!(event = "stopped", "sessions are left to the next worker");
            }
        }
    }

    async fn serve(self, shutdown: &CancellationToken) {
        let limiter = HandshakeLimiter::new(self.max_half_open);
        let accepting = Tasks::under(shutdown);
        for listener in self.listeners {
            let (half, limiter, token) = (Arc::clone(&self.half), limiter.clone(), accepting.token());
            accepting.spawn("accept quic", async move {
                token.run_until_cancelled(accept_quic(&listener, &half, &limiter)).await;
            });
        }
        // A connection over TCP costs a stranger less than a handshake: those who hold many take no places from QUIC.
        let limiter = HandshakeLimiter::new(self.max_half_open);
        for listener in self.tls_listeners {
            let (half, limiter, token) = (Arc::clone(&self.half), limiter.clone(), accepting.token());
            let tls = self.tls.clone();
            accepting.spawn("accept tls", async move {
                token
                    .run_until_cancelled(accept_tls(&listener, &tls, &half, &limiter))
                    .await;
            });
        }
        let relays = (!self.relays.names.is_empty()).then(|| {
            let host_keys = host_keys(&self.registration);
            let (relays, arrived) = Relays::start(self.relays, host_keys, self.registration);
            let (half, limiter) = (self.half, HandshakeLimiter::new(self.max_half_open));
            accepting.spawn("accept relayed", accept_relayed(arrived, self.tls, half, limiter));
            relays
        });
        shutdown.cancelled().await;
        if let Some(relays) = relays {
            relays.stop().await;
        }
        accepting.shutdown(Duration::ZERO).await;
    }
}

async fn end(half: &Welcome, listeners: &[Arc<QuicListener>]) {
    half.registry.shutdown(Leaving::Ended, STOP_GRACE).await;
    for listener in listeners {
        // Late or not, the sockets close with the process.
        let _ = tokio::time::timeout(Duration::from_secs(1), listener.close()).await;
    }
    info!(event = "stopped", "server half stopped");
}

fn in_tokio(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

async fn accept_quic(listener: &QuicListener, half: &Arc<Welcome>, limiter: &HandshakeLimiter) {
    let carriers = Tasks::new();
    while let Some(incoming) = listener.accept().await {
        let source = incoming.remote_address().ip();
        match limiter.admit(
            Origin::direct(source),
            incoming.remote_address_validated(),
            clock::now(),
        ) {
            Admission::Admitted(permit) => {
                let half = Arc::clone(half);
                carriers.spawn("welcome", async move { half.receive(incoming, permit).await });
            }
            Admission::ProveAddress => {
                if let Err(error) = incoming.retry() {
                    debug!(%source, "cannot ask for proof of address");
                    error.into_incoming().ignore();
                }
            }
            Admission::Refused => {
                debug!(%source, "too many handshakes under way");
                incoming.refuse();
            }
        }
    }
}

async fn accept_tls(
    listener: &tokio::net::TcpListener,
    tls: &TlsServer,
    half: &Arc<Welcome>,
    limiter: &HandshakeLimiter,
) {
    let carriers = Tasks::new();
    loop {
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: those who wait are still there when some are free again.
                warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let source = unmapped(source);
        let Admission::Admitted(permit) = limiter.admit(Origin::direct(source.ip()), true, clock::now()) else {
            debug!(%source, "too many handshakes under way");
            tls::turn_away(stream);
            continue;
        };
        let (half, tls) = (Arc::clone(half), tls.clone());
        carriers.spawn("welcome", async move {
            half.receive_tls(stream, source, &tls, permit).await;
        });
    }
}

/// Fingerprints of the host keys that vouch for us: by them relays and clients find us.
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
    half: Arc<Welcome>,
    limiter: HandshakeLimiter,
) {
    let carriers = Tasks::new();
    while let Some(incoming) = arrived.recv().await {
        // What the relay says of the client is good enough to keep clients of one relay apart, and for nothing else.
        let origin = Origin::relayed(&incoming.relay, incoming.source.ip());
        let Admission::Admitted(permit) = limiter.admit(origin, true, clock::now()) else {
            debug!(relay = %incoming.relay, source = %incoming.source, "too many handshakes under way");
            tls::turn_away(incoming.stream);
            continue;
        };
        let (half, tls) = (Arc::clone(&half), tls.clone());
        carriers.spawn("welcome", async move {
            half.receive_relayed(incoming, &tls, permit).await;
        });
    }
}
