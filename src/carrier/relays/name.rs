//! The syntax of relay names: a host, or a service whose hosts are SRV records.
//!
//! Nothing is resolved here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use russh::keys::ssh_key::{Fingerprint, HashAlg};
use thiserror::Error;

/// Default port. Firewalls usually let UDP and TCP to port 443 pass.
pub const DEFAULT_PORT: u16 = 443;

/// RFC 1035 section 2.3.4: 255 bytes, less the length bytes of the root and of the first label.
const MAX_NAME_LEN: usize = 253;
const MAX_LABEL_LEN: usize = 63;

/// The name of a relay or of a group of relays: `r1.example.org`, `r2.example.org:4433`,
/// `[2001:db8::1]:443`, `r1.example.org#SHA256:..`, `_bowline-relay._udp.example.org`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RelayName {
    /// One relay.
    Host {
        /// Host and port; port 443 if none is given.
        endpoint: Endpoint,
        /// The pinned SHA-256 fingerprint of its TLS key, if any.
        pin: Option<Fingerprint>,
    },
    /// All relays listed by the SRV records of this name (RFC 2782). It begins with `_`.
    Service(DnsName),
}

/// A host and a port. Both ends hash its text: `host:port`, an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Name or address.
    pub host: Host,
    /// UDP and TCP port, never 0.
    pub port: u16,
}

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A name, to be resolved.
    Name(DnsName),
    /// IPv4 or IPv6.
    Address(IpAddr),
}

/// A DNS name in canonical form: ASCII, lower case, without the final dot, at most 253 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(String);

/// Why a text is not a relay name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RelayNameError {
    /// Not a valid host name.
    #[error("{given:?} is not a host name in ASCII letters, digits, `-`, `_` and dots")]
    Host {
        /// The invalid part.
        given: String,
    },
    /// Several colons outside of brackets: the port cannot be told from the address.
    #[error("an IPv6 address must be in brackets: [2001:db8::1]:443")]
    Bare,
    /// The text in brackets is not an IPv6 address.
    #[error("{given:?} is not an IPv6 address between brackets")]
    Address {
        /// The invalid part.
        given: String,
    },
    /// Not 1 to 65535.
    #[error("{given:?} is not a port from 1 to 65535")]
    Port {
        /// The invalid part.
        given: String,
    },
    /// The text after `#` is not a SHA-256 fingerprint.
    #[error("{given:?} is not a fingerprint (SHA256: and 43 characters)")]
    Pin {
        /// The invalid part.
        given: String,
    },
    /// A service with a port or a fingerprint.
    #[error("a service such as {service} has neither port nor fingerprint: its SRV records name the relays")]
    PortOrPinOnService {
        /// The service.
        service: DnsName,
    },
}

impl FromStr for RelayName {
    type Err = RelayNameError;

    fn from_str(text: &str) -> Result<Self, RelayNameError> {
        let (place, pin) = match text.split_once('#') {
            Some((place, pin)) => (place, Some(parse_pin(pin)?)),
            None => (text, None),
        };
        let (host, port) = split_port(place)?;
        let port = port.map(parse_port).transpose()?;
        if host.starts_with('_') {
            let service = host.parse()?;
            return match (port, pin) {
                (None, None) => Ok(RelayName::Service(service)),
                _ => Err(RelayNameError::PortOrPinOnService { service }),
            };
        }
        let endpoint = Endpoint {
            host: host.parse()?,
            port: port.unwrap_or(DEFAULT_PORT),
        };
        Ok(RelayName::Host { endpoint, pin })
    }
}

/// Splits off `:port`. Brackets stay, so that the rest is parsed as an address.
fn split_port(place: &str) -> Result<(&str, Option<&str>), RelayNameError> {
    let brackets_end = match (place.starts_with('['), place.rfind(']')) {
        (true, Some(end)) => end + 1,
        (true, None) => {
            return Err(RelayNameError::Address {
                given: place.to_owned(),
            });
        }
        (false, _) => 0,
    };
    let (inside, after) = place.split_at(brackets_end);
    match after.split_once(':') {
        None if !inside.is_empty() && !after.is_empty() => Err(RelayNameError::Port {
            given: after.to_owned(),
        }),
        None => Ok((place, None)),
        Some((_, port)) if port.contains(':') => Err(RelayNameError::Bare),
        Some((host, port)) if inside.is_empty() => Ok((host, Some(port))),
        Some(("", port)) => Ok((inside, Some(port))),
        Some((between, _)) => Err(RelayNameError::Port {
            given: between.to_owned(),
        }),
    }
}

fn parse_port(text: &str) -> Result<u16, RelayNameError> {
    // `parse` alone would accept `+443`.
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let port = digits.and_then(|text| text.parse().ok()).filter(|port| *port != 0);
    port.ok_or_else(|| RelayNameError::Port { given: text.to_owned() })
}

fn parse_pin(text: &str) -> Result<Fingerprint, RelayNameError> {
    match text.parse::<Fingerprint>() {
        Ok(pin) if pin.algorithm() == HashAlg::Sha256 => Ok(pin),
        _ => Err(RelayNameError::Pin { given: text.to_owned() }),
    }
}

impl FromStr for Host {
    type Err = RelayNameError;

    /// A name, an IPv4 address, or an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, RelayNameError> {
        if let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address = inside.parse::<Ipv6Addr>();
            return address
                .map(|address| Host::Address(address.into()))
                .map_err(|_| RelayNameError::Address {
                    given: inside.to_owned(),
                });
        }
        match text.parse::<Ipv4Addr>() {
            Ok(address) => Ok(Host::Address(address.into())),
            Err(_) => text.parse().map(Host::Name),
        }
    }
}

impl DnsName {
    /// The name as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = RelayNameError;

    fn from_str(text: &str) -> Result<Self, RelayNameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        // A numeric last label means a mistyped IPv4 address, and some resolvers would parse it as
        // one.
        let is_numeric = name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() > MAX_NAME_LEN || is_numeric || !name.split('.').all(is_label) {
            return Err(RelayNameError::Host { given: text.to_owned() });
        }
        Ok(DnsName(name.to_ascii_lowercase()))
    }
}

fn is_label(label: &str) -> bool {
    let may_stand = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL_LEN).contains(&label.len()) && !label.starts_with('-') && label.bytes().all(may_stand)
}

impl fmt::Display for RelayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RelayName::Host { endpoint, pin: None } => write!(f, "{endpoint}"),
            RelayName::Host {
                endpoint,
                pin: Some(pin),
            } => write!(f, "{endpoint}#{pin}"),
            RelayName::Service(name) => write!(f, "{name}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => write!(f, "{name}"),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIN: &str = "SHA256:uNiVztksCsDhcc0u9e8BrrFRJFFt2UHZ1k9sp1yDxd0";

    fn written(text: &str) -> String {
        let name: RelayName = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        name.to_string()
    }

    fn syntax_error(text: &str) -> RelayNameError {
        match text.parse::<RelayName>() {
            Ok(name) => panic!("{text:?} was taken for {name}"),
            Err(error) => error,
        }
    }

    #[test]
    fn a_relay_without_a_port_is_on_443() {
        assert_eq!(written("r1.example.org"), "r1.example.org:443");
        assert_eq!(written("R2.Example.org.:4433"), "r2.example.org:4433");
        assert_eq!(written("192.0.2.1"), "192.0.2.1:443");
        assert_eq!(written("[2001:db8::1]"), "[2001:db8::1]:443");
        assert_eq!(written("[2001:DB8:0::1]:5"), "[2001:db8::1]:5");
        assert_eq!(written(&format!("r1#{PIN}")), format!("r1:443#{PIN}"));
        assert_eq!(written(&format!("[::1]:5#{PIN}")), format!("[::1]:5#{PIN}"));
    }

    #[test]
    fn a_name_that_begins_with_an_underscore_is_a_service() {
        let service: RelayName = "_bowline-relay._udp.Example.org.".parse().unwrap();
        assert!(matches!(&service, RelayName::Service(name) if name.as_str() == "_bowline-relay._udp.example.org"));
        for text in ["_relay._udp.example.org:443", &format!("_relay._udp.example.org#{PIN}")] {
            assert!(
                matches!(syntax_error(text), RelayNameError::PortOrPinOnService { .. }),
                "{text}"
            );
        }
    }

    #[test]
    fn invalid_relay_name_is_refused_with_its_invalid_part() {
        for text in [
            "",
            ".",
            "a..b",
            "-a",
            "a b",
            "a/b",
            "münchen",
            "1.2.3",
            "1.2.3.4.5",
            "a%b",
            "a\u{1b}[2J",
        ] {
            assert!(
                matches!(syntax_error(text), RelayNameError::Host { .. }),
                "{text:?}: {}",
                syntax_error(text)
            );
        }
        let long = "a".repeat(64);
        assert!(matches!(syntax_error(&long), RelayNameError::Host { .. }));
        assert!(matches!(
            syntax_error(&["a.b"; 90].join(".")),
            RelayNameError::Host { .. }
        ));
        for text in ["::1", "2001:db8::1", "a:1:2"] {
            assert_eq!(syntax_error(text), RelayNameError::Bare, "{text}");
        }
        for text in ["[::1", "[a]", "[192.0.2.1]:443", "[]"] {
            assert!(matches!(syntax_error(text), RelayNameError::Address { .. }), "{text}");
        }
        for text in ["a:0", "a:65536", "a:", "a:+443", "[::1]443", "[::1]x:443", "a:https"] {
            assert!(matches!(syntax_error(text), RelayNameError::Port { .. }), "{text}");
        }
        for text in ["a#", "a#SHA256:short", "a#MD5:00:11", "a:443#x"] {
            assert!(matches!(syntax_error(text), RelayNameError::Pin { .. }), "{text}");
        }
    }

    fn host() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z][a-z0-9-]{0,20}(\\.[a-z][a-z0-9-]{0,20}){0,3}",
            any::<Ipv4Addr>().prop_map(|address| address.to_string()),
            any::<Ipv6Addr>().prop_map(|address| format!("[{address}]")),
        ]
    }

    proptest! {
        #[test]
        fn every_name_reads_as_it_is_written(
            host in host(),
            port in proptest::option::of(1u16..),
            pin in proptest::option::of(any::<[u8; 32]>()),
        ) {
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            let pin = pin.map(|bytes| format!("#{}", Fingerprint::Sha256(bytes))).unwrap_or_default();
            let name: RelayName = format!("{host}{port}{pin}").parse().unwrap();
            prop_assert_eq!(name.to_string().parse::<RelayName>().unwrap(), name);
        }

        #[test]
        fn no_input_panics_and_parsed_names_round_trip(text in "[a-z0-9_.:#\\[\\]é-]{0,30}") {
            if let Ok(name) = text.parse::<RelayName>() {
                prop_assert_eq!(name.to_string().parse::<RelayName>().unwrap(), name);
            }
        }
    }
}
