//! Relays by name: syntax, DNS, cache, and which few of many relays serve a host key.
//!
//! Nothing here connects to a relay.

mod cache;
mod dns;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod name;
mod rendezvous;
mod resolver;

pub use name::{DEFAULT_PORT, DnsName, Endpoint, Host, RelayName, RelayNameError};
pub use rendezvous::{DEFAULT_RELAYS, choose};
pub use resolver::{LookupError, RelayResolver, Resolved};

use super::via;
use crate::identity::key_digest;
use russh::keys::ssh_key::Fingerprint;
use std::net::SocketAddr;
use std::sync::Arc;

/// A relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Host and port: the same at both ends.
    pub endpoint: Endpoint,
    /// The pinned SHA-256 fingerprint of its TLS key, if any.
    pub pin: Option<Fingerprint>,
    /// Lower is tried first: 0 for a relay that was named directly, the SRV record's priority plus
    /// 1 for one of a service.
    pub priority: u32,
    /// Share among relays of the same priority; 1 for a relay that was named directly.
    pub weight: u16,
}

/// A relay and its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedRelay {
    /// The relay.
    pub relay: Relay,
    /// Its addresses in the order in which to try them, alternating between the address families.
    /// At least one.
    pub addresses: Vec<SocketAddr>,
}

impl ResolvedRelay {
    /// The addresses as dial targets.
    pub fn each(&self) -> impl Iterator<Item = via::RelayAddress> {
        let name: Arc<str> = self.relay.endpoint.to_string().into();
        let key = self.relay.pin.and_then(key_digest);
        self.addresses.iter().map(move |address| via::RelayAddress {
            name: Arc::clone(&name),
            address: *address,
            key,
        })
    }
}
