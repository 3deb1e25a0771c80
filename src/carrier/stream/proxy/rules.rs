//! Which hosts are reached through a proxy: from the configuration, or from the environment with
//! curl's rules.
//!
//! By hand: hyper-util's matcher knows no ports in NO_PROXY, and ignores a variable that cannot be
//! used instead of naming it.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use thiserror::Error;

use super::{Proxy, ProxyUrlError};

/// Most entries of `NO_PROXY` that are used.
const MAX_EXEMPT: usize = 1000;

/// A proxy for every host, for all but some hosts, or for none.
#[derive(Clone, Debug, Default)]
pub struct ProxyRules {
    proxy: Option<Proxy>,
    exempt: Vec<Exempt>,
}

/// An environment variable does not contain a valid proxy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{variable} cannot be used")]
pub struct EnvironmentError {
    /// The variable.
    pub variable: &'static str,
    /// The cause.
    #[source]
    pub source: ProxyUrlError,
}

impl ProxyRules {
    /// No proxy.
    pub fn direct() -> ProxyRules {
        ProxyRules::default()
    }

    /// This proxy for every host.
    pub fn through(proxy: Proxy) -> ProxyRules {
        ProxyRules {
            proxy: Some(proxy),
            exempt: Vec::new(),
        }
    }

    /// From the environment: the first non-empty one of `https_proxy`, `HTTPS_PROXY`, `all_proxy`
    /// and `ALL_PROXY`, except for the hosts in `no_proxy` or `NO_PROXY`.
    ///
    /// These are separated by commas or whitespace. `*` matches every host; a name matches itself
    /// and its subdomains, with or without a leading dot; an address matches itself, or with
    /// `/BITS` its network. `:PORT` after any of these limits it to that port.
    ///
    /// # Errors
    /// The variable that is used does not contain a supported proxy.
    pub fn from_environment(look: impl Fn(&str) -> Option<String>) -> Result<ProxyRules, EnvironmentError> {
        let set = |variable: &&'static str| {
            let value = look(variable).unwrap_or_default();
            (!value.trim().is_empty()).then(|| (*variable, value.trim().to_owned()))
        };
        let proxies = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
        let Some((variable, text)) = proxies.iter().find_map(set) else {
            return Ok(ProxyRules::direct());
        };
        let proxy = text.parse();
        let proxy = proxy.map_err(|source| EnvironmentError { variable, source })?;
        let exempt = ["no_proxy", "NO_PROXY"].iter().find_map(set).map(|(_, text)| text);
        Ok(ProxyRules {
            proxy: Some(proxy),
            exempt: exempt.as_deref().map(read_exempt).unwrap_or_default(),
        })
    }

    /// The proxy for this host and port, if any. `host` is a name or an address without brackets.
    pub fn proxy_for(&self, host: &str, port: u16) -> Option<&Proxy> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let address = host.parse::<IpAddr>().ok();
        let is_exempt = self.exempt.iter().any(|exempt| exempt.covers(host, address, port));
        self.proxy.as_ref().filter(|_| !is_exempt)
    }
}

/// From the configuration: a proxy, or `direct`.
impl FromStr for ProxyRules {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        if text == "direct" {
            Ok(ProxyRules::direct())
        } else {
            text.parse().map(ProxyRules::through)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exempt {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// Lower case, without the leading dot.
    Below(String),
    Network(IpNet),
}

fn read_exempt(text: &str) -> Vec<Exempt> {
    let entries = text.split(|c: char| c == ',' || c.is_whitespace());
    let entries = entries.filter(|entry| !entry.is_empty());
    entries.take(MAX_EXEMPT).map(Exempt::read).collect()
}

impl Exempt {
    /// Anything else is stored as a name, which matches no host.
    fn read(entry: &str) -> Exempt {
        let whole = Exempt {
            hosts: Hosts::read(entry),
            port: None,
        };
        // `::1` and `fe80::/10` contain colons.
        if matches!(whole.hosts, Hosts::Network(_)) {
            return whole;
        }
        match entry.rsplit_once(':').map(|(hosts, port)| (hosts, port.parse())) {
            Some((hosts, Ok(port))) => Exempt {
                hosts: Hosts::read(hosts),
                port: Some(port),
            },
            _ => whole,
        }
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let covers = match (&self.hosts, address) {
            (Hosts::All, _) => true,
            (Hosts::Network(network), Some(address)) => network.contains(&address.to_canonical()),
            (Hosts::Below(name), None) => is_below(host, name),
            _ => false,
        };
        covers && self.port.is_none_or(|only| only == port)
    }
}

impl Hosts {
    fn read(text: &str) -> Hosts {
        if text == "*" {
            return Hosts::All;
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Hosts::Network(address.into());
        }
        if let Ok(network) = bare.parse::<IpNet>() {
            return Hosts::Network(network);
        }
        let name = text.strip_prefix('*').unwrap_or(text);
        let name = name.trim_start_matches('.').trim_end_matches('.');
        Hosts::Below(name.to_ascii_lowercase())
    }
}

fn is_below(host: &str, name: &str) -> bool {
    let host = host.to_ascii_lowercase();
    match host.strip_suffix(name) {
        _ if name.is_empty() => false,
        Some(before) => before.is_empty() || before.ends_with('.'),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(variables: &[(&str, &str)]) -> Result<ProxyRules, EnvironmentError> {
        let look = |wanted: &str| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        };
        ProxyRules::from_environment(look)
    }

    fn proxy_of(variables: &[(&str, &str)]) -> Option<String> {
        rules(variables).unwrap().proxy_for("h", 443).map(Proxy::to_string)
    }

    fn is_direct(no_proxy: &str, host: &str, port: u16) -> bool {
        let rules = rules(&[("HTTPS_PROXY", "proxy"), ("NO_PROXY", no_proxy)]).unwrap();
        rules.proxy_for(host, port).is_none()
    }

    #[test]
    fn first_non_empty_variable_is_used() {
        assert_eq!(proxy_of(&[]), None);
        assert_eq!(
            proxy_of(&[("https_proxy", ""), ("ALL_PROXY", "d")]).as_deref(),
            Some("http://d:1080")
        );
        let all = [
            ("ALL_PROXY", "d"),
            ("all_proxy", "c"),
            ("HTTPS_PROXY", "b"),
            ("https_proxy", "a"),
        ];
        for (count, wanted) in [(1, "d"), (2, "c"), (3, "b"), (4, "a")] {
            assert_eq!(proxy_of(&all[..count]), Some(format!("http://{wanted}:1080")));
        }
        // `http_proxy` is for plain HTTP only.
        assert_eq!(proxy_of(&[("http_proxy", "a")]), None);
    }

    #[test]
    fn invalid_variable_is_reported_without_its_value() {
        let error = rules(&[("ALL_PROXY", "https://u:secret@proxy")]).unwrap_err();
        assert_eq!(error.to_string(), "ALL_PROXY cannot be used");
        assert_eq!(error.source, ProxyUrlError::Https);
        assert!(!format!("{error:?}").contains("secret"));
    }

    #[test]
    fn names_cover_themselves_and_what_is_below() {
        for entry in [
            "example.org",
            ".example.org",
            "*.example.org",
            "x, Example.ORG.",
            "x example.org y",
        ] {
            assert!(is_direct(entry, "example.org", 443), "{entry}");
            assert!(is_direct(entry, "A.example.org.", 443), "{entry}");
            assert!(!is_direct(entry, "badexample.org", 443), "{entry}");
            assert!(!is_direct(entry, "example.org.evil", 443), "{entry}");
        }
        assert!(is_direct("*", "anything", 1) && is_direct("*", "192.0.2.1", 1));
        assert!(!is_direct("", "h", 1) && !is_direct(".", "h", 1) && !is_direct(",", "h", 1));
    }

    #[test]
    fn port_limits_a_no_proxy_entry() {
        assert!(is_direct("example.org:443", "a.example.org", 443));
        assert!(!is_direct("example.org:443", "a.example.org", 444));
        assert!(is_direct("[::1]:443", "::1", 443) && !is_direct("[::1]:443", "::1", 444));
        assert!(is_direct("192.0.2.1:443", "192.0.2.1", 443) && !is_direct("192.0.2.1:443", "192.0.2.1", 1));
    }

    #[test]
    fn addresses_are_compared_as_numbers() {
        assert!(is_direct("2001:db8:0::1", "2001:db8::1", 1));
        assert!(is_direct("[2001:db8::1]", "2001:db8::1", 1));
        assert!(is_direct("10.0.0.0/8", "10.200.3.4", 1) && !is_direct("10.0.0.0/8", "11.0.0.1", 1));
        assert!(is_direct("192.168.1.7/16", "192.168.200.1", 1));
        assert!(is_direct("fe80::/10", "fe81::1", 1) && !is_direct("fe80::/10", "2001::1", 1));
        assert!(is_direct("127.0.0.0/8", "::ffff:127.0.0.1", 1));
        // A name never matches an address: "10.0.0.1" does not match the host "a.10.0.0.1".
        assert!(!is_direct("0.0.1", "10.0.0.1", 1) && !is_direct("10.0.0.1/99", "10.0.0.1", 1));
    }

    #[test]
    fn configured_proxy_is_used_for_every_host_and_direct_for_none() {
        let rules: ProxyRules = "socks5h://proxy".parse().unwrap();
        assert!(rules.proxy_for("localhost", 22).is_some());
        let rules: ProxyRules = "direct".parse().unwrap();
        assert!(rules.proxy_for("h", 443).is_none());
        assert_eq!("https://p".parse::<ProxyRules>().unwrap_err(), ProxyUrlError::Https);
    }
}
