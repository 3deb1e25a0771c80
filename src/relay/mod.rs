//! The relay: connects client halves to server halves that cannot be dialled from outside.
//!
//! A server half connects to the relay, proves its host keys and registers. A client asks for a
//! host key and gets a stream to the server half that is registered under it: the two streams are
//! spliced. Inside, the halves use the same TLS as on every other path, so that a relay sees who is
//! connected to whom, when, and how many bytes, and nothing else. A relay keeps no persistent
//! state: if it stops, the halves use another one.

mod accept;
mod allow;
mod connect;
mod control;
mod copy;
mod memory;
mod metrics;
mod quota;
mod registrations;
mod splices;
mod windows;

pub use allow::{AllowList, AllowListError};
pub use metrics::Counters;
pub use quota::RelayLimits;

use crate::carrier::via::RelayWindow;
use crate::clock;
use crate::identity::raw_key::TlsKey;
use crate::observe::{Boxed, ControlHandler, KillRequest, Metrics, RelayReport, Report};
use crate::tasks::Tasks;
use crate::transport::handshake_limiter::HandshakeLimiter;
use crate::transport::quic::{EndpointSecrets, QuicLimits, QuicListener};
use crate::transport::tls::TlsServer;
use crate::transport::{ConfigError, tcp_listener};
use crate::wire::{KeyDigest, RELAY_ALPN};
use connect::DialBacks;
use memory::MemoryBudget;
use parking_lot::RwLock;
use quota::Quotas;
use registrations::Registrations;
use splices::Splices;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::info;
use windows::{AllWindows, TICK_INTERVAL, Windows};

/// Longest time to deliver the close of connections.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a relay needs to start.
pub struct RelayConfig {
    /// Bound UDP sockets.
    pub sockets: Vec<UdpSocket>,
    /// Listening TCP sockets.
    pub tls_listeners: Vec<TcpListener>,
    /// The relay's own TLS key; halves may pin it.
    pub key: TlsKey,
    /// Derives the keys of the QUIC listeners. They survive a restart, so that halves notice it
    /// with the first packet.
    pub secrets: EndpointSecrets,
    /// Which server halves may register.
    pub allow: AllowList,
    /// Limits on connections, registrations and splices.
    pub limits: RelayLimits,
    /// Most bytes that wait in one direction of one stream.
    pub window: RelayWindow,
    /// Most bytes that wait in the whole relay.
    pub memory: u64,
    /// QUIC settings.
    pub quic: QuicLimits,
    /// How long splices may continue after the relay was told to stop. Default 30 s.
    pub drain: Duration,
}

/// A relay that listens.
pub struct Relay {
    listeners: Vec<Arc<QuicListener>>,
    tls: TlsServer,
    tls_listeners: Vec<tokio::net::TcpListener>,
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    half_open: usize,
    drain: Duration,
    state: Arc<RelayState>,
}

/// State shared by all connections.
struct RelayState {
    registrations: Registrations,
    splices: Splices,
    dial_backs: DialBacks,
    quotas: Arc<Quotas>,
    allow: RwLock<AllowList>,
    window: RelayWindow,
    memory: Arc<MemoryBudget>,
    windows: AllWindows,
    counters: Counters,
}

impl Relay {
    /// Listens on the sockets of `config`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// A socket cannot be used, or TLS cannot be set up.
    pub fn new(config: RelayConfig) -> Result<Relay, ConfigError> {
        let RelayConfig {
            key,
            secrets,
            quic,
            window,
            ..
        } = config;
        let listen = |socket: UdpSocket| {
            let secrets = secrets.of_listener(socket.local_addr()?);
            QuicListener::new(socket, &key, &secrets, &window.of_relay(), &quic).map(Arc::new)
        };
        let listeners: Result<Vec<_>, ConfigError> = config.sockets.into_iter().map(listen).collect();
        let listeners = listeners?;
        let addresses: io::Result<Vec<_>> = listeners.iter().map(|listener| listener.local_addr()).collect();
        let tls_addresses: io::Result<Vec<_>> = config.tls_listeners.iter().map(TcpListener::local_addr).collect();
        let tls_listeners: io::Result<Vec<_>> = config.tls_listeners.into_iter().map(tcp_listener).collect();
        Ok(Relay {
            listeners,
            tls: TlsServer::new(&key, RELAY_ALPN)?,
            tls_listeners: tls_listeners?,
            addresses: addresses?,
            tls_addresses: tls_addresses?,
            half_open: config.limits.half_open,
            drain: config.drain,
            state: Arc::new(RelayState {
                registrations: Registrations::default(),
                splices: Splices::default(),
                dial_backs: DialBacks::default(),
                quotas: Quotas::new(config.limits),
                allow: RwLock::new(config.allow),
                window,
                memory: MemoryBudget::new(config.memory),
                windows: AllWindows::default(),
                counters: Counters::default(),
            }),
        })
    }

    /// The addresses on which it listens for QUIC.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses on which it listens for TLS.
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Serves until `shutdown`. Then it accepts no more connections, tells server halves to
    /// register elsewhere, and gives running splices time to end.
    pub async fn run(self, shutdown: CancellationToken) {
        // Connections continue after their listener was closed.
        let connections = Arc::new(Tasks::new());
        let accepting = Tasks::under(&shutdown);
        for listener in &self.listeners {
            let (listener, connections, state) =
                (Arc::clone(listener), Arc::clone(&connections), Arc::clone(&self.state));
            let (limiter, stop) = (HandshakeLimiter::new(self.half_open), accepting.token());
            accepting.spawn("accept quic", async move {
                stop.run_until_cancelled(accept::accept_quic(&listener, &limiter, &state, &connections))
                    .await;
            });
        }
        for listener in self.tls_listeners {
            let (tls, connections, state) = (self.tls.clone(), Arc::clone(&connections), Arc::clone(&self.state));
            let (limiter, stop) = (HandshakeLimiter::new(self.half_open), accepting.token());
            accepting.spawn("accept tls", async move {
                stop.run_until_cancelled(accept::accept_tls(&listener, &tls, &limiter, &state, &connections))
                    .await;
            });
        }
        let state = Arc::clone(&self.state);
        // Runs until the relay ends.
        let ticking = Tasks::new();
        ticking.spawn("windows", async move { state.tick().await });
        shutdown.cancelled().await;
        accepting.shutdown(Duration::ZERO).await;
        self.listeners.iter().for_each(|listener| listener.stop_accepting());
        drain(&self.state, self.drain).await;
        drop(connections);
        for listener in &self.listeners {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, listener.close()).await;
        }
    }
}

impl RelayState {
    /// Creates the flow-control windows of a connection and reserves their memory; `None` if there
    /// is none left.
    fn windows(&self, connection: &quinn::Connection, min: u64, max: u64) -> Option<Arc<Windows>> {
        let windows = Windows::new(connection.clone(), &self.memory, min, max)?;
        self.windows.add(&windows);
        Some(windows)
    }

    /// Periodically releases memory that is not needed.
    async fn tick(&self) {
        let mut interval = tokio::time::interval(TICK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.windows.tick();
            self.splices.tick();
        }
    }
}

/// Tells server halves to leave, and waits for splices to end.
async fn drain(state: &RelayState, grace: Duration) {
    state.registrations.drain_all();
    let mut splices = state.quotas.splices();
    let running = *splices.borrow_and_update();
    info!(
        event = "draining",
        splices = running,
        grace_s = grace.as_secs(),
        "draining: no new connections are accepted"
    );
    // An error is impossible: the sender lives as long as `state`.
    let _ = tokio::time::timeout(grace, splices.wait_for(|count| *count == 0)).await;
}

/// Which connections a relay accepts.
#[derive(Clone)]
pub struct Rules(Arc<RelayState>);

impl Relay {
    /// The rules, to be changed while the relay runs.
    pub fn rules(&self) -> Rules {
        Rules(Arc::clone(&self.state))
    }
}

impl Rules {
    /// Applies new rules. Server halves that are not permitted any more are told to leave and
    /// removed. Lower limits end nothing that is running, and [`RelayLimits::half_open`] does not
    /// change.
    pub fn change(&self, allow: AllowList, limits: RelayLimits) {
        self.0.quotas.change(limits);
        *self.0.allow.write() = allow;
        self.0.registrations.revoke(|keys| !self.0.permits(keys));
    }
}

impl RelayState {
    /// Whether the owner of these keys may register.
    fn permits(&self, keys: &[KeyDigest]) -> bool {
        self.allow.read().permits(keys)
    }
}

/// A running relay, for `bowline status`.
struct Observed {
    udp: Vec<SocketAddr>,
    tls: Vec<SocketAddr>,
    state: Arc<RelayState>,
}

impl Relay {
    /// The relay's metrics.
    pub(crate) fn metrics(&self) -> Arc<dyn Metrics> {
        Arc::clone(&self.state) as Arc<dyn Metrics>
    }

    /// The relay's state, for `bowline status`.
    pub(crate) fn observed(&self) -> Arc<dyn ControlHandler> {
        Arc::new(Observed {
            udp: self.addresses.clone(),
            tls: self.tls_addresses.clone(),
            state: Arc::clone(&self.state),
        })
    }
}

impl ControlHandler for Observed {
    fn report(&self) -> Boxed<'_, Report> {
        let counters = &self.state.counters;
        let relay = RelayReport {
            pid: std::process::id(),
            udp: self.udp.clone(),
            tls: self.tls.clone(),
            registered: counters.registered.load(Relaxed),
            splices: *self.state.quotas.splices().borrow() as u64,
            bytes_up: counters.bytes_up.load(Relaxed),
            bytes_down: counters.bytes_down.load(Relaxed),
            paths: self.state.splices.report(clock::now()),
        };
        Box::pin(std::future::ready(Report {
            sessions: Vec::new(),
            relay: Some(relay),
        }))
    }

    fn end(&self, _ending: &KillRequest) -> Vec<String> {
        Vec::new()
    }
}

/// Changes the user and group of the whole process and clears its groups. Call it before the
/// process has threads.
///
/// # Errors
/// As setgroups(2), setgid(2), setuid(2): the process is not root.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no groups are given, so nothing is read; the other two take plain numbers.
    #[allow(unsafe_code)]
    let outcomes = unsafe {
        [
            libc::setgroups(0, std::ptr::null()),
            libc::setgid(gid),
            libc::setuid(uid),
        ]
    };
    match outcomes {
        [0, 0, 0] => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
