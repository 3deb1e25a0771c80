//! The relay's end: accepts connections of halves and completes their handshakes.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::codec::RelayStreamError;
use super::config::{self, RelayWindow, ViaConfigError};
use super::stream::ViaStream;
use crate::carrier::link::close_quic;
use crate::carrier::quic::config::server_endpoint;
use crate::carrier::quic::socket::endpoint;
use crate::carrier::quic::{EndpointSecrets, QuicLimits, unmapped};
use crate::carrier::{CloseReason, Duplex, tls};
use crate::identity::raw_key::TlsKey;

/// Longest wait for the first stream of a connection. Every half opens it immediately.
const FIRST_STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection whose peer has proved its TLS key and sent no message yet.
pub(crate) struct AcceptedConnection {
    /// The stream of the first message.
    pub(crate) stream: ViaStream,
    /// The peer's TLS key, SPKI DER.
    pub(crate) peer_key: Bytes,
    /// The peer's address.
    pub(crate) remote: SocketAddr,
}

/// Accepts QUIC connections.
pub(crate) struct RelayQuicListener {
    endpoint: quinn::Endpoint,
}

impl RelayQuicListener {
    pub(crate) fn new(
        socket: UdpSocket,
        key: &TlsKey,
        secrets: &EndpointSecrets,
        limits: &QuicLimits,
        window: RelayWindow,
    ) -> Result<RelayQuicListener, ListenError> {
        socket.set_nonblocking(true)?;
        let secrets = secrets.of_listener(socket.local_addr()?);
        let server = config::quic_server(key, &secrets, limits, window)?;
        let endpoint = endpoint(socket, server_endpoint(&secrets), Some(server))?;
        Ok(RelayQuicListener { endpoint })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next connection attempt; `None` once the listener is closed.
    pub(crate) async fn accept(&self) -> Option<quinn::Incoming> {
        self.endpoint.accept().await
    }

    /// Completes one handshake, which validates the peer's address. If `is_permitted` allows that
    /// address, waits for the first stream.
    ///
    /// # Errors
    /// The connection failed, or the address is not permitted.
    pub(crate) async fn handshake(
        incoming: quinn::Incoming,
        is_permitted: impl FnOnce(IpAddr) -> bool,
    ) -> Result<AcceptedConnection, RelayStreamError> {
        let connection = incoming.await.map_err(io::Error::from)?;
        if !is_permitted(unmapped(connection.remote_address()).ip()) {
            close_quic(&connection, CloseReason::Busy);
            return Err(RelayStreamError::TooManyConnections);
        }
        let peer_key = peer_key(&connection)?;
        let streams = timeout(FIRST_STREAM_TIMEOUT, connection.accept_bi()).await;
        let streams = streams.map_err(io::Error::from)?.map_err(io::Error::from)?;
        Ok(AcceptedConnection {
            peer_key,
            remote: unmapped(connection.remote_address()),
            stream: ViaStream::of_quic(connection, streams),
        })
    }

    /// Refuses new connections from now on. Existing ones stay.
    pub(crate) fn stop_accepting(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        self.endpoint.close(3u32.into(), b"shutting down");
        self.endpoint.wait_idle().await;
    }
}

/// A socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// TLS or QUIC could not be set up.
    #[error(transparent)]
    Config(#[from] ViaConfigError),
    /// The socket cannot be used.
    #[error("cannot use the socket")]
    Socket(#[from] io::Error),
}

/// Accepts TLS over TCP.
#[derive(Clone)]
pub(crate) struct RelayTlsAcceptor {
    acceptor: TlsAcceptor,
}

impl RelayTlsAcceptor {
    pub(crate) fn new(key: &TlsKey) -> Result<RelayTlsAcceptor, ViaConfigError> {
        Ok(RelayTlsAcceptor {
            acceptor: TlsAcceptor::from(config::tls_server(key)?),
        })
    }

    /// Completes one handshake.
    ///
    /// # Errors
    /// The connection failed, or the peer proved no key.
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Result<AcceptedConnection, RelayStreamError> {
        tls::tune(&stream)?;
        let stream: Box<dyn Duplex> = Box::new(stream);
        let stream = self.acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|keys| keys.first());
        Ok(AcceptedConnection {
            peer_key: proved(shown)?,
            remote: unmapped(remote),
            stream: ViaStream::of_tls(stream.into(), remote),
        })
    }
}

fn peer_key(connection: &quinn::Connection) -> Result<Bytes, RelayStreamError> {
    let identity = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    proved(identity.as_deref().and_then(|keys| keys.first()))
}

fn proved(shown: Option<&CertificateDer<'_>>) -> Result<Bytes, RelayStreamError> {
    let key = shown.ok_or(RelayStreamError::NoPeerKey)?;
    Ok(Bytes::copy_from_slice(key))
}
