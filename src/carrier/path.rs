//! Ways to dial a carrier, as values: what they are called, how they are written, which is the better one.

use super::via::{RelayAddress, RelayTransport};
use super::{CarrierInfo, Kind};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

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
}

/// How good a path is, apart from how it does at the moment. The least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// Straight to the server half, and no byte waits for a lost one of another kind.
    Direct,
    /// Straight, in order: whatever is lost holds up all that follows.
    DirectInOrder,
    /// By a relay, which is reached by QUIC.
    Relayed,
    /// By a relay, which is reached by TCP.
    RelayedInOrder,
}

/// A text that names no straight path.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no path, expected a kind and an address like \"quic 192.0.2.1:22\"")]
pub struct NotAPath {
    /// The text.
    pub text: String,
}

impl Path {
    /// Which paths are better in the long run.
    pub fn rank(&self) -> Rank {
        match self {
            Path::Quic(_) => Rank::Direct,
            Path::Tls(_) => Rank::DirectInOrder,
            Path::Relayed(_, RelayTransport::Quic) => Rank::Relayed,
            Path::Relayed(_, RelayTransport::Tls) => Rank::RelayedInOrder,
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
        }
    }
}

impl Rank {
    /// That of the path that a carrier went.
    pub fn of(carrier: &CarrierInfo) -> Rank {
        match (&carrier.via, carrier.kind) {
            (Some(_), _) => Rank::Relayed,
            (None, Kind::Tls) => Rank::DirectInOrder,
            (None, Kind::Quic | Kind::Memory) => Rank::Direct,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Quic(address) => write!(f, "quic {address}"),
            Path::Tls(address) => write!(f, "tls {address}"),
            Path::Relayed(relay, transport) => write!(f, "relay {} by {transport} {}", relay.name, relay.address),
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
