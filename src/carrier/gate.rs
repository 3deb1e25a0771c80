//! How many strangers may be talked to at once.
//!
//! Up to a quarter of the places anyone may take; beyond, an address must first show that it receives what is sent
//! to it (QUIC Retry, which costs us no memory), and no single address may take more than its part.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What becomes of an incoming handshake.
pub(crate) enum Admission {
    /// Go on, and hold the place until it is known who it is.
    Enter(Place),
    /// Ask for proof of address.
    ProveAddress,
    /// Stay silent; the client asks again.
    Ignore,
}

#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    places: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A place in the gate, free again when dropped.
pub(crate) struct Place {
    gate: Arc<Inner>,
    source: IpAddr,
}

impl Gate {
    pub(crate) fn new(places: usize) -> Gate {
        Gate(Arc::new(Inner {
            places: places.max(4),
            taken: Mutex::default(),
        }))
    }

    pub(crate) fn admit(&self, source: IpAddr, proved_address: bool) -> Admission {
        let source = network(source);
        let mut taken = self.0.taken();
        let total: usize = taken.values().sum();
        let own = taken.get(&source).copied().unwrap_or(0);
        let quarter = self.0.places / 4;
        if !proved_address && (total >= quarter || own >= quarter / 2) {
            return Admission::ProveAddress;
        }
        if total >= self.0.places || own >= quarter {
            return Admission::Ignore;
        }
        *taken.entry(source).or_default() += 1;
        Admission::Enter(Place {
            gate: Arc::clone(&self.0),
            source,
        })
    }
}

impl Inner {
    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Counts only: a panic elsewhere cannot have left them half written.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.gate.taken();
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// One customer has a /64 at least (RFC 6177), and can use all of it.
pub(crate) fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn enter(gate: &Gate, n: u8, proved: bool) -> Option<Place> {
        match gate.admit(source(n), proved) {
            Admission::Enter(place) => Some(place),
            Admission::ProveAddress | Admission::Ignore => None,
        }
    }

    #[test]
    fn forged_addresses_cannot_take_the_places_of_those_who_prove_theirs() {
        let gate = Gate::new(16);
        let forged: Vec<_> = (0..100).filter_map(|n| enter(&gate, n, false)).collect();
        assert_eq!(forged.len(), 4);
        assert!(matches!(gate.admit(source(200), false), Admission::ProveAddress));
        assert!(enter(&gate, 200, true).is_some());
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let gate = Gate::new(16);
        let own: Vec<_> = (0..16).filter_map(|_| enter(&gate, 1, true)).collect();
        assert_eq!(own.len(), 4);
        assert!(enter(&gate, 2, true).is_some());
        drop(own);
        assert!(enter(&gate, 1, false).is_some());
    }

    #[test]
    fn a_whole_ipv6_network_counts_as_one() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let other: IpAddr = "2001:db8::ffff".parse().unwrap();
        assert_eq!(network(one), network(other));
    }
}
