//! Relays by name: how they are written, looked up and remembered, and which few of many serve a host key.
//!
//! Nothing here connects to a relay.

mod cache;
mod lookup;
mod name;
mod rendezvous;
mod resolver;

pub use name::{DEFAULT_PORT, DnsName, Endpoint, Host, RelayName, RelayNameError};
pub use rendezvous::{DEFAULT_RELAYS, choose};
pub use resolver::{LookupError, RelayResolver, Resolved};

use super::via;
use crate::wire::KeyDigest;
use russh::keys::ssh_key::Fingerprint;
use std::net::SocketAddr;
use std::sync::Arc;

/// A relay, by whatever name it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// What both ends call it.
    pub endpoint: Endpoint,
    /// SHA-256 fingerprint of its TLS key, where the user vouches for one.
    pub pin: Option<Fingerprint>,
    /// The lower goes first: 0 for a relay that was named itself, 1 more than its record says for one of a service.
    pub priority: u32,
    /// Share among those of the same priority; 1 for a relay that was named itself.
    pub weight: u16,
}

/// A relay and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// The relay.
    pub relay: Relay,
    /// Its addresses in the order in which they should be tried: families in turn. At least one.
    pub addresses: Vec<SocketAddr>,
}

impl RelayAddress {
    /// Each address, as it is dialed.
    pub fn each(&self) -> impl Iterator<Item = via::RelayAddress> {
        let name: Arc<str> = self.relay.endpoint.to_string().into();
        let key = self.relay.pin.and_then(|pin| match pin {
            Fingerprint::Sha256(digest) => Some(KeyDigest::new(digest)),
            _ => None,
        });
        self.addresses.iter().map(move |address| via::RelayAddress {
            name: Arc::clone(&name),
            address: *address,
            key,
        })
    }
}
