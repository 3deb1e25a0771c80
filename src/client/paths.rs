//! Where a server half may be reached: paths, in the order in which they are tried.

use crate::carrier::Path;
use crate::hints::Hints;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::debug;

/// A resolver that takes longer is of no help to an open, and less to a resume.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 16;

/// Where a server half is: a name, and the ports at which it may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Host name or address.
    pub host: String,
    /// Tried at each address, the one that is hoped for first.
    pub ports: Vec<Port>,
    /// Whether one address family only is wanted.
    pub family: Option<Family>,
}

/// A port, and what is spoken there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// QUIC over UDP.
    Quic(u16),
    /// TLS over TCP.
    Tls(u16),
}

impl Port {
    fn at(self, ip: IpAddr) -> Path {
        match self {
            Port::Quic(port) => Path::Quic(SocketAddr::new(ip, port)),
            Port::Tls(port) => Path::Tls(SocketAddr::new(ip, port)),
        }
    }
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

/// The paths to a place. Shared by all who dial.
#[derive(Clone)]
pub(super) struct Paths {
    place: Place,
    hints: Option<Hints>,
    known: Arc<Mutex<Known>>,
}

struct Known {
    addresses: Vec<IpAddr>,
    /// What led to the server half last.
    winner: Option<Path>,
}

impl Paths {
    /// Looks the place up. In `hints` is what worked last.
    pub(super) async fn resolve(place: Place, hints: Option<Hints>) -> Result<Paths, ResolveError> {
        let found = lookup(&place).await;
        let addresses = found.map_err(|source| ResolveError {
            host: place.host.clone(),
            source,
        })?;
        Ok(Paths::new(place, addresses, hints))
    }

    fn new(place: Place, addresses: Vec<IpAddr>, hints: Option<Hints>) -> Paths {
        let hint = hints.as_ref().and_then(|hints| hints.recall(&place.host)?.parse().ok());
        // An address that the host had once may be anybody's by now.
        let is_still_there = |path: &Path| hoped_for(&place.ports, &addresses).contains(path);
        let known = Known {
            winner: hint.filter(is_still_there),
            addresses,
        };
        Paths {
            place,
            hints,
            known: Arc::new(Mutex::new(known)),
        }
    }

    /// All paths: the last winner first, the others as they are hoped for.
    pub(super) fn all(&self) -> Vec<Path> {
        let known = self.known();
        let mut paths = hoped_for(&self.place.ports, &known.addresses);
        if let Some(winner) = &known.winner {
            paths.retain(|path| path != winner);
            paths.insert(0, winner.clone());
        }
        paths
    }

    /// All paths for a race, and how many of them begin at once: where the last winner is not of the best kind, the
    /// best of that kind need not stand behind it.
    pub(super) fn line_up(&self) -> (Vec<Path>, usize) {
        let mut paths = self.all();
        let best = paths.iter().map(Path::rank).min();
        match (paths.iter().position(|path| Some(path.rank()) == best), paths.len()) {
            (Some(place @ 1..), 2..) => {
                paths[1..=place].rotate_right(1);
                (paths, 2)
            }
            _ => (paths, 1),
        }
    }

    /// Those of a better kind than `lead`.
    pub(super) fn better_than(&self, lead: &Path) -> Vec<Path> {
        let mut paths = self.all();
        paths.retain(|path| path.rank() < lead.rank());
        paths
    }

    /// The next outage begins with this one.
    pub(super) fn prefer(&self, winner: Path) {
        self.known().winner = Some(winner);
    }

    /// The next outage begins with this one, and the next open too. Writes to disk, which may take its time.
    pub(super) fn remember(&self, winner: Path) {
        let remembered = self.hints.as_ref().map(|hints| {
            let name = &self.place.host;
            hints.remember(name, &winner.to_string())
        });
        if let Some(Err(error)) = remembered {
            debug!(%error, "cannot remember which path worked");
        }
        self.prefer(winner);
    }

    /// Looks the place up again and adds what is new. Without an answer the old addresses stay: a name server that
    /// is down must not end a session.
    pub(super) async fn refresh(&self) {
        match lookup(&self.place).await {
            Ok(found) => {
                let addresses = &mut self.known().addresses;
                for address in found {
                    if !addresses.contains(&address) && addresses.len() < MOST_ADDRESSES {
                        addresses.push(address);
                    }
                }
            }
            Err(error) => debug!(host = self.place.host, %error, "cannot look the host up again"),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Plain values: a panic elsewhere cannot have left them half written.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every port at every address. A port further down waits for the two addresses before it, not for all: most hosts have
/// one of each family, and the rest is seldom better.
fn hoped_for(ports: &[Port], addresses: &[IpAddr]) -> Vec<Path> {
    let places = ports.iter().zip((0..).step_by(2));
    let mut paths: Vec<(usize, Path)> = places
        .flat_map(|(port, start)| (start..).zip(addresses.iter().map(|ip| port.at(*ip))))
        .collect();
    paths.sort_by_key(|(place, _)| *place);
    paths.into_iter().map(|(_, path)| path).collect()
}

async fn lookup(place: &Place) -> io::Result<Vec<IpAddr>> {
    // The resolver wants a port; which one matters to nobody.
    let found = timeout(LOOKUP_TIMEOUT, lookup_host((place.host.as_str(), 0))).await;
    let found = found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let wanted = found.map(|address| address.ip()).filter(|ip| match place.family {
        None => true,
        Some(Family::V4) => ip.is_ipv4(),
        Some(Family::V6) => ip.is_ipv6(),
    });
    let addresses = interleave(wanted.collect());
    if addresses.is_empty() {
        Err(io::ErrorKind::AddrNotAvailable.into())
    } else {
        Ok(addresses)
    }
}

/// Families in turn (RFC 8305 section 4), beginning with the one that the resolver put first.
fn interleave(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let first_is_v6 = found.first().is_some_and(IpAddr::is_ipv6);
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
        if !unique.contains(&address) && !is_useless(address) && unique.len() < MOST_ADDRESSES {
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

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn paths(ports: &[Port], addresses: &[&str]) -> Paths {
        let place = Place {
            host: String::new(),
            ports: ports.to_vec(),
            family: None,
        };
        Paths::new(place, addresses.iter().map(|text| address(text)).collect(), None)
    }

    fn written(paths: &[Path]) -> Vec<String> {
        paths.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn families_take_turns_and_doubles_go() {
        let found = ["::1", "::2", "::2", "127.0.0.1", "::3", "127.0.0.2"]
            .map(address)
            .to_vec();
        let mixed = ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"].map(address).to_vec();
        assert_eq!(interleave(found), mixed);
    }

    #[test]
    fn the_winner_goes_first_and_the_others_keep_their_order() {
        let paths = paths(&[Port::Quic(22)], &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
        paths.prefer(Port::Quic(22).at(address("127.0.0.3")));
        let expected = ["quic 127.0.0.3:22", "quic 127.0.0.1:22", "quic 127.0.0.2:22"];
        assert_eq!(written(&paths.all()), expected);
    }

    #[test]
    fn another_port_waits_for_two_addresses_and_not_for_all() {
        let paths = paths(&[Port::Quic(22), Port::Tls(443)], &["127.0.0.1", "::1", "127.0.0.2"]);
        let expected = [
            "quic 127.0.0.1:22",
            "quic [::1]:22",
            "quic 127.0.0.2:22",
            "tls 127.0.0.1:443",
            "tls [::1]:443",
            "tls 127.0.0.2:443",
        ];
        assert_eq!(written(&paths.all()), expected);
    }

    #[test]
    fn a_winner_of_a_lesser_kind_races_the_best_of_the_better_kind() {
        let paths = paths(&[Port::Quic(22), Port::Tls(443)], &["127.0.0.1"]);
        assert_eq!(paths.line_up().1, 1);
        let tls = Port::Tls(443).at(address("127.0.0.1"));
        paths.prefer(tls.clone());
        let (line_up, at_once) = paths.line_up();
        assert_eq!(
            (written(&line_up), at_once),
            (vec!["tls 127.0.0.1:443".into(), "quic 127.0.0.1:22".into()], 2)
        );
        assert_eq!(written(&paths.better_than(&tls)), ["quic 127.0.0.1:22"]);
    }

    #[test]
    fn what_worked_last_is_remembered_for_as_long_as_the_host_has_the_address() {
        let state = tempfile::tempdir().unwrap();
        let place = Place {
            host: "build".into(),
            ports: vec![Port::Quic(22), Port::Tls(443)],
            family: None,
        };
        let open = |ip: &str| Paths::new(place.clone(), vec![address(ip)], Some(Hints::of_paths(state.path())));
        open("127.0.0.1").remember("tls 127.0.0.1:443".parse().unwrap());
        assert_eq!(
            written(&open("127.0.0.1").all()),
            ["tls 127.0.0.1:443", "quic 127.0.0.1:22"]
        );
        assert_eq!(
            written(&open("127.0.0.2").all()),
            ["quic 127.0.0.2:22", "tls 127.0.0.2:443"]
        );
    }
}
