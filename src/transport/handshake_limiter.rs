//! Limits the number of connections from unauthenticated peers.
//!
//! Pure: no I/O, no clock. Every peer belongs to nested networks: an IPv6 /64 in a /56 in a /48, or
//! an IPv4 address in a /24. A peer behind a relay belongs to the relay, and inside it to the
//! networks of the address that the relay reports. No network gets more than its share. If no
//! permit is free, the peer that has been waiting longest in the network with the most permits
//! loses its permit. So a few networks cannot lock out others, however long they keep their
//! connections.
//!
//! A quarter of the permits is given to any address. Beyond that, an address must be validated
//! first (QUIC Retry, which needs no memory).

use bytes::Bytes;
use ipnet::IpNet;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A peer keeps its permit for this long, except if a network with fewer permits needs one: a
/// handshake over a slow path takes this long. It also limits how many handshakes a flood from many
/// networks can start: the capacity once per interval.
const MIN_AGE: Duration = Duration::from_secs(2);

/// A peer keeps its permit for this long against peers of the same address or /64. Otherwise many
/// clients started together on one machine would end each other's handshakes if these are slow. As
/// long as the wait for a first hello.
const MIN_AGE_SAME_NETWORK: Duration = Duration::from_secs(5);

/// Most permits per relay. A relay opens at most 500 streams to one server half by default. This
/// limit for streams without a session leaves most of them to sessions.
const MAX_PER_RELAY: usize = 64;

/// Most permits per client that owns a session: it makes up to twelve dials at once, and some may
/// just have ended.
const MAX_PER_OWNER: usize = 32;

/// The decision about a peer.
pub(crate) enum Admission {
    /// The peer may continue until the permit is revoked.
    Admitted(Permit),
    /// The peer must validate its address first.
    ProveAddress,
    /// The peer must come back later.
    Refused,
}

/// Where a peer comes from: its networks, largest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin(Arc<[Network]>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Network {
    Addresses(IpNet),
    Relay(Arc<str>),
    /// A client that has proved the TLS key of a session.
    Owner(Bytes),
}

/// Grants permits.
#[derive(Clone)]
pub(crate) struct HandshakeLimiter(Arc<Shared>);

struct Shared {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    all: Group,
    /// Peers whose next message is awaited, in the order in which the wait began.
    waiting: BTreeMap<u64, WaitingPeer>,
    next: u64,
}

/// The permits of one network.
#[derive(Default)]
struct Group {
    permits: usize,
    /// Those among them that can be revoked.
    waiting: usize,
    inner: HashMap<Network, Group>,
}

struct WaitingPeer {
    origin: Origin,
    since: Instant,
    revoked: CancellationToken,
}

/// Allows one peer to continue. Dropping it frees it for another peer.
pub(crate) struct Permit {
    limiter: Arc<Shared>,
    origin: Origin,
    /// Its number among the waiting peers; `None` while a message of the peer is being processed.
    waiting: Option<u64>,
    revoked: CancellationToken,
}

impl Origin {
    /// A peer at this address.
    pub(crate) fn direct(source: IpAddr) -> Origin {
        Origin(addresses(source).collect())
    }

    /// A peer behind a relay, which reports the address `claimed`.
    pub(crate) fn relayed(relay: &Arc<str>, claimed: IpAddr) -> Origin {
        let relay = std::iter::once(Network::Relay(Arc::clone(relay)));
        Origin(relay.chain(addresses(claimed)).collect())
    }

    /// A client that has proved the TLS key of a session, at any address.
    pub(crate) fn owner(tls_key: &Bytes) -> Origin {
        Origin(Arc::from([Network::Owner(tls_key.clone())]))
    }
}

/// The networks of an address that may belong to one customer, largest first.
fn addresses(source: IpAddr) -> impl Iterator<Item = Network> {
    networks(source).map(Network::Addresses)
}

/// The networks of an address that may belong to one customer, largest first. A site gets a /48 or
/// a /56 (RFC 6177) and can use all of it.
pub(crate) fn networks(source: IpAddr) -> impl Iterator<Item = IpNet> {
    let source = source.to_canonical();
    let lengths: &[u8] = if source.is_ipv4() { &[24, 32] } else { &[48, 56, 64] };
    lengths.iter().map(move |&length| {
        let network = IpNet::new(source, length).expect("the length fits the family");
        network.trunc()
    })
}

/// The smallest network that one customer gets: an IPv4 address, or an IPv6 /64 (RFC 6177).
pub(crate) fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

impl Network {
    /// Most permits of this network, if the enclosing network has `whole`.
    fn share(&self, whole: usize) -> usize {
        let share = match self {
            // Half for an IPv4 /24 or an IPv6 /48, three eighths for a /56, a quarter for one
            // address or a /64.
            Network::Addresses(network) => match (network, network.prefix_len()) {
                (IpNet::V4(_), 24) | (IpNet::V6(_), 48) => whole / 2,
                (IpNet::V6(_), 56) => whole / 8 * 3,
                _ => whole / 4,
            },
            Network::Relay(_) => (whole / 2).min(MAX_PER_RELAY),
            Network::Owner(_) => MAX_PER_OWNER,
        };
        share.max(1)
    }
}

impl HandshakeLimiter {
    /// At most `capacity` permits, and at least four.
    pub(crate) fn new(capacity: usize) -> HandshakeLimiter {
        HandshakeLimiter(Arc::new(Shared {
            capacity: capacity.max(4),
            state: Mutex::default(),
        }))
    }

    /// Decides about a new peer. `proved_address`: its address is validated.
    pub(crate) fn admit(&self, origin: Origin, proved_address: bool, now: Instant) -> Admission {
        let capacity = self.0.capacity;
        let mut state = self.0.state.lock();
        let own = state.group(&origin.0).map_or(0, |group| group.permits);
        if !proved_address && (state.all.permits >= capacity / 4 || own >= capacity / 8) {
            return Admission::ProveAddress;
        }
        if let Some(full) = state.full(&origin, capacity) {
            let Some(number) = state.oldest_of_fullest(&origin, full, now) else {
                return Admission::Refused;
            };
            state.revoke(number);
        }
        let revoked = CancellationToken::new();
        state.count(&origin, |group| group.permits += 1);
        let number = state.add_waiting(&origin, now, &revoked);
        Admission::Admitted(Permit {
            limiter: Arc::clone(&self.0),
            origin,
            waiting: Some(number),
            revoked,
        })
    }
}

impl Permit {
    /// Waits until the permit is given to another peer. This one must then be closed.
    pub(crate) async fn revoked(&self) {
        self.revoked.cancelled().await;
    }

    /// The peer has sent a message: the permit is not revoked while the message is processed.
    /// `false` if it has been revoked already.
    pub(crate) fn begin_service(&mut self) -> bool {
        let Some(number) = self.waiting else {
            return true;
        };
        let is_held = self.limiter.state.lock().remove_waiting(number);
        if is_held {
            self.waiting = None;
        }
        is_held
    }

    /// The message is answered, and the peer's next message is awaited.
    pub(crate) fn end_service(&mut self, now: Instant) {
        if self.waiting.is_none() {
            let mut state = self.limiter.state.lock();
            self.waiting = Some(state.add_waiting(&self.origin, now, &self.revoked));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limiter.state.lock();
        // A revoked permit is not counted any more.
        let is_held = self.waiting.is_none_or(|number| state.remove_waiting(number));
        if is_held {
            state.count(&self.origin, |group| group.permits -= 1);
            state.forget_empty(&self.origin);
        }
    }
}

impl State {
    fn group(&self, path: &[Network]) -> Option<&Group> {
        path.iter()
            .try_fold(&self.all, |group, network| group.inner.get(network))
    }

    /// The depth of the smallest network of `origin` that is full: 0 is the whole limiter, 1 the
    /// largest network. `None` if none is full.
    fn full(&self, origin: &Origin, capacity: usize) -> Option<usize> {
        let mut full = (self.all.permits >= capacity).then_some(0);
        let (mut group, mut whole) = (&self.all, capacity);
        for (depth, network) in origin.0.iter().enumerate() {
            let Some(inner) = group.inner.get(network) else { break };
            let share = network.share(whole);
            if inner.permits >= share {
                full = Some(depth + 1);
            }
            if let Network::Relay(_) = network {
                whole = share;
            }
            group = inner;
        }
        full
    }

    /// The peer that loses its permit to a new peer from `origin`. It is inside the network at
    /// depth `full`: at each level the network with the most waiting peers, and there the one that
    /// has waited longest.
    fn oldest_of_fullest(&self, origin: &Origin, full: usize, now: Instant) -> Option<u64> {
        let mut path = origin.0[..full].to_vec();
        // An owner needs its newest carrier.
        let mut must_be_old = !matches!(origin.0.first(), Some(Network::Owner(_)));
        let mut is_own = true;
        loop {
            let group = self.group(&path)?;
            if group.inner.is_empty() {
                break;
            }
            let own = origin.0.get(path.len()).filter(|_| is_own);
            let held = |network: &Network| group.inner.get(network).map_or(0, |inner| inner.waiting);
            let others = group.inner.iter().filter(|(network, _)| Some(*network) != own);
            let most = others.map(|(_, inner)| inner.waiting).max().unwrap_or(0);
            if let Some(own) = own {
                if held(own) + 1 > most {
                    path.push(own.clone());
                    continue;
                }
                is_own = false;
                must_be_old = held(own) + 1 == most;
            }
            let inside = self.waiting.values().filter(|peer| peer.origin.0.starts_with(&path));
            let mut networks = inside.filter_map(|peer| peer.origin.0.get(path.len()));
            let fullest = networks.find(|network| Some(*network) != own && held(network) == most)?;
            path.push(fullest.clone());
        }
        let (number, oldest) = self.waiting.iter().find(|(_, peer)| *peer.origin.0 == *path)?;
        let min_age = if path == *origin.0 {
            MIN_AGE_SAME_NETWORK
        } else {
            MIN_AGE
        };
        let is_old = now.saturating_duration_since(oldest.since) >= min_age;
        (is_old || !must_be_old).then_some(*number)
    }

    fn add_waiting(&mut self, origin: &Origin, now: Instant, revoked: &CancellationToken) -> u64 {
        self.count(origin, |group| group.waiting += 1);
        let number = self.next;
        self.next += 1;
        let peer = WaitingPeer {
            origin: origin.clone(),
            since: now,
            revoked: revoked.clone(),
        };
        self.waiting.insert(number, peer);
        number
    }

    /// Whether the peer with this number was waiting.
    fn remove_waiting(&mut self, number: u64) -> bool {
        match self.waiting.remove(&number) {
            Some(peer) => {
                self.count(&peer.origin, |group| group.waiting -= 1);
                true
            }
            None => false,
        }
    }

    fn revoke(&mut self, number: u64) {
        if let Some(peer) = self.waiting.remove(&number) {
            peer.revoked.cancel();
            self.count(&peer.origin, |group| {
                group.waiting -= 1;
                group.permits -= 1;
            });
            self.forget_empty(&peer.origin);
        }
    }

    /// Applies `change` to the counts of all networks of `origin`.
    fn count(&mut self, origin: &Origin, change: impl Fn(&mut Group)) {
        let mut group = &mut self.all;
        change(group);
        for network in &*origin.0 {
            group = group.inner.entry(network.clone()).or_default();
            change(group);
        }
    }

    /// Removes the networks of `origin` that hold no permits.
    fn forget_empty(&mut self, origin: &Origin) {
        let mut group = &mut self.all;
        for network in &*origin.0 {
            if group.inner.get(network).is_none_or(|inner| inner.permits == 0) {
                group.inner.remove(network);
                return;
            }
            group = group.inner.get_mut(network).expect("looked at above");
        }
    }
}

#[cfg(test)]
mod tests;
