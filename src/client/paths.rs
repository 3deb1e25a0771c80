//! Where a server half may be reached: paths, in the order in which they are tried.

use crate::carrier::relays::{DEFAULT_RELAYS, RelayAddress as Located, RelayName, RelayResolver};
use crate::carrier::via::{RelayAddress, RelayTransport};
use crate::carrier::{Path, Rank};
use crate::hints::Hints;
use russh::keys::ssh_key::Fingerprint;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
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
    /// Relays at which it may be listed. Where there are many, those are asked that its host keys choose.
    pub relays: Vec<RelayName>,
    /// Other ways to its TLS port, the best first: a proxy, somebody else's tunnel.
    pub detours: Vec<Path>,
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
    /// At an address, whose zone stays (`fe80::1%eth0`) and whose port does not count.
    fn at(self, mut address: SocketAddr) -> Path {
        let (Port::Quic(port) | Port::Tls(port)) = self;
        address.set_port(port);
        match self {
            Port::Quic(_) => Path::Quic(address),
            Port::Tls(_) => Path::Tls(address),
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

/// What else is known of a place.
#[derive(Clone, Debug, Default)]
pub(super) struct Knowledge {
    /// Where it is remembered what worked, and where relays are.
    pub(super) state_dir: Option<PathBuf>,
    /// Host keys that would be trusted.
    pub(super) host_keys: Vec<Fingerprint>,
}

/// The paths to a place. Shared by all who dial.
#[derive(Clone)]
pub(super) struct Paths {
    place: Place,
    state_dir: Option<PathBuf>,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// By which relays know the host.
    host_keys: Vec<Fingerprint>,
    /// Without a port; the zone of a link-local address is part of it.
    addresses: Vec<SocketAddr>,
    relays: Vec<RelayAddress>,
    /// What led to the server half last.
    winner: Option<Path>,
    /// Relays whose names led nowhere at the first look, and why.
    unlocated: Vec<String>,
}

impl Paths {
    /// Looks the place and its relays up.
    pub(super) async fn resolve(place: Place, knowledge: Knowledge) -> Result<Paths, ResolveError> {
        let relays = find_relays(&place.relays, knowledge.state_dir.as_deref(), &knowledge.host_keys);
        let (found, (relays, unlocated)) = tokio::join!(lookup(&place), relays);
        let addresses = match found {
            // A name that leads nowhere is no matter where a relay knows the host by its key.
            Err(error) if !relays.is_empty() || !place.detours.is_empty() => {
                debug!(host = place.host, %error, "cannot look the host up");
                Vec::new()
            }
            found => found.map_err(|source| ResolveError {
                host: place.host.clone(),
                source,
            })?,
        };
        let paths = Paths::new(place, knowledge, addresses, relays);
        paths.known().unlocated = unlocated;
        Ok(paths)
    }

    fn new(place: Place, knowledge: Knowledge, addresses: Vec<SocketAddr>, relays: Vec<RelayAddress>) -> Paths {
        let mut known = Known {
            host_keys: knowledge.host_keys,
            addresses,
            relays,
            winner: None,
            unlocated: Vec::new(),
        };
        // An address that the host had once may be anybody's by now: only what is among the paths counts.
        let hint = knowledge
            .state_dir
            .as_deref()
            .and_then(|folder| Hints::of_paths(folder).recall(&place.host));
        known.winner = hint.and_then(|hint| {
            let mut paths = known.hoped_for(&place).into_iter();
            paths.find(|path| path.to_string() == hint)
        });
        Paths {
            place,
            state_dir: knowledge.state_dir,
            known: Arc::new(Mutex::new(known)),
        }
    }

    /// All paths: the last winner first, the others as they are hoped for.
    pub(super) fn all(&self) -> Vec<Path> {
        let known = self.known();
        let mut paths = known.hoped_for(&self.place);
        if let Some(winner) = &known.winner {
            paths.retain(|path| path != winner);
            paths.insert(0, winner.clone());
        }
        paths
    }

    /// Relays whose names led nowhere when the place was looked up, each with the reason.
    pub(super) fn unlocated(&self) -> Vec<String> {
        self.known().unlocated.clone()
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

    /// Those of a better kind.
    pub(super) fn better_than(&self, rank: Rank) -> Vec<Path> {
        let mut paths = self.all();
        paths.retain(|path| path.rank() < rank);
        paths
    }

    /// The host has proved these keys: relays may know it by them.
    pub(super) fn know(&self, host_keys: impl IntoIterator<Item = Fingerprint>) {
        let known = &mut self.known().host_keys;
        for key in host_keys {
            if !known.contains(&key) {
                known.push(key);
            }
        }
    }

    /// The next outage begins with this one.
    pub(super) fn prefer(&self, winner: Path) {
        self.known().winner = Some(winner);
    }

    /// The next outage begins with this one, and the next open too. Writes to disk, which may take its time.
    pub(super) fn remember(&self, winner: Path) {
        if let Some(folder) = &self.state_dir
            && let Err(error) = Hints::of_paths(folder).remember(&self.place.host, &winner.to_string())
        {
            debug!(%error, "cannot remember which path worked");
        }
        self.prefer(winner);
    }

    /// Looks everything up again and adds what is new. Without an answer the old addresses stay: a name server that
    /// is down must not end a session.
    pub(super) async fn refresh(&self) {
        let host_keys = self.known().host_keys.clone();
        let relays = async {
            find_relays(&self.place.relays, self.state_dir.as_deref(), &host_keys)
                .await
                .0
        };
        let (found, relays) = tokio::join!(lookup(&self.place), relays);
        let mut known = self.known();
        match found {
            Ok(found) => add_new(&mut known.addresses, found),
            Err(error) => debug!(host = self.place.host, %error, "cannot look the host up again"),
        }
        add_new(&mut known.relays, relays);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Plain values: a panic elsewhere cannot have left them half written.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Every port at every address, and every relay. A port further down waits for the two addresses before it, not for
    /// all: most hosts have one of each family, and the rest is seldom better. So do relays, which stand beside the
    /// third, and detours.
    fn hoped_for(&self, place: &Place) -> Vec<Path> {
        let starts = place.ports.iter().zip((0..).step_by(2));
        let straight =
            starts.flat_map(|(port, start)| (start..).zip(self.addresses.iter().map(|address| port.at(*address))));
        // What is not to be dialed straight is not dialed to a relay either.
        let is_wanted = |transport| {
            place.ports.iter().any(|port| match port {
                Port::Quic(_) => transport == RelayTransport::Quic,
                Port::Tls(_) => transport == RelayTransport::Tls,
            })
        };
        let by = |transport| {
            let relays = self.relays.iter().filter(move |_| is_wanted(transport));
            relays.map(move |relay| Path::Relayed(relay.clone(), transport))
        };
        let (quic, tls) = ((4..).zip(by(RelayTransport::Quic)), (6..).zip(by(RelayTransport::Tls)));
        let mut paths: Vec<(usize, Path)> = straight.chain(quic).chain(tls).collect();
        paths.extend((3..).step_by(2).zip(place.detours.iter().cloned()));
        paths.sort_by_key(|(place, _)| *place);
        paths.into_iter().map(|(_, path)| path).collect()
    }
}

fn add_new<T: PartialEq>(known: &mut Vec<T>, found: Vec<T>) {
    for one in found {
        if !known.contains(&one) && known.len() < MOST_ADDRESSES {
            known.push(one);
        }
    }
}

/// The relays that the host's keys choose, at each of their addresses; and what came of names that lead nowhere.
async fn find_relays(
    names: &[RelayName],
    state_dir: Option<&std::path::Path>,
    host_keys: &[Fingerprint],
) -> (Vec<RelayAddress>, Vec<String>) {
    if names.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let resolver = RelayResolver::new(state_dir);
    let found = resolver.resolve(names, host_keys, DEFAULT_RELAYS).await;
    for failure in &found.failures {
        debug!(error = %failure, "cannot look a relay up");
    }
    let mut addresses: Vec<_> = found.relays.iter().flat_map(Located::each).collect();
    addresses.truncate(MOST_ADDRESSES);
    (addresses, found.failures.iter().map(ToString::to_string).collect())
}

async fn lookup(place: &Place) -> io::Result<Vec<SocketAddr>> {
    // The resolver wants a port; which one matters to nobody.
    let found = timeout(LOOKUP_TIMEOUT, lookup_host((place.host.as_str(), 0))).await;
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
        if !unique.contains(&address) && !is_useless(address) && unique.len() < MOST_ADDRESSES {
            unique.push(address);
        }
    }
    unique
}

fn is_useless(address: SocketAddr) -> bool {
    address.ip().is_unspecified() || address.ip().is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 0)
    }

    fn place(ports: &[Port]) -> Place {
        Place {
            host: "build".into(),
            ports: ports.to_vec(),
            family: None,
            relays: Vec::new(),
            detours: Vec::new(),
        }
    }

    fn paths(ports: &[Port], addresses: &[&str]) -> Paths {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        Paths::new(place(ports), Knowledge::default(), addresses, Vec::new())
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

    #[tokio::test]
    async fn the_zone_of_a_link_local_address_is_kept() {
        let mut place = place(&[Port::Quic(22)]);
        place.host = "fe80::1%lo".into();
        let paths = Paths::resolve(place, Knowledge::default()).await.unwrap();
        // The loopback interface is the first one that Linux makes.
        assert_eq!(written(&paths.all()), ["quic [fe80::1%1]:22"]);
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
    fn relays_are_dialed_by_the_transports_that_are_dialed_straight() {
        let relay = RelayAddress {
            name: "r1:443".into(),
            address: "192.0.2.9:443".parse().unwrap(),
            key: None,
        };
        let known = Known {
            relays: vec![relay],
            ..Known::default()
        };
        let by_ports = |ports: &[Port]| written(&known.hoped_for(&place(ports)));
        let (quic, tls) = (
            "relay r1:443 by quic 192.0.2.9:443",
            "relay r1:443 by tls 192.0.2.9:443",
        );
        assert_eq!(by_ports(&[Port::Quic(22), Port::Tls(443)]), [quic, tls]);
        assert_eq!(by_ports(&[Port::Quic(22)]), [quic]);
        assert_eq!(by_ports(&[Port::Tls(443)]), [tls]);
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
        assert_eq!(written(&paths.better_than(tls.rank())), ["quic 127.0.0.1:22"]);
    }

    #[test]
    fn what_worked_last_is_remembered_for_as_long_as_the_host_has_the_address() {
        let state = tempfile::tempdir().unwrap();
        let place = place(&[Port::Quic(22), Port::Tls(443)]);
        let knowledge = Knowledge {
            state_dir: Some(state.path().to_owned()),
            host_keys: Vec::new(),
        };
        let open = |ip: &str| Paths::new(place.clone(), knowledge.clone(), vec![address(ip)], Vec::new());
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
