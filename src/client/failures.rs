//! Reasons why paths do not work, and whether QUIC packets fit the path MTU that the kernel knows.

use crate::carrier::{CarrierError, DialError, Path};
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// QUIC needs UDP payloads of this size (RFC 9000 section 14).
const MIN_PAYLOAD: u32 = 1200;
/// Size of the IP and UDP headers.
const HEADERS_V4: u32 = 28;
const HEADERS_V6: u32 = 48;

/// A path that did not work.
#[derive(Debug)]
pub struct Failed {
    /// The path.
    pub path: Path,
    /// Why.
    pub error: AttemptError,
}

/// Why a path did not work.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Dialing failed.
    #[error("{0}")]
    Dial(#[source] DialError),
    /// The carrier was lost before the server half answered.
    #[error("{0}")]
    Carrier(#[source] CarrierError),
    /// Nothing was received.
    #[error("no answer")]
    Silent,
    /// Nothing was received, and the path's MTU is too small for QUIC.
    #[error(transparent)]
    SmallMtu(#[from] SmallMtu),
}

impl Failed {
    /// Whether a QUIC server answers that does not speak this version of the protocol.
    pub fn is_other_protocol(&self) -> bool {
        matches!(&self.error, AttemptError::Dial(error) if error.is_other_protocol())
    }

    /// Whether a server half is there that has no room for the moment.
    pub(super) fn is_busy(&self) -> bool {
        match &self.error {
            AttemptError::Dial(error) => error.is_busy(),
            AttemptError::Carrier(error) => matches!(error, CarrierError::Busy),
            AttemptError::Silent | AttemptError::SmallMtu(_) => false,
        }
    }

    /// Whether the network or the peer reported the failure, as opposed to silence.
    pub(super) fn is_definite(&self) -> bool {
        matches!(&self.error, AttemptError::Dial(error) if error.is_definite())
    }
}

/// The last failure of each path. The last round of an open is cut short by the deadline and covers few paths.
#[derive(Default)]
pub(super) struct Failures(Vec<Failed>);

impl Failures {
    /// Adds the failures of one round.
    pub(super) fn handle(&mut self, failed: Vec<Failed>) {
        for fresh in failed {
            self.0.retain(|known| known.path != fresh.path);
            self.0.push(fresh);
        }
    }

    /// One failure for each of `paths`; paths without a recorded failure are reported as silent.
    pub(super) fn of_each(self, paths: Vec<Path>) -> Vec<Failed> {
        let mut all = self.0;
        for path in paths {
            if all.iter().all(|known| known.path != path) {
                let small = path.udp_remote().and_then(SmallMtu::of_path_to);
                let error = small.map_or(AttemptError::Silent, AttemptError::SmallMtu);
                all.push(Failed { path, error });
            }
        }
        all
    }
}

/// The path MTU is too small for QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path MTU is {mtu} bytes, and QUIC needs {needed}")]
pub struct SmallMtu {
    /// The path MTU in bytes.
    pub mtu: u32,
    /// The MTU that QUIC needs, in bytes.
    pub needed: u32,
}

impl SmallMtu {
    /// `None` if the kernel knows no smaller MTU. It knows the MTU of the interface and of the route, and learns from
    /// ICMP "fragmentation needed" for packets that we sent, so call this after the attempt.
    pub(super) fn of_path_to(remote: SocketAddr) -> Option<SmallMtu> {
        let (local, needed): (SocketAddr, u32) = match remote {
            SocketAddr::V4(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), MIN_PAYLOAD + HEADERS_V4),
            SocketAddr::V6(_) => ((Ipv6Addr::UNSPECIFIED, 0).into(), MIN_PAYLOAD + HEADERS_V6),
        };
        let socket = UdpSocket::bind(local).ok()?;
        // Sends nothing: connecting a UDP socket looks up the route.
        socket.connect(remote).ok()?;
        let mtu = match remote {
            SocketAddr::V4(_) => ip_mtu(&socket),
            SocketAddr::V6(_) => ipv6_mtu(&socket),
        };
        mtu.ok().filter(|mtu| *mtu < needed).map(|mtu| SmallMtu { mtu, needed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::carrier::ConnectError;

    #[test]
    fn what_was_heard_last_of_a_path_outlives_a_round_that_hears_nothing() {
        let path = |text: &str| text.parse::<Path>().unwrap();
        let failed = |text: &str, kind: std::io::ErrorKind| Failed {
            path: path(text),
            error: AttemptError::Dial(ConnectError::Unreachable(kind.into()).into()),
        };
        let (tls, quic) = ("tls 127.0.0.1:443", "quic 127.0.0.1:22");
        let mut failures = Failures::default();
        failures.handle(vec![failed(tls, std::io::ErrorKind::ConnectionReset)]);
        failures.handle(vec![failed(tls, std::io::ErrorKind::ConnectionRefused)]);
        failures.handle(Vec::new());
        let all = failures.of_each(vec![path(quic), path(tls)]);
        let told: Vec<_> = all
            .iter()
            .map(|failed| format!("{}: {}", failed.path, failed.error))
            .collect();
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with(tls) && !told[0].contains("no answer"), "{told:?}");
        assert_eq!(told[1], format!("{quic}: no answer"));
    }
}
