//! Ways to dial a carrier, as values: what they are called, how they are written, which is the better one.

use super::stream::{CommandLine, Proxy};
use super::via::{RelayAddress, RelayTransport};
use super::{CarrierInfo, Kind};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

/// One way to dial a carrier.
///
/// Written as its kind and its end, `quic 192.0.2.1:22`; straight ones are read back from that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// QUIC to a UDP port.
    Quic(SocketAddr),
    /// TLS to a TCP port.
    Tls(SocketAddr),
    /// TLS inside a stream that a relay joins to the server half.
    Relayed(RelayAddress, RelayTransport),
    /// TLS through a proxy.
    Proxied(Arc<Proxied>),
    /// TLS inside of a program's standard input and output.
    Command(Arc<CommandLine>),
}

/// A TLS port behind a proxy.
#[derive(Clone, Debug)]
pub struct Proxied {
    /// The proxy.
    pub proxy: Proxy,
    /// Name or address, without brackets; the proxy may look it up.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Proxied {
    /// All of it, without credentials.
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

/// How good a path is, apart from how it does at the moment. The least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Straight to the server half, and no byte waits for a lost one of another kind.
    Direct,
    /// Straight, in order: whatever is lost holds up all that follows.
    DirectInOrder,
    /// The same through a proxy.
    Proxied,
    /// By a relay, which is reached by QUIC.
    Relayed,
    /// By a relay, which is reached by TCP.
    RelayedInOrder,
    /// By somebody else's tunnel.
    Command,
}

/// A text that names no straight path.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no path, expected a kind and an address like \"quic 192.0.2.1:22\"")]
pub struct NotAPath {
    /// The text.
    pub text: String,
}

impl Path {
    /// Where its first packets go, if they are UDP's.
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
    /// Whether a carrier went this way, or one that fails with it: the same kind to the same machine, the same relay.
    pub fn shares_fate_of(&self, carrier: &CarrierInfo) -> bool {
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

    /// What joins the halves on it, where something does.
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
    type Err = NotAPath;

    fn from_str(text: &str) -> Result<Path, NotAPath> {
        let read = || {
            let (kind, end) = text.split_once(' ')?;
            match kind {
                "quic" => Some(Path::Quic(end.parse().ok()?)),
                "tls" => Some(Path::Tls(end.parse().ok()?)),
                _ => None,
            }
        };
        read().ok_or_else(|| NotAPath { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_as_it_was_written() {
        for text in ["quic 192.0.2.1:22", "tls [2001:db8::1]:443"] {
            assert_eq!(text.parse::<Path>().unwrap().to_string(), text);
        }
        for text in ["", "quic", "quic 192.0.2.1", "sctp 192.0.2.1:22", "tls  192.0.2.1:443"] {
            assert!(text.parse::<Path>().is_err(), "{text}");
        }
    }
}
