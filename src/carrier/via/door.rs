//! The relay's end: takes connections of halves. What they want is for the relay to hear.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::config::{self, RelayWindow, ViaConfigError};
use super::stream::ViaStream;
use super::talk::TalkError;
use crate::carrier::link::close_quic;
use crate::carrier::quic::config::server_endpoint;
use crate::carrier::quic::socket::endpoint;
use crate::carrier::quic::{EndpointSecrets, QuicLimits, unmapped};
use crate::carrier::{CloseReason, Duplex, tls};
use crate::identity::raw_key::TlsKey;

/// For the first stream of a connection, which every half opens at once.
const FIRST_STREAM: Duration = Duration::from_secs(5);

/// Somebody who proved a TLS key and has said nothing yet.
pub(crate) struct Guest {
    /// For its first word.
    pub(crate) stream: ViaStream,
    /// SPKI DER.
    pub(crate) peer_key: Bytes,
    /// Where it is.
    pub(crate) remote: SocketAddr,
}

/// Takes QUIC connections.
pub(crate) struct QuicDoor {
    endpoint: quinn::Endpoint,
}

impl QuicDoor {
    pub(crate) fn new(
        socket: UdpSocket,
        key: &TlsKey,
        secrets: &EndpointSecrets,
        limits: &QuicLimits,
        window: RelayWindow,
    ) -> Result<QuicDoor, OpenDoorError> {
        socket.set_nonblocking(true)?;
        let secrets = secrets.of_listener(socket.local_addr()?);
        let server = config::quic_server(key, &secrets, limits, window)?;
        let endpoint = endpoint(socket, server_endpoint(&secrets), Some(server))?;
        Ok(QuicDoor { endpoint })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next attempt at a connection; `None` once all is closed.
    pub(crate) async fn knock(&self) -> Option<quinn::Incoming> {
        self.endpoint.accept().await
    }

    /// Completes one handshake, which proves the guest's address, and waits for the stream of the first word if that
    /// address `is_welcome`.
    ///
    /// # Errors
    /// The connection is lost, or the guest not welcome.
    pub(crate) async fn enter(
        incoming: quinn::Incoming,
        is_welcome: impl FnOnce(IpAddr) -> bool,
    ) -> Result<Guest, TalkError> {
        let connection = incoming.await.map_err(io::Error::from)?;
        if !is_welcome(unmapped(connection.remote_address()).ip()) {
            close_quic(&connection, CloseReason::Busy);
            return Err(io::Error::other("too many connections from this address").into());
        }
        let peer_key = peer_key(&connection)?;
        let streams = timeout(FIRST_STREAM, connection.accept_bi()).await;
        let streams = streams.map_err(io::Error::from)?.map_err(io::Error::from)?;
        Ok(Guest {
            peer_key,
            remote: unmapped(connection.remote_address()),
            stream: ViaStream::of_quic(connection, streams),
        })
    }

    /// Refuses all who knock from now on; those who are in stay.
    pub(crate) fn shut(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Tells all that the relay goes away.
    pub(crate) async fn close(&self) {
        self.endpoint.close(3u32.into(), b"shutting down");
        self.endpoint.wait_idle().await;
    }
}

/// A door cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDoorError {
    /// TLS or QUIC refused.
    #[error(transparent)]
    Config(#[from] ViaConfigError),
    /// The socket refused.
    #[error("cannot use the socket")]
    Socket(#[from] io::Error),
}

/// Takes TLS over TCP.
#[derive(Clone)]
pub(crate) struct TlsDoor {
    acceptor: TlsAcceptor,
}

impl TlsDoor {
    pub(crate) fn new(key: &TlsKey) -> Result<TlsDoor, ViaConfigError> {
        Ok(TlsDoor {
            acceptor: TlsAcceptor::from(config::tls_server(key)?),
        })
    }

    /// Completes one handshake.
    ///
    /// # Errors
    /// The connection is lost, or the peer proves no key.
    pub(crate) async fn enter(&self, stream: TcpStream, remote: SocketAddr) -> Result<Guest, TalkError> {
        tls::tune(&stream)?;
        let stream: Box<dyn Duplex> = Box::new(stream);
        let stream = self.acceptor.accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|keys| keys.first());
        Ok(Guest {
            peer_key: proved(shown)?,
            remote: unmapped(remote),
            stream: ViaStream::of_tls(stream.into(), remote),
        })
    }
}

fn peer_key(connection: &quinn::Connection) -> io::Result<Bytes> {
    let identity = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    proved(identity.as_deref().and_then(|keys| keys.first()))
}

fn proved(shown: Option<&CertificateDer<'_>>) -> io::Result<Bytes> {
    let key = shown.ok_or_else(|| io::Error::other("the peer proved no TLS key"))?;
    Ok(Bytes::copy_from_slice(key))
}
