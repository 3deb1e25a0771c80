//! Whether QUIC packets fit the path MTU that the kernel knows.

use rustix::net::sockopt::{ip_mtu, ipv6_mtu};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// QUIC needs UDP payloads of this size (RFC 9000 section 14).
const MIN_PAYLOAD: u32 = 1200;
/// Size of the IP and UDP headers.
const HEADERS_V4: u32 = 28;
const HEADERS_V6: u32 = 48;

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
