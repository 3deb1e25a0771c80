//! From names to relays and their addresses, by DNS; where that says nothing, from what it said last.
//!
//! Nothing runs in the background: whoever wants to stay up to date asks again after [`Resolved::refresh_after`].

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use russh::keys::ssh_key::Fingerprint;
use tracing::debug;

use crate::wire::Quoting;

use super::cache::{Cache, Member};
use super::lookup::{ask_all, find_in_hosts_file, look_up_host, look_up_service};
use super::{DnsName, Endpoint, Host, Relay, RelayAddress, RelayName, choose};

/// A name server that takes longer is of no help to an open.
const LONGEST_LOOKUP: Duration = Duration::from_secs(5);

/// With an old answer at hand there is less to wait for: a name server that is up answers within this time.
const LONGEST_WITH_MEMORY: Duration = Duration::from_secs(1);

/// Bounds of [`Resolved::refresh_after`], whatever the records say.
const SOONEST_REFRESH: Duration = Duration::from_secs(60);
pub(super) const LATEST_REFRESH: Duration = Duration::from_secs(3600);

/// Looks relays up, and remembers them in the state folder.
#[derive(Clone, Debug, Default)]
pub struct RelayResolver {
    state_dir: Option<PathBuf>,
    name_servers: Vec<SocketAddr>,
}

/// What became of a list of names.
#[derive(Debug)]
pub struct Resolved {
    /// The chosen relays that have an address, best first.
    pub relays: Vec<RelayAddress>,
    /// When to ask again: the least lifetime among the records, from a minute (also after a failure) to an hour.
    pub refresh_after: Duration,
    /// Look-ups that failed, with or without an answer from before to stand in.
    pub failures: Vec<LookupError>,
}

/// Why a name gave no new answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The system's settings (`/etc/resolv.conf`) cannot be used.
    #[error("the system's DNS settings cannot be used")]
    Settings(#[source] NetError),
    /// Nobody answered in time.
    #[error("no name server answered for {name} within {} ms", limit.as_millis())]
    Silence {
        /// The name.
        name: DnsName,
        /// How long was waited.
        limit: Duration,
    },
    /// The answer is that there is no such name, or that it has no records of the wanted kind.
    #[error("DNS knows no relay under the name {name}")]
    Unknown {
        /// The name.
        name: DnsName,
    },
    /// The one record of the service says that there is no relay (RFC 2782).
    #[error("DNS says that the service {name} has no relay: the target of its SRV record is the root, \".\"")]
    NotOffered {
        /// The name.
        name: DnsName,
    },
    /// The service has records, and none of them leads to a relay.
    #[error("none of the SRV records of {name} ({records}) names a host and a port from 1 to 65535")]
    NoTarget {
        /// The name.
        name: DnsName,
        /// How many it has.
        records: usize,
    },
    /// No name server could be asked, or it refused.
    #[error("cannot look up {name}")]
    Failed {
        /// The name.
        name: DnsName,
        /// What came of it.
        source: Quoting<NetError>,
    },
}

impl RelayResolver {
    /// Asks the name servers of the system, and remembers in `state_dir`, if there is one.
    pub fn new(state_dir: Option<&Path>) -> RelayResolver {
        RelayResolver {
            state_dir: state_dir.map(Path::to_owned),
            name_servers: Vec::new(),
        }
    }

    /// Asks these name servers instead, by UDP and TCP; the system's search domains and its `hosts` file do not count.
    pub fn with_name_servers(mut self, name_servers: Vec<SocketAddr>) -> RelayResolver {
        self.name_servers = name_servers;
        self
    }

    /// Finds the relays for these host keys: [`choose`]s among all that the names lead to, and looks up the chosen.
    ///
    /// Takes 10 s at most when no name server answers, 2 s where everything is remembered; nothing for names that
    /// are addresses. Never fails as a whole: see [`Resolved::failures`].
    pub async fn resolve(&self, names: &[RelayName], host_keys: &[Fingerprint], per_key: usize) -> Resolved {
        let mut run = Run::new(self);
        let relays = run.relays(names).await;
        let chosen = choose(&relays, host_keys, per_key);
        let relays = run.locate(chosen).await;
        run.finish(relays)
    }

    fn dns(&self) -> Result<TokioResolver, NetError> {
        let (config, options) = if self.name_servers.is_empty() {
            // Read anew each time: they change with the network.
            system_conf::read_system_conf()?
        } else {
            let servers = self.name_servers.iter().map(name_server).collect();
            (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
        };
        let config = doubting(config);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        // One run asks for each name once, and only for what the file does not have.
        builder.options_mut().cache_size = 0;
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder.build()
    }
}

/// The same name servers; that one of them knows no such name is not final. Several are asked at once, and a VPN's knows
/// names that a public one, which may be quicker, does not.
fn doubting(config: ResolverConfig) -> ResolverConfig {
    let (domain, search, mut servers) = config.into_parts();
    servers
        .iter_mut()
        .for_each(|server| server.trust_negative_responses = false);
    ResolverConfig::from_parts(domain, search, servers)
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}

/// One call of [`RelayResolver::resolve`].
struct Run<'a> {
    resolver: &'a RelayResolver,
    /// Made when the first name has to be looked up.
    dns: OnceCell<Option<TokioResolver>>,
    cache: Cache,
    now: SystemTime,
    refresh_after: Duration,
    failures: Vec<LookupError>,
}

impl Run<'_> {
    fn new(resolver: &RelayResolver) -> Run<'_> {
        Run {
            resolver,
            dns: OnceCell::new(),
            cache: Cache::open(resolver.state_dir.as_deref()),
            now: SystemTime::now(),
            refresh_after: LATEST_REFRESH,
            failures: Vec::new(),
        }
    }

    /// The resolver, where the system has one and there is something to ask.
    fn dns(&mut self, names: &[DnsName]) -> Option<TokioResolver> {
        if names.is_empty() {
            return None;
        }
        let failures = &mut self.failures;
        let made = || match self.resolver.dns() {
            Ok(dns) => Some(dns),
            Err(error) => {
                failures.push(LookupError::Settings(error));
                None
            }
        };
        self.dns.get_or_init(made).clone()
    }

    fn finish(self, relays: Vec<RelayAddress>) -> Resolved {
        self.cache.save();
        let refresh_after = if self.failures.is_empty() {
            self.refresh_after.clamp(SOONEST_REFRESH, LATEST_REFRESH)
        } else {
            SOONEST_REFRESH
        };
        Resolved {
            relays,
            refresh_after,
            failures: self.failures,
        }
    }

    /// All that the names lead to, each once: as it was named itself, else as its service has it.
    async fn relays(&mut self, names: &[RelayName]) -> Vec<Relay> {
        let mut relays: Vec<Relay> = Vec::new();
        let mut services = Vec::new();
        for name in names {
            match name {
                RelayName::Host { endpoint, pin } => add(&mut relays, named(endpoint.clone(), *pin)),
                RelayName::Service(service) => services.push(service.clone()),
            }
        }
        for members in self.members(services).await {
            members.into_iter().for_each(|member| add(&mut relays, listed(member)));
        }
        relays
    }

    async fn members(&mut self, services: Vec<DnsName>) -> Vec<Vec<Member>> {
        let dns = self.dns(&services);
        let (cache, now) = (&self.cache, self.now);
        let patience = |name: &DnsName| patience(cache.service(name, now).is_some());
        let answers = ask_all(dns, services, patience, look_up_service).await;
        let mut found = Vec::new();
        for (name, answer) in answers {
            match answer {
                Some(Ok((members, ttl))) => {
                    self.refresh_after = self.refresh_after.min(ttl);
                    self.cache.learn_service(&name, &members, self.now);
                    found.push(members);
                }
                // That is an answer, and counts more than the one before.
                Some(Err(error @ (LookupError::NotOffered { .. } | LookupError::NoTarget { .. }))) => {
                    self.cache.learn_service(&name, &[], self.now);
                    self.fail(&name, Some(error), None);
                }
                failed => {
                    let known = self.cache.service(&name, self.now);
                    self.fail(
                        &name,
                        failed.and_then(Result::err),
                        known.as_ref().map(|known| known.age),
                    );
                    found.extend(known.map(|known| known.answer));
                }
            }
        }
        found
    }

    /// The chosen ones with their addresses, in the same order, less those that have none.
    async fn locate(&mut self, chosen: Vec<Relay>) -> Vec<RelayAddress> {
        let mut hosts: Vec<DnsName> = Vec::new();
        for relay in &chosen {
            if let Host::Name(name) = &relay.endpoint.host
                && !hosts.contains(name)
            {
                hosts.push(name.clone());
            }
        }
        let found = self.addresses(hosts).await;
        let located = chosen.into_iter().filter_map(|relay| {
            let ips = match &relay.endpoint.host {
                Host::Address(ip) => vec![*ip],
                Host::Name(name) => found.iter().find(|(host, _)| host == name)?.1.clone(),
            };
            let port = relay.endpoint.port;
            let addresses = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
            Some(RelayAddress { relay, addresses })
        });
        located.collect()
    }

    async fn addresses(&mut self, hosts: Vec<DnsName>) -> Vec<(DnsName, Vec<IpAddr>)> {
        let (mut found, hosts) = self.of_hosts_file(hosts);
        let dns = self.dns(&hosts);
        let (cache, now) = (&self.cache, self.now);
        let patience = |name: &DnsName| patience(cache.host(name, now).is_some());
        // Names that DNS does not know may be the system's: from mDNS, LDAP and the like.
        let asks_system = self.resolver.name_servers.is_empty();
        let ask = move |dns, name| look_up_host(dns, name, asks_system);
        let answers = ask_all(dns, hosts, patience, ask).await;
        for (name, answer) in answers {
            match answer {
                Some(Ok((ips, ttl))) => {
                    self.refresh_after = self.refresh_after.min(ttl);
                    self.cache.learn_host(&name, &ips, self.now);
                    found.push((name, ips));
                }
                failed => {
                    let known = self.cache.host(&name, self.now);
                    self.fail(
                        &name,
                        failed.and_then(Result::err),
                        known.as_ref().map(|known| known.age),
                    );
                    found.extend(known.map(|known| (name, known.answer)));
                }
            }
        }
        found
    }

    /// What the system's `hosts` file knows, and the names that it does not.
    fn of_hosts_file(&self, names: Vec<DnsName>) -> (Vec<(DnsName, Vec<IpAddr>)>, Vec<DnsName>) {
        let is_of_system = self.resolver.name_servers.is_empty() && !names.is_empty();
        let file = is_of_system.then(Hosts::from_system).and_then(Result::ok);
        let file = file.unwrap_or_default();
        let (mut found, mut unknown) = (Vec::new(), Vec::new());
        for name in names {
            match find_in_hosts_file(&file, &name) {
                ips if ips.is_empty() => unknown.push(name),
                ips => found.push((name, ips)),
            }
        }
        (found, unknown)
    }

    /// Notes a failure; without an error it is that of [`RelayResolver::dns`], which is noted already.
    fn fail(&mut self, name: &DnsName, error: Option<LookupError>, age: Option<Duration>) {
        match age {
            Some(age) => debug!(%name, error = ?error, age_s = age.as_secs(), "no answer from DNS, using the last one"),
            None => debug!(%name, error = ?error, "no answer from DNS, and none from before"),
        }
        self.failures.extend(error);
    }
}

fn add(relays: &mut Vec<Relay>, relay: Relay) {
    if !relays.iter().any(|other| other.endpoint == relay.endpoint) {
        relays.push(relay);
    }
}

fn named(endpoint: Endpoint, pin: Option<Fingerprint>) -> Relay {
    Relay {
        endpoint,
        pin,
        priority: 0,
        weight: 1,
    }
}

fn listed(member: Member) -> Relay {
    Relay {
        endpoint: member.endpoint,
        pin: None,
        priority: u32::from(member.priority) + 1,
        weight: member.weight,
    }
}

fn patience(is_remembered: bool) -> Duration {
    if is_remembered {
        LONGEST_WITH_MEMORY
    } else {
        LONGEST_LOOKUP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [Fingerprint; 1] {
        [Fingerprint::Sha256([1; 32])]
    }

    #[tokio::test]
    async fn addresses_need_no_name_server_and_no_look_up() {
        let names: Vec<RelayName> = ["192.0.2.1", "[2001:db8::1]:5", "192.0.2.1:443"]
            .map(|name| name.parse().unwrap())
            .to_vec();
        let resolved = RelayResolver::new(None).resolve(&names, &keys(), 3).await;
        let mut found: Vec<_> = resolved
            .relays
            .iter()
            .flat_map(|relay| relay.addresses.clone())
            .collect();
        found.sort();
        assert_eq!(
            found,
            ["192.0.2.1:443", "[2001:db8::1]:5"].map(|text| text.parse().unwrap())
        );
    }

    #[tokio::test]
    async fn a_relay_that_is_named_itself_is_not_taken_for_one_of_a_service() {
        let resolver = RelayResolver::default();
        let mut run = Run::new(&resolver);
        let pinned: RelayName = format!("r1.x#{}", keys()[0]).parse().unwrap();
        let mut relays = run.relays(&[pinned]).await;
        let member = Member {
            endpoint: relays[0].endpoint.clone(),
            priority: 0,
            weight: 9,
        };
        add(&mut relays, listed(member));
        assert_eq!(relays.len(), 1);
        assert_eq!((relays[0].pin, relays[0].priority), (Some(keys()[0]), 0));
    }
}
