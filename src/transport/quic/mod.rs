//! QUIC: dialers and listeners over UDP sockets.

mod config;
pub(crate) mod congestion;
mod gso;
mod socket;

pub use config::{EndpointSecrets, ListenerSecrets, MtuCap, MtuCapError, QuicLimits};
pub(crate) use config::{SESSION_WINDOW, UNAUTHENTICATED_WINDOW};
pub use socket::bind;

use super::{CloseReason, ConfigError, ConnectError, NO_NAME, Protocol};
use crate::identity::raw_key::{ServerKey, TlsKey};
use socket::PolledSocket;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A UDP socket that dials, and all connections made over it.
#[derive(Clone)]
pub struct QuicDialer {
    endpoint: quinn::Endpoint,
    mtu_cap: MtuCap,
}

impl QuicDialer {
    /// Binds a new socket of the address family of `remote`.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn new(remote: SocketAddr, mtu_cap: MtuCap) -> io::Result<QuicDialer> {
        QuicDialer::reporting_to(remote, mtu_cap, Arc::default())
    }

    /// The same, and sets `heard` whenever anything arrives.
    ///
    /// # Errors
    /// The system gives no socket.
    pub(crate) fn reporting_to(remote: SocketAddr, mtu_cap: MtuCap, heard: Arc<AtomicBool>) -> io::Result<QuicDialer> {
        let socket = bind(socket::any_local(remote))?;
        let socket = PolledSocket::reporting_to(socket, heard)?;
        let endpoint = socket::endpoint(socket, config::client_endpoint(), None)?;
        Ok(QuicDialer { endpoint, mtu_cap })
    }

    /// Dials `remote` and authenticates with `key`. Dropping the future cancels the attempt.
    ///
    /// # Errors
    /// No answer, a server key that is not accepted, or another protocol.
    pub(crate) async fn dial(
        &self,
        remote: SocketAddr,
        key: &TlsKey,
        accept: ServerKey,
        protocol: &Protocol,
    ) -> Result<quinn::Connection, ConnectError> {
        let config = config::client(key, accept, protocol, self.mtu_cap.at(remote))?;
        Ok(self.endpoint.connect_with(config, remote, NO_NAME)?.await?)
    }
}

/// A UDP socket that accepts connections.
pub struct QuicListener {
    endpoint: quinn::Endpoint,
    socket: Arc<PolledSocket>,
}

impl QuicListener {
    /// Listens on a bound socket. With the secrets of another listener it resets that one's
    /// connections; that listener must be gone for good.
    ///
    /// # Errors
    /// The socket cannot be used, or TLS cannot be set up.
    pub(crate) fn new(
        socket: UdpSocket,
        key: &TlsKey,
        secrets: &ListenerSecrets,
        protocol: &Protocol,
        limits: &QuicLimits,
    ) -> Result<QuicListener, ConfigError> {
        socket.set_nonblocking(true)?;
        let limits = QuicLimits {
            mtu_cap: limits.mtu_cap.at(socket.local_addr()?),
            ..*limits
        };
        let server = config::server(key, secrets, protocol, &limits)?;
        let socket = PolledSocket::new(socket)?;
        let endpoint = socket::endpoint(Arc::clone(&socket), config::server_endpoint(secrets), Some(server))?;
        Ok(QuicListener { endpoint, socket })
    }

    /// The address on which it listens.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next connection attempt; `None` once the listener is closed.
    pub async fn accept(&self) -> Option<quinn::Incoming> {
        self.endpoint.accept().await
    }

    /// Leaves packets that arrive from now on to the other process that shares the socket. Sending
    /// still works.
    pub fn stop_receiving(&self) {
        self.socket.stop_receiving();
    }

    /// Refuses new connections from now on. Existing ones stay.
    pub fn stop_accepting(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Closes all connections, and accepts no more.
    pub async fn close(&self) {
        self.stop_accepting();
        self.endpoint.close(CloseReason::ShuttingDown.code(), b"shutting down");
        self.endpoint.wait_idle().await;
    }
}
