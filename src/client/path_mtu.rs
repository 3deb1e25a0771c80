//! Whether packets of QUIC fit the path, as far as the kernel knows.

use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// RFC 9000 section 14: no path with less room carries QUIC.
const LEAST_PAYLOAD: u32 = 1200;
/// Headers of IP and UDP.
const HEADERS_V4: u32 = 28;
const HEADERS_V6: u32 = 48;

/// A path that is too narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path takes packets of {mtu} bytes at most, and QUIC needs {needed}")]
pub struct SmallMtu {
    /// Bytes of the longest packet.
    pub mtu: u32,
    /// Bytes of a packet that QUIC needs.
    pub needed: u32,
}

impl SmallMtu {
    /// `None` where the kernel knows no such thing. It knows the interface's MTU and the route's, and what a router has said
    /// ("fragmentation needed") about a packet of ours, which is why one looks afterwards.
    pub(super) fn of_path_to(remote: SocketAddr) -> Option<SmallMtu> {
        let (local, needed): (SocketAddr, u32) = match remote {
            SocketAddr::V4(_) => ((Ipv4Addr::UNSPECIFIED, 0).into(), LEAST_PAYLOAD + HEADERS_V4),
            SocketAddr::V6(_) => ((Ipv6Addr::UNSPECIFIED, 0).into(), LEAST_PAYLOAD + HEADERS_V6),
        };
        let socket = UdpSocket::bind(local).ok()?;
        // Sends nothing: it finds the route.
        socket.connect(remote).ok()?;
        let mtu = match remote {
            SocketAddr::V4(_) => ip_mtu(&socket),
            SocketAddr::V6(_) => ipv6_mtu(&socket),
        };
        mtu.ok().filter(|mtu| *mtu < needed).map(|mtu| SmallMtu { mtu, needed })
    }
}
