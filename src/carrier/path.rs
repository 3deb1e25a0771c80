//! Paths on which a carrier can be dialled: their names, their syntax, and which is better.

use super::stream::{CommandLine, Proxy};
use super::via::{RelayAddress, RelayTransport};
use super::{CarrierInfo, Kind};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// A path on which a carrier can be dialled.
///
/// Written as transport and address, `quic 192.0.2.1:22`. Direct paths can be parsed from that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// QUIC to a UDP port.
    Quic(SocketAddr),
    /// TLS to a TCP port.
    Tls(SocketAddr),
    /// TLS in a stream through a relay.
    Relayed(RelayAddress, RelayTransport),
    /// TLS through a proxy.
    Proxied(Arc<Proxied>),
    /// TLS over a program's standard input and output.
    Command(Arc<CommandLine>),
}

/// A TLS port behind a proxy.
#[derive(Clone, Debug)]
pub struct Proxied {
    /// The proxy.
    pub proxy: Proxy,
    /// Name or address, without brackets. The proxy may resolve the name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Proxied {
    /// The text form, without credentials.
    fn name(&self) -> String {
        format!("{}:{} by {}", self.host, self.port, self.proxy)
    }
}

impl PartialEq for Proxied {
    fn eq(&self, other: &Proxied) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Proxied {}

impl Hash for Proxied {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

/// Quality of a kind of path, whatever its present state. The least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Direct; a lost packet does not delay datagrams.
    Direct,
    /// Direct and in order: a lost packet delays everything behind it.
    DirectInOrder,
    /// In order, through a proxy.
    Proxied,
    /// Through a relay that is connected by QUIC.
    Relayed,
    /// Through a relay that is connected by TCP.
    RelayedInOrder,
    /// Through a program.
    Command,
}

/// The text is not a direct path.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not a path, expected a transport and an address like \"quic 192.0.2.1:22\"")]
pub struct PathParseError {
    /// The text.
    pub text: String,
}

impl Path {
    /// The destination of its first packets, if these are UDP.
    pub fn udp_remote(&self) -> Option<SocketAddr> {
        match self {
            Path::Quic(address) => Some(*address),
            Path::Relayed(relay, RelayTransport::Quic) => Some(relay.address),
            _ => None,
        }
    }

    /// Which paths are better in the long run.
    pub fn rank(&self) -> Rank {
        match self {
            Path::Quic(_) => Rank::Direct,
            Path::Tls(_) => Rank::DirectInOrder,
            Path::Relayed(_, RelayTransport::Quic) => Rank::Relayed,
            Path::Relayed(_, RelayTransport::Tls) => Rank::RelayedInOrder,
            Path::Proxied(_) => Rank::Proxied,
            Path::Command(_) => Rank::Command,
        }
    }
}

impl Path {
    /// Whether the path is that of the carrier: the same transport to the same machine, or the same
    /// relay. They are likely to fail together.
    pub fn shares_path_with(&self, carrier: &CarrierInfo) -> bool {
        let goes_to = |kind, address: &SocketAddr| {
            carrier.via.is_none() && carrier.kind == kind && carrier.remote.is_some_and(|at| at.ip() == address.ip())
        };
        match self {
            Path::Quic(address) => goes_to(Kind::Quic, address),
            Path::Tls(address) => goes_to(Kind::Tls, address),
            Path::Relayed(relay, _) => carrier.via.as_ref() == Some(&relay.name),
            Path::Proxied(_) | Path::Command(_) => self.via() == carrier.via,
        }
    }

    /// What the path goes through, if anything: a relay, a proxy or a program.
    pub fn via(&self) -> Option<Arc<str>> {
        match self {
            Path::Quic(_) | Path::Tls(_) => None,
            Path::Relayed(relay, _) => Some(Arc::clone(&relay.name)),
            Path::Proxied(proxied) => Some(proxied.proxy.to_string().into()),
            Path::Command(command) => Some(command.name().into()),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Quic(address) => write!(f, "quic {address}"),
            Path::Tls(address) => write!(f, "tls {address}"),
            Path::Relayed(relay, transport) => write!(f, "relay {} by {transport} {}", relay.name, relay.address),
            Path::Proxied(proxied) => write!(f, "tls {}", proxied.name()),
            Path::Command(command) => write!(f, "command {}", command.name()),
        }
    }
}

impl FromStr for Path {
    type Err = PathParseError;

    fn from_str(text: &str) -> Result<Path, PathParseError> {
        let read = || {
            let (kind, end) = text.split_once(' ')?;
            match kind {
                "quic" => Some(Path::Quic(end.parse().ok()?)),
                "tls" => Some(Path::Tls(end.parse().ok()?)),
                _ => None,
            }
        };
        read().ok_or_else(|| PathParseError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_parsed_from_its_text() {
        for text in ["quic 192.0.2.1:22", "tls [2001:db8::1]:443"] {
            assert_eq!(text.parse::<Path>().unwrap().to_string(), text);
        }
        for text in ["", "quic", "quic 192.0.2.1", "sctp 192.0.2.1:22", "tls  192.0.2.1:443"] {
            assert!(text.parse::<Path>().is_err(), "{text}");
        }
    }
}
