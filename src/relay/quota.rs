//! Quotas per source, per server half, and in total.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::transport::handshake_limiter::networks;
use crate::wire::RelayRefusalCode;

/// Most sources that are remembered. If there are more, sources that hold nothing are forgotten.
const MAX_SOURCES: usize = 65_536;

/// Shortest interval between two sweeps for sources to forget. A sweep is the only work that grows
/// with the number of sources.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A source may save up connections for this long: after an outage all users of an office reconnect
/// at once.
const BURST_SECONDS: f64 = 2.0;

/// Limits of a relay. A source is an IPv4 address or an IPv6 /64. An IPv6 /56 may hold twice as
/// much, an IPv6 /48 and an IPv4 /24 four times as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Connections that have not sent their first message, in total; one source gets a quarter of
    /// them. Default 512.
    pub half_open: usize,
    /// Registered server halves, in total. Default 1000.
    pub registrations: usize,
    /// Registered server halves per source. Default 32.
    pub registrations_per_source: usize,
    /// Splices, in total. Default 4000.
    pub splices: usize,
    /// Splices per server half. Default 500.
    pub splices_per_server: usize,
    /// Splices per client source. Default 200.
    pub splices_per_source: usize,
    /// New connections per source and second; a source may save up two seconds' worth. Default 50.
    pub connections_per_second: u32,
}

impl Default for RelayLimits {
    fn default() -> RelayLimits {
        RelayLimits {
            half_open: 512,
            registrations: 1000,
            registrations_per_source: 32,
            splices: 4000,
            splices_per_server: 500,
            splices_per_source: 200,
            connections_per_second: 50,
        }
    }
}

/// Counts what is in use.
pub(super) struct Quotas {
    limits: RwLock<RelayLimits>,
    taken: Mutex<Taken>,
    splices: watch::Sender<usize>,
}

#[derive(Default)]
struct Taken {
    registrations: usize,
    sources: HashMap<IpNet, Source>,
    /// Splices per server half, by its TLS key.
    servers: HashMap<Bytes, usize>,
    swept: Option<Instant>,
}

struct Source {
    registrations: usize,
    splices: usize,
    /// New connections that it may open, as of `at`.
    credit: f64,
    at: Instant,
}

/// Counts one registration until it is dropped.
pub(super) struct RegistrationPermit {
    quotas: Arc<Quotas>,
    source: IpAddr,
}

/// Counts one splice until it is dropped.
pub(super) struct SplicePermit {
    quotas: Arc<Quotas>,
    source: IpAddr,
    server: Bytes,
}

impl Quotas {
    pub(super) fn new(limits: RelayLimits) -> Arc<Quotas> {
        Arc::new(Quotas {
            limits: RwLock::new(limits),
            taken: Mutex::default(),
            splices: watch::Sender::new(0),
        })
    }

    /// Whether `source` may open a connection now. If so, the connection is counted.
    pub(super) fn connect(&self, source: IpAddr, now: Instant) -> bool {
        let rate = self.limits().connections_per_second;
        let mut taken = self.taken.lock();
        let mut may = true;
        for network in networks(source) {
            let Some(source) = taken.source(network, rate, now) else {
                return false;
            };
            may &= source.refill(network, rate, now) >= 1.0;
        }
        if may {
            taken.each(source, |source| source.credit -= 1.0);
        }
        may
    }

    /// The same without counting it: the address may be forged.
    pub(super) fn may_connect(&self, source: IpAddr, now: Instant) -> bool {
        let rate = self.limits().connections_per_second;
        let mut taken = self.taken.lock();
        networks(source).all(|network| {
            let source = taken.sources.get_mut(&network);
            source.is_none_or(|source| source.refill(network, rate, now) >= 1.0)
        })
    }

    /// Counts one more server half.
    ///
    /// # Errors
    /// `Busy` or `Quota`.
    pub(super) fn register(
        self: &Arc<Self>,
        source: IpAddr,
        now: Instant,
    ) -> Result<RegistrationPermit, RelayRefusalCode> {
        let limits = self.limits();
        let mut taken = self.taken.lock();
        if taken.registrations >= limits.registrations {
            return Err(RelayRefusalCode::Busy);
        }
        let (held, most) = (|source: &Source| source.registrations, limits.registrations_per_source);
        taken.has_room(source, limits.connections_per_second, now, held, most)?;
        taken.each(source, |source| source.registrations += 1);
        taken.registrations += 1;
        Ok(RegistrationPermit {
            quotas: Arc::clone(self),
            source,
        })
    }

    /// Counts one more splice, from a client at `source` to the server half with the TLS key
    /// `server`.
    ///
    /// # Errors
    /// `Busy` or `Quota`.
    pub(super) fn splice(
        self: &Arc<Self>,
        source: IpAddr,
        server: &Bytes,
        now: Instant,
    ) -> Result<SplicePermit, RelayRefusalCode> {
        let limits = self.limits();
        let mut taken = self.taken.lock();
        if *self.splices.borrow() >= limits.splices {
            return Err(RelayRefusalCode::Busy);
        }
        if taken.servers.get(server).copied().unwrap_or(0) >= limits.splices_per_server {
            return Err(RelayRefusalCode::Quota);
        }
        let (held, most) = (|source: &Source| source.splices, limits.splices_per_source);
        taken.has_room(source, limits.connections_per_second, now, held, most)?;
        taken.each(source, |source| source.splices += 1);
        *taken.servers.entry(server.clone()).or_default() += 1;
        self.splices.send_modify(|count| *count += 1);
        Ok(SplicePermit {
            quotas: Arc::clone(self),
            source,
            server: server.clone(),
        })
    }

    /// The limits in force.
    pub(super) fn limits(&self) -> RelayLimits {
        *self.limits.read()
    }

    /// Changes the limits. What is in use stays in use.
    pub(super) fn change(&self, limits: RelayLimits) {
        *self.limits.write() = limits;
    }

    /// The number of splices, and its changes.
    pub(super) fn splices(&self) -> watch::Receiver<usize> {
        self.splices.subscribe()
    }
}

impl Taken {
    /// The record of a network; `None` if there are too many to add one more.
    fn source(&mut self, network: IpNet, rate: u32, now: Instant) -> Option<&mut Source> {
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&network) {
            self.sweep(rate, now);
            if self.sources.len() >= MAX_SOURCES {
                return None;
            }
        }
        Some(self.sources.entry(network).or_insert(Source {
            registrations: 0,
            splices: 0,
            credit: max_credit(network, rate),
            at: now,
        }))
    }

    /// Whether each network of `source` holds less than its limit. `most` is the limit of the
    /// smallest network.
    fn has_room(
        &mut self,
        source: IpAddr,
        rate: u32,
        now: Instant,
        held: impl Fn(&Source) -> usize,
        most: usize,
    ) -> Result<(), RelayRefusalCode> {
        for network in networks(source) {
            let own = self.source(network, rate, now).ok_or(RelayRefusalCode::Busy)?;
            if held(own) >= most.saturating_mul(share_factor(network)) {
                return Err(RelayRefusalCode::Quota);
            }
        }
        Ok(())
    }

    /// Applies `change` to the record of each network of `source`.
    fn each(&mut self, source: IpAddr, change: impl Fn(&mut Source)) {
        for network in networks(source) {
            if let Some(source) = self.sources.get_mut(&network) {
                change(source);
            }
        }
    }

    /// Removes records that hold nothing and have full credit.
    fn sweep(&mut self, rate: u32, now: Instant) {
        let is_due = |swept| now.saturating_duration_since(swept) >= SWEEP_INTERVAL;
        if self.swept.is_none_or(is_due) {
            self.swept = Some(now);
            self.sources.retain(|network, source| {
                source.refill(*network, rate, now);
                source.registrations > 0 || source.splices > 0 || source.credit < max_credit(*network, rate)
            });
        }
    }
}

impl Source {
    /// Adds the connections earned since `at`, and returns how many it may open now.
    fn refill(&mut self, network: IpNet, rate: u32, now: Instant) -> f64 {
        let most = max_credit(network, rate);
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * most / BURST_SECONDS;
        self.credit = (self.credit + earned).min(most);
        self.at = now;
        self.credit
    }
}

/// The limit of a network as a multiple of that of a single address: an IPv4 /24 or an IPv6 /48 may
/// belong to several customers.
fn share_factor(network: IpNet) -> usize {
    match (network, network.prefix_len()) {
        (IpNet::V4(_), 24) | (IpNet::V6(_), 48) => 4,
        (IpNet::V6(_), 56) => 2,
        _ => 1,
    }
}

fn max_credit(network: IpNet, rate: u32) -> f64 {
    f64::from(rate) * share_factor(network) as f64 * BURST_SECONDS
}

impl Drop for RegistrationPermit {
    fn drop(&mut self) {
        let mut taken = self.quotas.taken.lock();
        taken.registrations -= 1;
        taken.each(self.source, |source| source.registrations -= 1);
    }
}

impl Drop for SplicePermit {
    fn drop(&mut self) {
        let mut taken = self.quotas.taken.lock();
        taken.each(self.source, |source| source.splices -= 1);
        if let Some(count) = taken.servers.get_mut(&self.server) {
            *count -= 1;
            if *count == 0 {
                taken.servers.remove(&self.server);
            }
        }
        self.quotas.splices.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    /// Each in a network of its own.
    fn source(n: u32) -> IpAddr {
        IpAddr::from((n << 8).to_be_bytes())
    }

    fn quotas() -> Arc<Quotas> {
        Quotas::new(RelayLimits {
            registrations: 3,
            registrations_per_source: 2,
            splices: 4,
            splices_per_server: 3,
            splices_per_source: 2,
            connections_per_second: 10,
            ..RelayLimits::default()
        })
    }

    #[test]
    fn one_source_cannot_take_the_registrations_of_others() {
        let (quotas, now) = (quotas(), clock::now());
        let own = [quotas.register(source(1), now), quotas.register(source(1), now)];
        assert!(own.iter().all(Result::is_ok));
        assert_eq!(quotas.register(source(1), now).err(), Some(RelayRefusalCode::Quota));
        let _other = quotas.register(source(2), now).unwrap();
        assert_eq!(quotas.register(source(3), now).err(), Some(RelayRefusalCode::Busy));
        drop(own);
        assert!(quotas.register(source(3), now).is_ok());
    }

    #[test]
    fn splices_are_bounded_in_all_by_server_half_and_by_source() {
        let (quotas, now) = (quotas(), clock::now());
        let (one, other) = (Bytes::from_static(b"one"), Bytes::from_static(b"other"));
        let first: Vec<_> = (0..2).map(|_| quotas.splice(source(1), &one, now).unwrap()).collect();
        assert_eq!(
            quotas.splice(source(1), &other, now).err(),
            Some(RelayRefusalCode::Quota)
        );
        let _third = quotas.splice(source(2), &one, now).unwrap();
        assert_eq!(quotas.splice(source(2), &one, now).err(), Some(RelayRefusalCode::Quota));
        let _fourth = quotas.splice(source(2), &other, now).unwrap();
        assert_eq!(
            quotas.splice(source(3), &other, now).err(),
            Some(RelayRefusalCode::Busy)
        );
        assert_eq!(*quotas.splices().borrow(), 4);
        drop(first);
        assert!(quotas.splice(source(3), &one, now).is_ok());
        assert_eq!(*quotas.splices().borrow(), 2);
    }

    #[test]
    fn rate_limit_of_one_source_does_not_affect_others() {
        let (quotas, now) = (quotas(), clock::now());
        let taken = (0..1_000).filter(|_| quotas.connect(source(1), now)).count();
        assert_eq!(taken, 20);
        assert!(quotas.connect(source(2), now));
        let later = now + Duration::from_millis(500);
        assert_eq!((0..1_000).filter(|_| quotas.connect(source(1), later)).count(), 5);
    }

    #[test]
    fn number_of_sources_is_bounded_and_those_in_use_are_kept() {
        let (quotas, now) = (quotas(), clock::now());
        let _held = quotas.register(source(0), now).unwrap();
        for n in 0..MAX_SOURCES as u32 {
            quotas.connect(source(n), now);
        }
        let last = source(u32::MAX >> 8);
        assert_eq!(quotas.taken.lock().sources.len(), MAX_SOURCES);
        assert!(!quotas.connect(last, now), "nobody can be forgotten yet");
        let later = now + Duration::from_secs(5);
        assert!(quotas.connect(last, later));
        let taken = quotas.taken.lock();
        assert_eq!(taken.sources.len(), 4);
        assert!(networks(source(0)).all(|network| taken.sources[&network].registrations == 1));
    }

    #[test]
    fn a_48_has_four_times_the_limit_of_a_64() {
        let (quotas, now) = (quotas(), clock::now());
        let at = |subnet| IpAddr::from([0x2001, 0xdb8, 1, subnet, 0, 0, 0, 1]);
        let connected = (0..60_000).filter(|n| quotas.connect(at(*n), now)).count();
        assert_eq!(connected, 80);
        assert!(quotas.connect(IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, 1]), now));
        let spliced: Vec<_> = (0..9)
            .map(|n| quotas.splice(at(n << 8), &Bytes::copy_from_slice(&n.to_be_bytes()), now))
            .collect();
        assert_eq!(
            spliced.iter().filter(|spliced| spliced.is_ok()).count(),
            4,
            "as many as there are in all"
        );
    }

    #[test]
    fn unvalidated_address_is_neither_charged_nor_remembered() {
        let (quotas, now) = (quotas(), clock::now());
        assert!((0..1_000).all(|n| quotas.may_connect(source(n), now)));
        assert!(quotas.taken.lock().sources.is_empty());
        while quotas.connect(source(1), now) {}
        assert!(!quotas.may_connect(source(1), now));
    }
}
