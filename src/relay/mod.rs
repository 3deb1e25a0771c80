//! The relay: joins client halves to server halves that nothing reaches from outside.
//!
//! A server half dials out, proves its host keys, and is listed; a client asks for a host key and is given a stream to
//! whoever is listed under it. Inside of that stream the halves run the same TLS as on every other path: a relay sees
//! who talks to whom, when and how much, and nothing else. It keeps no state that matters: kill it, and everyone is
//! elsewhere.

mod allow;
mod control;
mod counters;
mod listings;
mod memory;
mod metrics;
mod observed;
mod privilege;
mod quota;
mod reach;
mod reception;
mod rules;
mod splice;
mod splices;
mod tokens;
mod windows;

pub use allow::{AllowList, AllowListError};
pub use counters::Counters;
pub use privilege::become_user;
pub use quota::RelayLimits;
pub use rules::Rules;

use crate::carrier::handshake_limiter::HandshakeLimiter;
use crate::carrier::quic::{EndpointSecrets, QuicLimits};
use crate::carrier::via::{OpenDoorError, QuicDoor, RelayWindow, TlsDoor};
use crate::identity::raw_key::TlsKey;
use crate::tasks::Tasks;
use listings::Listings;
use memory::MemoryBudget;
use quota::Quotas;
use splices::Splices;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokens::Tokens;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::info;
use windows::{AllWindows, TICK, Windows};

/// For the last words of connections.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a relay needs.
pub struct RelayConfig {
    /// Bound UDP sockets.
    pub sockets: Vec<UdpSocket>,
    /// Listening TCP sockets.
    pub tls_listeners: Vec<TcpListener>,
    /// The relay's own TLS key; halves may pin it.
    pub key: TlsKey,
    /// What lets halves notice a restart within a packet.
    pub secrets: EndpointSecrets,
    /// Who may be listed.
    pub allow: AllowList,
    /// Most of everything.
    pub limits: RelayLimits,
    /// Most that waits in one direction of a leg.
    pub window: RelayWindow,
    /// Most that waits in all of the relay, in bytes.
    pub memory: u64,
    /// Settings of QUIC.
    pub quic: QuicLimits,
    /// How long splices may go on after the relay was told to stop. Default 30 s.
    pub drain: Duration,
}

/// A relay, listening.
pub struct Relay {
    doors: Vec<Arc<QuicDoor>>,
    tls: TlsDoor,
    tls_listeners: Vec<tokio::net::TcpListener>,
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    half_open: usize,
    drain: Duration,
    house: Arc<House>,
}

/// What all who come share.
struct House {
    listings: Listings,
    splices: Splices,
    tokens: Tokens,
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
    pub fn new(config: RelayConfig) -> Result<Relay, OpenDoorError> {
        let RelayConfig {
            key,
            secrets,
            quic,
            window,
            ..
        } = config;
        let doors: Result<Vec<_>, _> = config
            .sockets
            .into_iter()
            .map(|socket| QuicDoor::new(socket, &key, &secrets, &quic, window).map(Arc::new))
            .collect();
        let doors = doors?;
        let addresses: io::Result<Vec<_>> = doors.iter().map(|door| door.local_addr()).collect();
        let tls_addresses: io::Result<Vec<_>> = config.tls_listeners.iter().map(TcpListener::local_addr).collect();
        let tls_listeners: io::Result<Vec<_>> = config.tls_listeners.into_iter().map(in_tokio).collect();
        Ok(Relay {
            doors,
            tls: TlsDoor::new(&key)?,
            tls_listeners: tls_listeners?,
            addresses: addresses?,
            tls_addresses: tls_addresses?,
            half_open: config.limits.half_open,
            drain: config.drain,
            house: Arc::new(House {
                listings: Listings::default(),
                splices: Splices::default(),
                tokens: Tokens::default(),
                quotas: Quotas::new(config.limits),
                allow: RwLock::new(config.allow),
                window,
                memory: MemoryBudget::new(config.memory),
                windows: AllWindows::default(),
                counters: Counters::default(),
            }),
        })
    }

    /// Where it listens for QUIC.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it listens for TLS.
    pub fn tls_addrs(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Serves until `shutdown`. Then it takes nobody more, has server halves go elsewhere, and gives the splices that
    /// run some time to end.
    pub async fn run(self, shutdown: CancellationToken) {
        // Guests outlive the doors that they came in by.
        let guests = Arc::new(Tasks::new());
        let accepting = Tasks::under(&shutdown);
        for door in &self.doors {
            let (door, guests, house) = (Arc::clone(door), Arc::clone(&guests), Arc::clone(&self.house));
            let (limiter, stop) = (HandshakeLimiter::new(self.half_open), accepting.token());
            accepting.spawn("accept quic", async move {
                stop.run_until_cancelled(reception::accept_quic(&door, &limiter, &house, &guests))
                    .await;
            });
        }
        for listener in self.tls_listeners {
            let (tls, guests, house) = (self.tls.clone(), Arc::clone(&guests), Arc::clone(&self.house));
            let (limiter, stop) = (HandshakeLimiter::new(self.half_open), accepting.token());
            accepting.spawn("accept tls", async move {
                stop.run_until_cancelled(reception::accept_tls(&listener, &tls, &limiter, &house, &guests))
                    .await;
            });
        }
        let house = Arc::clone(&self.house);
        // For as long as anything runs.
        let ticking = Tasks::new();
        ticking.spawn("windows", async move { house.tick().await });
        shutdown.cancelled().await;
        accepting.shutdown(Duration::ZERO).await;
        self.doors.iter().for_each(|door| door.shut());
        drain(&self.house, self.drain).await;
        drop(guests);
        for door in &self.doors {
            let _ = tokio::time::timeout(GOODBYE, door.close()).await;
        }
    }
}

impl House {
    /// Windows of a connection, with their part of the memory; `None` where there is no more.
    fn windows(&self, connection: &quinn::Connection, least: u64, most: u64) -> Option<Arc<Windows>> {
        let windows = Windows::new(connection.clone(), &self.memory, least, most)?;
        self.windows.add(&windows);
        Some(windows)
    }

    /// Has memory given back that nobody needs, for ever.
    async fn tick(&self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.windows.tick();
            self.splices.tick();
        }
    }
}

/// Server halves are told; splices may end by themselves.
async fn drain(house: &House, grace: Duration) {
    house.listings.tell_all_to_leave();
    let mut splices = house.quotas.splices();
    let running = *splices.borrow_and_update();
    info!(
        event = "draining",
        splices = running,
        grace_s = grace.as_secs(),
        "taking nobody more"
    );
    // The counter lives as long as the house.
    let _ = tokio::time::timeout(grace, splices.wait_for(|count| *count == 0)).await;
}

fn in_tokio(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
