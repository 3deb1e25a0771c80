//! Carriers inside one process, over any byte stream whose security is somebody else's matter.

use super::link::{Link, StreamLink};
use super::{Carrier, CarrierInfo, Kind, Opaque, Rank};
use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};

/// Where a peer in the same process is taken to be.
pub const IN_PROCESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A carrier over `stream`, on which the peer is taken to have proved `peer_key`.
pub fn carrier<S>(stream: S, peer_key: Bytes, exporter: [u8; 32]) -> Carrier
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let info = CarrierInfo {
        kind: Kind::Memory,
        remote: Some(IN_PROCESS),
        via: None,
        rank: Rank::Direct,
        peer_key,
        exporter,
    };
    Carrier::new(info, Link::Stream(StreamLink::plain(Opaque(stream))))
}
