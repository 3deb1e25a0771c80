//! The server half: takes carriers, and joins sessions to sshd.

pub mod ask_sshd;
mod authority;
pub mod keeper;
mod registry;
pub mod relays;
pub mod sshd_config;
mod upstream;
mod vault;
mod welcome;
pub mod worker;

pub use authority::{Authority, KeyList, LoopbackRules};
pub(crate) use registry::Leaving;
pub use registry::RegistryLimits;

use crate::carrier::Carrier;
use crate::carrier::gate::{Admission, Gate};
use crate::carrier::quic::{EndpointSecrets, QuicConfigError, QuicLimits, QuicListener};
use crate::identity::raw_key::TlsKey;
use crate::session::SessionConfig;
use crate::tasks::Tasks;
use crate::wire::{Host, Statement};
use registry::Registry;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use upstream::Upstream;
use vault::{Recovery, Vault};
use welcome::Welcome;

/// How long sessions have to tell their clients that the server half stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// The same for the close of their carriers, while a successor waits to be started.
const HAND_OVER_GRACE: Duration = Duration::from_millis(100);

/// An undecided carrier costs memory only, a handshake work as well: there may be more of them.
const UNDECIDED_PER_HANDSHAKE: usize = 8;

/// What a server half needs.
pub struct ServerConfig {
    /// Bound UDP sockets.
    pub sockets: Vec<UdpSocket>,
    /// bowline's own TLS key.
    pub tls_key: TlsKey,
    /// SSH host keys' signatures over it.
    pub statements: Vec<Statement>,
    /// What lets clients notice a restart within a packet.
    pub secrets: EndpointSecrets,
    /// What sessions are joined to.
    pub target: SocketAddr,
    /// Who may open sessions.
    pub authority: Authority,
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
        let remote = carrier.info().remote;
        self.half.hear(remote, std::future::ready(Ok(carrier))).await;
    }
}

/// A server half, listening.
pub struct Server {
    listeners: Vec<Arc<QuicListener>>,
    addresses: Vec<SocketAddr>,
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
        let authority = Arc::new(config.authority);
        let upstream = Upstream::new(config.target, Arc::clone(&authority));
        let (kept, recovered) = match vault {
            Some((vault, Recovery { tombs, sessions, .. })) => (Some((vault, tombs)), sessions),
            None => (None, Vec::new()),
        };
        let registry = Registry::new(config.limits, config.session, upstream, kept);
        registry.restore(recovered);
        let half = Welcome {
            host: Host {
                statements: config.statements,
            }
            .encode(),
            server_key: tls_key.spki().to_vec(),
            authority,
            registry,
            undecided: Gate::new(config.max_half_open.saturating_mul(UNDECIDED_PER_HANDSHAKE)),
        };
        Ok(Server {
            listeners,
            addresses: addresses.map_err(ServerError::Address)?,
            half: Arc::new(half),
            max_half_open: config.max_half_open,
        })
    }

    /// Where it listens.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A way in for carriers made elsewhere, which share sessions and limits with those that come over the sockets.
    pub fn reception(&self) -> Reception {
        Reception {
            half: Arc::clone(&self.half),
        }
    }

    /// Serves until `shutdown`; then tells every client and returns.
    pub async fn run(self, shutdown: CancellationToken) {
        self.run_and_leave(shutdown, || Leaving::Ended).await;
    }

    /// Serves until `shutdown`; then asks `how` to leave the sessions.
    pub(crate) async fn run_and_leave(self, shutdown: CancellationToken, how: impl FnOnce() -> Leaving) {
        self.serve(&shutdown).await;
        match how() {
            Leaving::Ended => self.end().await,
            Leaving::HandedOver => {
                self.half.registry.shutdown(Leaving::HandedOver, HAND_OVER_GRACE).await;
                info!(event = "stopped", "sessions are left to the next worker");
            }
        }
    }

    async fn end(self) {
        self.half.registry.shutdown(Leaving::Ended, STOP_GRACE).await;
        for listener in &self.listeners {
            // Late or not, the sockets close with the process.
            let _ = tokio::time::timeout(Duration::from_secs(1), listener.close()).await;
        }
        info!(event = "stopped", "server half stopped");
    }

    async fn serve(&self, shutdown: &CancellationToken) {
        let gate = Gate::new(self.max_half_open);
        let accepting = Tasks::under(shutdown);
        for listener in &self.listeners {
            let (listener, half, gate) = (Arc::clone(listener), Arc::clone(&self.half), gate.clone());
            let token = accepting.token();
            accepting.spawn("accept", async move {
                token.run_until_cancelled(accept(&listener, &half, &gate)).await;
            });
        }
        shutdown.cancelled().await;
        accepting.shutdown(Duration::ZERO).await;
    }
}

async fn accept(listener: &QuicListener, half: &Arc<Welcome>, gate: &Gate) {
    let carriers = Tasks::new();
    while let Some(incoming) = listener.accept().await {
        let source = incoming.remote_address().ip().to_canonical();
        match gate.admit(source, incoming.remote_address_validated()) {
            Admission::Enter(place) => {
                let half = Arc::clone(half);
                carriers.spawn("welcome", async move { half.receive(incoming, place).await });
            }
            Admission::ProveAddress => {
                if let Err(error) = incoming.retry() {
                    debug!(%source, "cannot ask for proof of address");
                    error.into_incoming().ignore();
                }
            }
            Admission::Ignore => {
                debug!(%source, "too many handshakes under way");
                incoming.ignore();
            }
        }
    }
}
