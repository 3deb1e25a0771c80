//! The paths to a server half, in the order in which they are tried.

use crate::carrier::Path;
use crate::carrier::relays::{DEFAULT_RELAYS, RelayName, RelayResolver, ResolvedRelay};
use crate::carrier::via::{RelayAddress, RelayTransport};
use crate::connection::opening_order;
use crate::hints::Hints;
use parking_lot::{Mutex, MutexGuard};
use russh::keys::ssh_key::Fingerprint;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tracing::debug;

/// Limit for a DNS lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Most addresses per name.
const MAX_ADDRESSES: usize = 16;

/// Where a server half can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address.
    pub host: String,
    /// Ports to try at each address, the preferred one first.
    pub ports: Vec<Port>,
    /// Restricts the address family.
    pub family: Option<Family>,
    /// Relays at which the server half may be registered. If there are many, its host keys determine which of them
    /// are asked.
    pub relays: Vec<RelayName>,
    /// Other routes to its TLS port, the best first: an HTTP or SOCKS proxy, or a command.
    pub alternate_routes: Vec<Path>,
}

/// A port and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// QUIC over UDP.
    Quic(u16),
    /// TLS over TCP.
    Tls(u16),
}

impl Port {
    /// The path to this port at `address`. Keeps the zone of the address (`fe80::1%eth0`), replaces its port.
    fn at(self, mut address: SocketAddr) -> Path {
        let (Port::Quic(port) | Port::Tls(port)) = self;
        address.set_port(port);
        match self {
            Port::Quic(_) => Path::Quic(address),
            Port::Tls(_) => Path::Tls(address),
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A host name could not be resolved.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve {host}")]
pub struct ResolveError {
    /// The name.
    pub host: String,
    /// The resolver's error.
    pub source: io::Error,
}

/// What helps to find the paths to a target.
#[derive(Clone, Debug, Default)]
pub(super) struct LookupContext {
    /// Folder with hints from earlier sessions and with cached relay addresses.
    pub(super) state_dir: Option<PathBuf>,
    /// Trusted host keys.
    pub(super) host_keys: Vec<Fingerprint>,
}

/// The paths to a server half. Clones share their state.
#[derive(Clone)]
pub(super) struct Paths {
    target: Target,
    state_dir: Option<PathBuf>,
    known: Arc<Mutex<Candidates>>,
}

#[derive(Default)]
struct Candidates {
    /// Host keys by which relays find the host.
    host_keys: Vec<Fingerprint>,
    /// Without ports. Link-local addresses include the zone.
    addresses: Vec<SocketAddr>,
    relays: Vec<RelayAddress>,
    /// The path that worked last.
    last_used: Option<Path>,
    /// Relays that could not be resolved at first, with the reason.
    unresolved_relays: Vec<String>,
}

impl Paths {
    /// Resolves the target and its relays.
    pub(super) async fn resolve(target: Target, context: LookupContext) -> Result<Paths, ResolveError> {
        let relays = find_relays(&target.relays, context.state_dir.as_deref(), &context.host_keys);
        let (found, (relays, unresolved_relays)) = tokio::join!(lookup(&target), relays);
        let addresses = match found {
            // A relay, proxy or command can reach the host without DNS here.
            Err(error) if !relays.is_empty() || !target.alternate_routes.is_empty() => {
                debug!(host = target.host, %error, "cannot resolve the host");
                Vec::new()
            }
            found => found.map_err(|source| ResolveError {
                host: target.host.clone(),
                source,
            })?,
        };
        let paths = Paths::new(target, context, addresses, relays);
        paths.known().unresolved_relays = unresolved_relays;
        Ok(paths)
    }

    fn new(target: Target, context: LookupContext, addresses: Vec<SocketAddr>, relays: Vec<RelayAddress>) -> Paths {
        let mut known = Candidates {
            host_keys: context.host_keys,
            addresses,
            relays,
            last_used: None,
            unresolved_relays: Vec::new(),
        };
        // Use the hint only if it is still among the paths: a former address may belong to another host now.
        let hint = context
            .state_dir
            .as_deref()
            .and_then(|folder| Hints::of_paths(folder).recall(&target.host));
        known.last_used = hint.and_then(|hint| {
            let mut paths = known.by_preference(&target).into_iter();
            paths.find(|path| path.to_string() == hint)
        });
        Paths {
            target,
            state_dir: context.state_dir,
            known: Arc::new(Mutex::new(known)),
        }
    }

    /// All paths: the last used path first, then in order of preference.
    pub(super) fn all(&self) -> Vec<Path> {
        let known = self.known();
        let mut paths = known.by_preference(&self.target);
        if let Some(last_used) = &known.last_used {
            paths.retain(|path| path != last_used);
            paths.insert(0, last_used.clone());
        }
        paths
    }

    /// Relays that could not be resolved, with the reason.
    pub(super) fn unresolved_relays(&self) -> Vec<String> {
        self.known().unresolved_relays.clone()
    }

    /// The paths for the race in which a session opens, and how many of them start at once.
    pub(super) fn race_order(&self) -> (Vec<Path>, usize) {
        let paths = self.all();
        let ranks: Vec<u8> = paths.iter().map(|path| path.rank() as u8).collect();
        let (order, concurrent) = opening_order(&ranks);
        (order.into_iter().map(|path| paths[path].clone()).collect(), concurrent)
    }

    /// Adds host keys that the host has proved.
    pub(super) fn add_host_keys(&self, host_keys: impl IntoIterator<Item = Fingerprint>) {
        let known = &mut self.known().host_keys;
        for key in host_keys {
            if !known.contains(&key) {
                known.push(key);
            }
        }
    }

    /// Tries this path first at the next outage.
    pub(super) fn prefer(&self, last_used: Path) {
        self.known().last_used = Some(last_used);
    }

    /// Tries this path first at the next outage and the next open. Writes to disk, which may block.
    pub(super) fn remember(&self, last_used: Path) {
        if let Some(folder) = &self.state_dir
            && let Err(error) = Hints::of_paths(folder).remember(&self.target.host, &last_used.to_string())
        {
            debug!(%error, "cannot store which path worked");
        }
        self.prefer(last_used);
    }

    /// Resolves everything again and adds new addresses. Keeps the old ones if the lookup fails: a DNS outage must
    /// not end a session.
    pub(super) async fn refresh(&self) {
        let host_keys = self.known().host_keys.clone();
        let relays = async {
            find_relays(&self.target.relays, self.state_dir.as_deref(), &host_keys)
                .await
                .0
        };
        let (found, relays) = tokio::join!(lookup(&self.target), relays);
        let mut known = self.known();
        match found {
            Ok(found) => add_new(&mut known.addresses, found),
            Err(error) => debug!(host = self.target.host, %error, "cannot resolve the host again"),
        }
        add_new(&mut known.relays, relays);
    }

    fn known(&self) -> MutexGuard<'_, Candidates> {
        self.known.lock()
    }
}

impl Candidates {
    /// Every port at every address, and every relay and alternate route. Each further port starts two positions
    /// later, not after all addresses: most hosts have one address per family. Relays rank with the third port,
    /// alternate routes between.
    fn by_preference(&self, target: &Target) -> Vec<Path> {
        let starts = target.ports.iter().zip((0..).step_by(2));
        let straight =
            starts.flat_map(|(port, start)| (start..).zip(self.addresses.iter().map(|address| port.at(*address))));
        // Transports without a direct port are not used for relays either.
        let is_wanted = |transport| {
            target.ports.iter().any(|port| match port {
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
        paths.extend((3..).step_by(2).zip(target.alternate_routes.iter().cloned()));
        paths.sort_by_key(|(index, _)| *index);
        paths.into_iter().map(|(_, path)| path).collect()
    }
}

fn add_new<T: PartialEq>(known: &mut Vec<T>, found: Vec<T>) {
    for one in found {
        if !known.contains(&one) && known.len() < MAX_ADDRESSES {
            known.push(one);
        }
    }
}

/// The addresses of the relays that the host keys select, and the errors of names that could not be resolved.
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
        debug!(error = %failure, "cannot resolve a relay");
    }
    let mut addresses: Vec<_> = found.relays.iter().flat_map(ResolvedRelay::each).collect();
    addresses.truncate(MAX_ADDRESSES);
    (addresses, found.failures.iter().map(ToString::to_string).collect())
}

async fn lookup(target: &Target) -> io::Result<Vec<SocketAddr>> {
    // The resolver requires a port; its value is not used.
    let found = timeout(LOOKUP_TIMEOUT, lookup_host((target.host.as_str(), 0))).await;
    let found = found.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let wanted = found.filter(|address| match target.family {
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

/// Alternates address families (RFC 8305 section 4), starting with the one that the resolver put first.
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
        if !unique.contains(&address) && !is_useless(address) && unique.len() < MAX_ADDRESSES {
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

    fn target(ports: &[Port]) -> Target {
        Target {
            host: "build".into(),
            ports: ports.to_vec(),
            family: None,
            relays: Vec::new(),
            alternate_routes: Vec::new(),
        }
    }

    fn paths(ports: &[Port], addresses: &[&str]) -> Paths {
        let addresses = addresses.iter().map(|text| address(text)).collect();
        Paths::new(target(ports), LookupContext::default(), addresses, Vec::new())
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
        let mut target = target(&[Port::Quic(22)]);
        target.host = "fe80::1%lo".into();
        let paths = Paths::resolve(target, LookupContext::default()).await.unwrap();
        // The loopback interface is the first one that Linux creates.
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
        let known = Candidates {
            relays: vec![relay],
            ..Candidates::default()
        };
        let by_ports = |ports: &[Port]| written(&known.by_preference(&target(ports)));
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
        assert_eq!(paths.race_order().1, 1);
        let tls = Port::Tls(443).at(address("127.0.0.1"));
        paths.prefer(tls.clone());
        let (race_order, concurrent) = paths.race_order();
        assert_eq!(
            (written(&race_order), concurrent),
            (vec!["tls 127.0.0.1:443".into(), "quic 127.0.0.1:22".into()], 2)
        );
    }

    #[test]
    fn what_worked_last_is_remembered_for_as_long_as_the_host_has_the_address() {
        let state = tempfile::tempdir().unwrap();
        let target = target(&[Port::Quic(22), Port::Tls(443)]);
        let context = LookupContext {
            state_dir: Some(state.path().to_owned()),
            host_keys: Vec::new(),
        };
        let open = |ip: &str| Paths::new(target.clone(), context.clone(), vec![address(ip)], Vec::new());
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
