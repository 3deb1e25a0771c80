//! Carriers inside one process, over any byte stream. They add no security of their own.

use super::link::{Link, StreamLink};
use super::{Carrier, CarrierInfo, Kind, Rank};
use crate::transport::WithoutStats;
use bytes::Bytes;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::io::{AsyncRead, AsyncWrite};

/// The address of a peer in the same process.
pub const IN_PROCESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A carrier over `stream` whose peer counts as having proved `peer_key`.
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
    Carrier::new(info, Link::Stream(StreamLink::plain(WithoutStats(stream))))
}
