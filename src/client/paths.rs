//! Where a server half may be reached: addresses, in the order in which they are tried.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::debug;

/// A resolver that takes longer is of no help to an open, and less to a resume.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 16;

/// Name and UDP port of a server half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Host name or address.
    pub host: String,
    /// UDP port.
    pub port: u16,
    /// Whether one address family only is wanted.
    pub family: Option<Family>,
}

/// Address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A name gave no address.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {host}")]
pub struct ResolveError {
    /// The name.
    pub host: String,
    /// What the resolver said.
    pub source: io::Error,
}

/// The addresses of a place, the last winner first. Shared by all who dial.
#[derive(Clone)]
pub(super) struct Paths {
    place: Place,
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Paths {
    /// Looks the place up.
    pub(super) async fn resolve(place: Place) -> Result<Paths, ResolveError> {
        let found = lookup(&place).await;
        let found = found.map_err(|source| ResolveError {
            host: place.host.clone(),
            source,
        })?;
        Ok(Paths {
            place,
            addresses: Arc::new(Mutex::new(found)),
        })
    }

    #[cfg(test)]
    fn known(addresses: Vec<SocketAddr>) -> Paths {
        let place = Place {
            host: String::new(),
            port: 0,
            family: None,
        };
        Paths {
            place,
            addresses: Arc::new(Mutex::new(addresses)),
        }
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next open or outage begins with this one.
    pub(super) fn prefer(&self, winner: SocketAddr) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = addresses.iter().position(|address| *address == winner) {
            addresses[..=place].rotate_right(1);
        }
    }

    /// Looks the place up again and adds what is new. Without an answer the old addresses stay: a name server that
    /// is down must not end a session.
    pub(super) async fn refresh(&self) {
        match lookup(&self.place).await {
            Ok(found) => {
                let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
                for address in found {
                    if !addresses.contains(&address) && addresses.len() < MOST_ADDRESSES {
                        addresses.push(address);
                    }
                }
            }
            Err(error) => debug!(host = self.place.host, %error, "cannot look the host up again"),
        }
    }
}

async fn lookup(place: &Place) -> io::Result<Vec<SocketAddr>> {
    let found = timeout(LOOKUP_TIMEOUT, lookup_host((place.host.as_str(), place.port))).await;
    let found = found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let wanted = found.filter(|address| match place.family {
        None => true,
        Some(Family::V4) => address.is_ipv4(),
        Some(Family::V6) => address.is_ipv6(),
    });
    let addresses = interleave(wanted.collect());
    if addresses.is_empty() {
        Err(io::ErrorKind::AddrNotAvailable.into())
    } else {
        Ok(addresses)
    }
}

/// Families in turn (RFC 8305 section 4), beginning with the one that the resolver put first.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        match (first.next(), second.next()) {
            (None, None) => break,
            (one, other) => mixed.extend(one.into_iter().chain(other)),
        }
    }
    let mut unique = Vec::new();
    for address in mixed {
        if !unique.contains(&address) && !is_useless(address.ip()) && unique.len() < MOST_ADDRESSES {
            unique.push(address);
        }
    }
    unique
}

fn is_useless(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        format!("{text}:22").parse().unwrap()
    }

    #[test]
    fn families_take_turns_and_doubles_go() {
        let found = ["[::1]", "[::2]", "[::2]", "127.0.0.1", "[::3]", "127.0.0.2"]
            .map(address)
            .to_vec();
        let mixed = ["[::1]", "127.0.0.1", "[::2]", "127.0.0.2", "[::3]"]
            .map(address)
            .to_vec();
        assert_eq!(interleave(found), mixed);
    }

    #[test]
    fn the_winner_goes_first_and_the_others_keep_their_order() {
        let paths = Paths::known(["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(address).to_vec());
        paths.prefer(address("127.0.0.3"));
        assert_eq!(paths.addresses(), ["127.0.0.3", "127.0.0.1", "127.0.0.2"].map(address));
    }
}
