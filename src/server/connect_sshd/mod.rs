//! Opens TCP connections to sshd, on behalf of clients and for bowline itself.
//!
//! Everything that talks to sshd gets its connections here: what asks about keys, what carries sessions, and what reads
//! the banner. Which address sshd sees is decided here and nowhere else.

mod client;
mod loopback;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::pin::Pin;

use tokio::net::TcpStream;

use crate::carrier::quic::unmapped;

pub(crate) use client::FromClient;
pub use loopback::{FromLoopback, OWN_ALIAS};

/// A client, as the sockets of this server half see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Where it is. Behind a relay this is the relay: the relay's word about its clients counts for nothing here.
    pub remote: SocketAddr,
    /// The address of this machine that it reached, where the system tells.
    pub local: Option<IpAddr>,
}

impl Client {
    /// IPv4 addresses that an IPv6 socket saw are IPv4 addresses again.
    #[must_use]
    pub fn new(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        Self {
            remote: unmapped(remote),
            local: local.map(|local| local.to_canonical()),
        }
    }

    /// The address that it reached, in the zone that it came by: a link-local one means nothing without. No port.
    fn reached(&self) -> Option<SocketAddr> {
        Some(match (self.local?, self.remote) {
            (IpAddr::V6(local), SocketAddr::V6(remote)) if local.is_unicast_link_local() => {
                SocketAddrV6::new(local, 0, 0, remote.scope_id()).into()
            }
            (local, _) => SocketAddr::new(local, 0),
        })
    }

    fn is_link_local(&self) -> bool {
        matches!(self.remote, SocketAddr::V6(remote) if remote.ip().is_unicast_link_local())
    }
}

/// What a connection to sshd is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To ask whether sshd would accept a key of this client.
    Query(Client),
    /// The same from an address that is not on loopback, of a client for whom [`ConnectSshd::hides`] holds.
    SecondQuery(Client),
    /// To carry a session of this client.
    Session(Client),
    /// To read the banner, for nobody in particular.
    Banner,
}

/// The connection, or why there is none.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

/// Opens connections to one sshd.
pub trait ConnectSshd: fmt::Debug + Send + Sync {
    /// Where sshd is, as it was configured.
    fn target(&self) -> SocketAddr;

    /// Connects. Whoever drops the future gives up.
    fn connect(&self, purpose: Purpose) -> Connecting<'_>;

    /// Whether sshd sees this client on loopback, where it is not.
    fn hides(&self, _client: Client) -> bool {
        false
    }

    /// sshd accepted a key of this client on a connection for a query, which then ended without a login.
    fn handle_accepted(&self, _client: Client) {}

    /// Whether sshd sees the address of this client, so that its own rules decide. Otherwise it sees one of loopback, and
    /// nothing may be opened if that could make a difference.
    fn shows(&self, _client: Client) -> bool {
        false
    }
}
