//! Limits how many peers may be connected at once before it is known who they are.
//!
//! Pure: no I/O, no clock. Every peer belongs to networks inside of each other: an IPv6 /64 in its /56 in its /48, an
//! IPv4 address in its /24; by way of a relay, what the relay claims of the client's address, inside of that relay. No
//! network takes more than its share. When nothing is free the longest silent peer of the fullest network gives way, so
//! that a few networks cannot keep others out, however long they hold what they have.
//!
//! Up to a quarter of the permits anyone may take. Beyond, an address must first show that it receives what is sent to
//! it (QUIC Retry, which costs us no memory).

use bytes::Bytes;
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Younger peers give way to a network that holds fewer permits, and to nobody else: a handshake over a slow path takes
/// so long. It also bounds what a flood from many networks makes us begin: so much of the capacity in this time.
const MIN_AGE: Duration = Duration::from_secs(2);

/// Peers give way to another of their own address or /64 from this age on only: many clients that one machine starts
/// together, where handshakes take long, would else end each other's. It is as long as a first hello may take.
const MIN_AGE_OF_OWN: Duration = Duration::from_secs(5);

/// Most permits of one relay. A relay joins at most 500 streams to one server half by default: those who have not said
/// whom they want, in the handshake and after it, leave most of them to sessions.
const MAX_PER_RELAY: usize = 64;

/// Most permits of one client that owns a session: it has up to twelve dials under way, and some that have just ended.
const MAX_PER_OWNER: usize = 32;

/// What becomes of a peer.
pub(crate) enum Admission {
    /// Go on, for as long as the permit is not revoked.
    Admitted(Permit),
    /// Ask for proof of address.
    ProveAddress,
    /// Tell it to come back later.
    Refused,
}

/// Where a peer comes from: networks, the widest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin(Arc<[Network]>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Network {
    Addresses(IpNet),
    Relay(Arc<str>),
    /// A client that has proved the TLS key of a session.
    Owner(Bytes),
}

/// Hands out permits.
#[derive(Clone)]
pub(crate) struct HandshakeLimiter(Arc<Shared>);

struct Shared {
    capacity: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    all: Group,
    /// Silent peers, in the order in which they fell silent.
    silent: BTreeMap<u64, Silent>,
    next: u64,
}

/// What one network holds.
#[derive(Default)]
struct Group {
    permits: usize,
    /// Those among them that can be revoked.
    silent: usize,
    inner: HashMap<Network, Group>,
}

struct Silent {
    origin: Origin,
    since: Instant,
    revoked: CancellationToken,
}

/// Lets one peer go on. Dropped, it is free for another.
pub(crate) struct Permit {
    limiter: Arc<Shared>,
    origin: Origin,
    /// Its number among the silent; `None` while the peer is being served.
    silent: Option<u64>,
    revoked: CancellationToken,
}

impl Origin {
    /// A peer at this address.
    pub(crate) fn direct(source: IpAddr) -> Origin {
        Origin(addresses(source).collect())
    }

    /// A peer that comes by way of a relay, which says that it is at `claimed`.
    pub(crate) fn relayed(relay: &Arc<str>, claimed: IpAddr) -> Origin {
        let relay = std::iter::once(Network::Relay(Arc::clone(relay)));
        Origin(relay.chain(addresses(claimed)).collect())
    }

    /// A client that has proved the TLS key of a session, wherever it is.
    pub(crate) fn owner(tls_key: &Bytes) -> Origin {
        Origin(Arc::from([Network::Owner(tls_key.clone())]))
    }
}

/// The networks of an address that one customer may hold, the widest first.
fn addresses(source: IpAddr) -> impl Iterator<Item = Network> {
    networks(source).map(Network::Addresses)
}

/// The networks of an address that one customer may hold, the widest first: a site has a /48 or a /56 (RFC 6177), and can
/// use all of it.
pub(crate) fn networks(source: IpAddr) -> impl Iterator<Item = IpNet> {
    let source = source.to_canonical();
    let lengths: &[u8] = if source.is_ipv4() { &[24, 32] } else { &[48, 56, 64] };
    lengths.iter().map(move |&length| {
        let network = IpNet::new(source, length).expect("the length fits the family");
        network.trunc()
    })
}

/// The least network that one customer has: an IPv4 address, or an IPv6 /64 (RFC 6177).
pub(crate) fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

impl Network {
    /// Most permits that it may hold where `whole` may be held in all.
    fn share(&self, whole: usize) -> usize {
        let share = match self {
            // Half for an IPv4 /24 or an IPv6 /48, a quarter for one address or /64.
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

    /// Whether a peer may go on. `proved_address`: it is known to receive what is sent to where it says it is.
    pub(crate) fn admit(&self, origin: Origin, proved_address: bool, now: Instant) -> Admission {
        let capacity = self.0.capacity;
        let mut state = self.0.state();
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
        let number = state.fall_silent(&origin, now, &revoked);
        Admission::Admitted(Permit {
            limiter: Arc::clone(&self.0),
            origin,
            silent: Some(number),
            revoked,
        })
    }
}

impl Permit {
    /// Waits until another peer takes its place: this one is to be turned away.
    pub(crate) async fn revoked(&self) {
        self.revoked.cancelled().await;
    }

    /// The peer has said something and is being served: its permit is not revoked meanwhile. `false`: it has been.
    pub(crate) fn handle_heard(&mut self) -> bool {
        let Some(number) = self.silent else {
            return true;
        };
        let is_held = self.limiter.state().speak(number);
        if is_held {
            self.silent = None;
        }
        is_held
    }

    /// It is the peer's turn again.
    pub(crate) fn handle_answered(&mut self, now: Instant) {
        if self.silent.is_none() {
            let mut state = self.limiter.state();
            self.silent = Some(state.fall_silent(&self.origin, now, &self.revoked));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        // One that was revoked is not counted any more.
        let is_held = self.silent.is_none_or(|number| state.speak(number));
        if is_held {
            state.count(&self.origin, |group| group.permits -= 1);
            state.forget_empty(&self.origin);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Counts only: a panic elsewhere cannot have left them half written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn group(&self, path: &[Network]) -> Option<&Group> {
        path.iter()
            .try_fold(&self.all, |group, network| group.inner.get(network))
    }

    /// How many of the networks of `origin`, the widest first, lead to the narrowest that is full; `Some(0)` where all
    /// is, `None` where nothing is.
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

    /// Who is to give way to one more peer from `origin`, within the network that the first `full` of its networks lead
    /// to: who has been silent longest in the fullest network of the fullest network.
    fn oldest_of_fullest(&self, origin: &Origin, full: usize, now: Instant) -> Option<u64> {
        let mut path = origin.0[..full].to_vec();
        // The newest carrier of an owner is the one that it needs.
        let mut must_be_old = !matches!(origin.0.first(), Some(Network::Owner(_)));
        let mut is_own = true;
        loop {
            let group = self.group(&path)?;
            if group.inner.is_empty() {
                break;
            }
            let own = origin.0.get(path.len()).filter(|_| is_own);
            let held = |network: &Network| group.inner.get(network).map_or(0, |inner| inner.silent);
            let others = group.inner.iter().filter(|(network, _)| Some(*network) != own);
            let most = others.map(|(_, inner)| inner.silent).max().unwrap_or(0);
            if let Some(own) = own {
                if held(own) + 1 > most {
                    path.push(own.clone());
                    continue;
                }
                is_own = false;
                must_be_old = held(own) + 1 == most;
            }
            let inside = self.silent.values().filter(|peer| peer.origin.0.starts_with(&path));
            let mut networks = inside.filter_map(|peer| peer.origin.0.get(path.len()));
            let fullest = networks.find(|network| Some(*network) != own && held(network) == most)?;
            path.push(fullest.clone());
        }
        let (number, oldest) = self.silent.iter().find(|(_, peer)| *peer.origin.0 == *path)?;
        let min_age = if path == *origin.0 { MIN_AGE_OF_OWN } else { MIN_AGE };
        let is_old = now.saturating_duration_since(oldest.since) >= min_age;
        (is_old || !must_be_old).then_some(*number)
    }

    fn fall_silent(&mut self, origin: &Origin, now: Instant, revoked: &CancellationToken) -> u64 {
        self.count(origin, |group| group.silent += 1);
        let number = self.next;
        self.next += 1;
        let peer = Silent {
            origin: origin.clone(),
            since: now,
            revoked: revoked.clone(),
        };
        self.silent.insert(number, peer);
        number
    }

    /// Whether the peer of this number was silent until now.
    fn speak(&mut self, number: u64) -> bool {
        match self.silent.remove(&number) {
            Some(peer) => {
                self.count(&peer.origin, |group| group.silent -= 1);
                true
            }
            None => false,
        }
    }

    fn revoke(&mut self, number: u64) {
        if let Some(peer) = self.silent.remove(&number) {
            peer.revoked.cancel();
            self.count(&peer.origin, |group| {
                group.silent -= 1;
                group.permits -= 1;
            });
            self.forget_empty(&peer.origin);
        }
    }

    /// Changes the counts of all networks of `origin`.
    fn count(&mut self, origin: &Origin, change: impl Fn(&mut Group)) {
        let mut group = &mut self.all;
        change(group);
        for network in &*origin.0 {
            group = group.inner.entry(network.clone()).or_default();
            change(group);
        }
    }

    /// Forgets the networks of `origin` that hold nothing.
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
