//! Opens TCP connections to sshd, on behalf of clients and for bowline itself.
//!
//! All connections to sshd are opened here: those for questions about keys, for sessions and for the banner. Only this
//! module decides which address sshd sees.

mod client;
mod loopback;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::pin::Pin;

use tokio::net::TcpStream;

use crate::transport::unmapped;

pub(crate) use client::FromClient;
pub use loopback::{FromLoopback, OWN_ALIAS};

/// A client, as the sockets of this server half see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address. Behind a relay this is the relay's address: what the relay says about its clients is not trusted.
    pub remote: SocketAddr,
    /// The local address that it reached, if the system tells.
    pub local: Option<IpAddr>,
}

impl Client {
    /// Converts IPv4-mapped addresses to IPv4 addresses.
    #[must_use]
    pub fn new(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        Self {
            remote: unmapped(remote),
            local: local.map(|local| local.to_canonical()),
        }
    }

    /// The local address that it reached, with the zone of its remote address: a link-local address means nothing
    /// without a zone. The port is 0.
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
    /// The same from an address that is not on loopback, for a client for which [`ConnectSshd::hides`] holds.
    SecondQuery(Client),
    /// To carry a session of this client.
    Session(Client),
    /// To read the banner, for no particular client.
    Banner,
}

/// The result of connecting.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + 'a>>;

/// Opens connections to one sshd.
pub trait ConnectSshd: fmt::Debug + Send + Sync {
    /// sshd's address, as configured.
    fn target(&self) -> SocketAddr;

    /// Connects. Dropping the future cancels it.
    fn connect(&self, purpose: Purpose) -> Connecting<'_>;

    /// Whether sshd sees this client on loopback although it is elsewhere.
    fn hides(&self, _client: Client) -> bool {
        false
    }

    /// sshd has accepted a key of this client on a connection for a question, which then ended without a login.
    fn handle_accepted(&self, _client: Client) {}

    /// Whether sshd sees this client's own address, so that its own rules decide. Otherwise it sees a loopback
    /// address, and no session may be opened if that could make a difference.
    fn shows(&self, _client: Client) -> bool {
        false
    }
}
