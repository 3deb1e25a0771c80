//! Resolves relay names to relays and addresses by DNS; if DNS does not answer, from the cache.
//!
//! Nothing runs in the background: to stay up to date, call again after
//! [`Resolved::refresh_after`].

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

use super::cache::{Cache, ServiceRecord};
use super::dns::{ask_all, find_in_hosts_file, look_up_host, look_up_service};
use super::{DnsName, Endpoint, Host, Relay, RelayName, ResolvedRelay, choose};

/// Longest wait for name servers.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait if a cached answer exists: a working name server answers within this time.
const LOOKUP_TIMEOUT_WITH_CACHE: Duration = Duration::from_secs(1);

/// Limits of [`Resolved::refresh_after`], whatever the TTLs are.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(60);
pub(super) const MAX_REFRESH_INTERVAL: Duration = Duration::from_secs(3600);

/// Resolves relay names and caches the answers in the state directory.
#[derive(Clone, Debug, Default)]
pub struct RelayResolver {
    state_dir: Option<PathBuf>,
    name_servers: Vec<SocketAddr>,
}

/// The result of [`RelayResolver::resolve`].
#[derive(Debug)]
pub struct Resolved {
    /// The chosen relays that have an address, best first.
    pub relays: Vec<ResolvedRelay>,
    /// When to resolve again: the shortest TTL, at least a minute and at most an hour; a minute
    /// after a failure.
    pub refresh_after: Duration,
    /// Look-ups that failed, whether or not a cached answer was used.
    pub failures: Vec<LookupError>,
}

/// A look-up failed.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The system's settings (`/etc/resolv.conf`) cannot be used.
    #[error("the system's DNS settings cannot be used")]
    Settings(#[source] NetError),
    /// No name server answered in time.
    #[error("no name server answered for {name} within {} ms", limit.as_millis())]
    Timeout {
        /// The name.
        name: DnsName,
        /// How long it waited.
        limit: Duration,
    },
    /// The name does not exist or has no records of this type.
    #[error("DNS has no records of a relay for {name}")]
    Unknown {
        /// The name.
        name: DnsName,
    },
    /// The only SRV record says that the service is not available (RFC 2782).
    #[error("DNS says that the service {name} has no relay: the target of its SRV record is the root, \".\"")]
    NotOffered {
        /// The name.
        name: DnsName,
    },
    /// The service has records, but none of them is usable.
    #[error("none of the SRV records of {name} ({records}) names a host and a port from 1 to 65535")]
    NoTarget {
        /// The name.
        name: DnsName,
        /// Number of records.
        records: usize,
    },
    /// No name server could be queried, or it refused.
    #[error("cannot look up {name}")]
    Failed {
        /// The name.
        name: DnsName,
        /// The resolver's error.
        source: Quoting<NetError>,
    },
}

impl RelayResolver {
    /// Uses the system's name servers, and caches answers in `state_dir`, if given.
    pub fn new(state_dir: Option<&Path>) -> RelayResolver {
        RelayResolver {
            state_dir: state_dir.map(Path::to_owned),
            name_servers: Vec::new(),
        }
    }

    /// Uses these name servers instead, over UDP and TCP. The system's search domains and `hosts`
    /// file are ignored.
    pub fn with_name_servers(mut self, name_servers: Vec<SocketAddr>) -> RelayResolver {
        self.name_servers = name_servers;
        self
    }

    /// Resolves names to relays, [`choose`]s those of these host keys, and resolves their
    /// addresses.
    ///
    /// If no name server answers, this takes at most 10 s, or 2 s if all answers are cached.
    /// Addresses need no look-up. Never fails as a whole: see [`Resolved::failures`].
    pub async fn resolve(&self, names: &[RelayName], host_keys: &[Fingerprint], per_key: usize) -> Resolved {
        let mut run = Resolution::new(self);
        let relays = run.relays(names).await;
        let chosen = choose(&relays, host_keys, per_key);
        let relays = run.resolve_addresses(chosen).await;
        run.finish(relays)
    }

    fn dns(&self) -> Result<TokioResolver, NetError> {
        let (config, options) = if self.name_servers.is_empty() {
            // Read every time, because it changes with the network.
            system_conf::read_system_conf()?
        } else {
            let servers = self.name_servers.iter().map(name_server).collect();
            (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
        };
        let config = distrust_negative_answers(config);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        // One call queries each name once, and only if it is not in the `hosts` file.
        builder.options_mut().cache_size = 0;
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        builder.build()
    }
}

/// The same name servers, but a negative answer of one of them is not final: several are queried at
/// once, and the name server of a VPN knows names that a faster public one does not.
fn distrust_negative_answers(config: ResolverConfig) -> ResolverConfig {
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
struct Resolution<'a> {
    resolver: &'a RelayResolver,
    /// Created when the first name is looked up.
    dns: OnceCell<Option<TokioResolver>>,
    cache: Cache,
    now: SystemTime,
    refresh_after: Duration,
    failures: Vec<LookupError>,
}

impl Resolution<'_> {
    fn new(resolver: &RelayResolver) -> Resolution<'_> {
        Resolution {
            resolver,
            dns: OnceCell::new(),
            cache: Cache::open(resolver.state_dir.as_deref()),
            now: SystemTime::now(),
            refresh_after: MAX_REFRESH_INTERVAL,
            failures: Vec::new(),
        }
    }

    /// The DNS client, if the system has settings for it and there is something to look up.
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

    fn finish(self, relays: Vec<ResolvedRelay>) -> Resolved {
        self.cache.save();
        let refresh_after = if self.failures.is_empty() {
            self.refresh_after.clamp(MIN_REFRESH_INTERVAL, MAX_REFRESH_INTERVAL)
        } else {
            MIN_REFRESH_INTERVAL
        };
        Resolved {
            relays,
            refresh_after,
            failures: self.failures,
        }
    }

    /// All relays that the names refer to, without duplicates. A relay that was named directly
    /// takes precedence over the same one of a service.
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

    async fn members(&mut self, services: Vec<DnsName>) -> Vec<Vec<ServiceRecord>> {
        let dns = self.dns(&services);
        let (cache, now) = (&self.cache, self.now);
        let limit_of = |name: &DnsName| lookup_timeout(cache.service(name, now).is_some());
        let answers = ask_all(dns, services, limit_of, look_up_service).await;
        let mut found = Vec::new();
        for (name, answer) in answers {
            match answer {
                Some(Ok((members, ttl))) => {
                    self.refresh_after = self.refresh_after.min(ttl);
                    self.cache.learn_service(&name, &members, self.now);
                    found.push(members);
                }
                // This is an answer too, and replaces the cached one.
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

    /// The chosen relays with their addresses, in the same order, without those that have none.
    async fn resolve_addresses(&mut self, chosen: Vec<Relay>) -> Vec<ResolvedRelay> {
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
            Some(ResolvedRelay { relay, addresses })
        });
        located.collect()
    }

    async fn addresses(&mut self, hosts: Vec<DnsName>) -> Vec<(DnsName, Vec<IpAddr>)> {
        let (mut found, hosts) = self.of_hosts_file(hosts);
        let dns = self.dns(&hosts);
        let (cache, now) = (&self.cache, self.now);
        let limit_of = |name: &DnsName| lookup_timeout(cache.host(name, now).is_some());
        // Names that DNS does not know may be known to the system: mDNS, LDAP and others.
        let asks_system = self.resolver.name_servers.is_empty();
        let ask = move |dns, name| look_up_host(dns, name, asks_system);
        let answers = ask_all(dns, hosts, limit_of, ask).await;
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

    /// The names found in the system's `hosts` file, and the others.
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

    /// Records a failure. `error` is `None` if [`RelayResolver::dns`] failed, which is recorded
    /// already.
    fn fail(&mut self, name: &DnsName, error: Option<LookupError>, age: Option<Duration>) {
        match age {
            Some(age) => {
                debug!(%name, error = ?error, age_s = age.as_secs(), "DNS look-up failed, using the cached answer")
            }
            None => debug!(%name, error = ?error, "DNS look-up failed, and no answer is cached"),
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

fn listed(member: ServiceRecord) -> Relay {
    Relay {
        endpoint: member.endpoint,
        pin: None,
        priority: u32::from(member.priority) + 1,
        weight: member.weight,
    }
}

fn lookup_timeout(is_remembered: bool) -> Duration {
    if is_remembered {
        LOOKUP_TIMEOUT_WITH_CACHE
    } else {
        LOOKUP_TIMEOUT
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
    async fn directly_named_relay_takes_precedence_over_the_same_one_of_a_service() {
        let resolver = RelayResolver::default();
        let mut run = Resolution::new(&resolver);
        let pinned: RelayName = format!("r1.x#{}", keys()[0]).parse().unwrap();
        let mut relays = run.relays(&[pinned]).await;
        let member = ServiceRecord {
            endpoint: relays[0].endpoint.clone(),
            priority: 0,
            weight: 9,
        };
        add(&mut relays, listed(member));
        assert_eq!(relays.len(), 1);
        assert_eq!((relays[0].pin, relays[0].priority), (Some(keys()[0]), 0));
    }
}
