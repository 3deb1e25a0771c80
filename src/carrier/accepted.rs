//! Carriers that a server half accepts. It sends its host message before anything else.
//!
//! Over QUIC the message is in the first flight (0.5-RTT), on a unidirectional stream; the client
//! half opens the bidirectional stream. Over TLS it is the first message of the one stream.

use super::link::{Link, QuicLink, StreamLink};
use super::{Carrier, CarrierError, CarrierInfo, Kind, Rank};
use crate::identity::raw_key::{TlsConfigError, TlsKey};
use crate::transport::quic::{ListenerSecrets, QuicLimits, QuicListener, SESSION_WINDOW, UNAUTHENTICATED_WINDOW};
use crate::transport::tls::TlsServer;
use crate::transport::{CloseReason, ConfigError, Duplex, Protocol, WithoutStats, unmapped};
use crate::wire::ALPN;
use bytes::Bytes;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use tokio::io::{AsyncRead, AsyncWrite};

/// Carriers at the server half.
const SERVER: Protocol = Protocol {
    alpn: ALPN,
    uni_streams: 0,
    bidi_streams: 1,
    stream_window: SESSION_WINDOW,
    receive_window: UNAUTHENTICATED_WINDOW,
    send_window: SESSION_WINDOW.into_inner(),
    datagrams: true,
    keep_alive: None,
};

/// Listens for QUIC carriers on a bound socket. With the secrets of another listener it resets that
/// one's carriers; that listener must be gone for good.
///
/// # Errors
/// The socket cannot be used, or TLS cannot be set up.
pub fn listen_quic(
    socket: UdpSocket,
    key: &TlsKey,
    secrets: &ListenerSecrets,
    limits: &QuicLimits,
) -> Result<QuicListener, ConfigError> {
    QuicListener::new(socket, key, secrets, &SERVER, limits)
}

/// The server half's side of TLS carriers.
///
/// # Errors
/// TLS cannot be set up.
pub fn tls_server(key: &TlsKey) -> Result<TlsServer, TlsConfigError> {
    TlsServer::new(key, ALPN)
}

/// Completes one QUIC handshake, and sends `host` in the first flight.
///
/// # Errors
/// The connection is lost, or the client proves no key.
pub async fn accept_quic(incoming: quinn::Incoming, host: Bytes) -> Result<AuthenticatedClient, CarrierError> {
    let mut connecting = incoming.accept()?;
    // A stream can be opened once the whole ClientHello has arrived. With post-quantum keys it
    // takes two datagrams, and quinn 0.11 does not wake a task that began to open a stream in
    // between.
    connecting.handshake_data().await?;
    let (connection, handshake) = match connecting.into_0rtt() {
        Ok((connection, accepted)) => (connection, Some(accepted)),
        // Does not happen on the server side. Waiting for the handshake would cost one round trip.
        Err(connecting) => (connecting.await?, None),
    };
    let mut stream = connection.open_uni().await?;
    stream.write_chunk(host).await.map_err(io::Error::from)?;
    // Cannot fail: the stream was opened just now.
    let _ = stream.finish();
    if let Some(handshake) = handshake {
        handshake.await;
    }
    Ok(AuthenticatedClient {
        info: CarrierInfo::of(&connection, Kind::Quic, Some(connection.remote_address()))?,
        connection,
    })
}

/// Completes one TLS handshake over `stream`, which comes from `remote`, and sends `host`.
///
/// # Errors
/// The stream failed, or the client proves no key.
pub async fn accept_tls(
    tls: &TlsServer,
    stream: Box<dyn Duplex>,
    remote: SocketAddr,
    host: Bytes,
) -> Result<Carrier, CarrierError> {
    let stream = tls.handshake(stream).await?;
    let info = CarrierInfo::of(&stream, Kind::Tls, Some(remote))?;
    let mut carrier = Carrier::new(info, Link::Stream(StreamLink::tls(stream)));
    carrier.send_message(host).await?;
    Ok(carrier)
}

/// A client that has proved its TLS key and sent no message yet.
pub struct AuthenticatedClient {
    info: CarrierInfo,
    connection: quinn::Connection,
}

impl AuthenticatedClient {
    /// The client's address.
    pub fn remote(&self) -> SocketAddr {
        unmapped(self.connection.remote_address())
    }

    /// The client's TLS key, SPKI DER.
    pub fn tls_key(&self) -> &Bytes {
        &self.info.peer_key
    }

    /// Waits for the stream of its first message.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn carrier(&self) -> Result<Carrier, CarrierError> {
        let streams = self.connection.accept_bi().await?;
        let link = QuicLink::new(self.connection.clone(), streams, SESSION_WINDOW);
        Ok(Carrier::new(self.info.clone(), Link::Quic(link)))
    }

    /// Closes the connection for this reason.
    pub fn turn_away(self, reason: CloseReason) {
        reason.close(&self.connection);
    }
}

/// The address of a peer in the same process.
pub const IN_PROCESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A carrier inside one process, over any byte stream, which adds no security of its own. Its peer counts as having proved `peer_key`.
pub fn in_process<S>(stream: S, peer_key: Bytes, exporter: [u8; 32]) -> Carrier
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
