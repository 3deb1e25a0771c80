//! The relay's end: completes the handshakes of halves.

use super::codec::RelayStreamError;
use super::stream::ViaStream;
use crate::transport::tls::{self, TlsServer};
use crate::transport::{Authenticated, CloseReason, unmapped};
use bytes::Bytes;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

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

/// Completes one QUIC handshake, which validates the peer's address. If `is_permitted` allows that
/// address, waits for the first stream.
///
/// # Errors
/// The connection failed, or the address is not permitted.
pub(crate) async fn accept_quic(
    incoming: quinn::Incoming,
    is_permitted: impl FnOnce(IpAddr) -> bool,
) -> Result<AcceptedConnection, RelayStreamError> {
    let connection = incoming.await.map_err(io::Error::from)?;
    let remote = unmapped(connection.remote_address());
    if !is_permitted(remote.ip()) {
        CloseReason::Busy.close(&connection);
        return Err(RelayStreamError::TooManyConnections);
    }
    let peer_key = connection.peer_key()?;
    let streams = timeout(FIRST_STREAM_TIMEOUT, connection.accept_bi()).await;
    let streams = streams.map_err(io::Error::from)?.map_err(io::Error::from)?;
    Ok(AcceptedConnection {
        peer_key,
        remote,
        stream: ViaStream::of_quic(connection, streams),
    })
}

/// Completes one TLS handshake.
///
/// # Errors
/// The connection failed, or the peer proved no key.
pub(crate) async fn accept_tls(
    server: &TlsServer,
    stream: TcpStream,
    remote: SocketAddr,
) -> Result<AcceptedConnection, RelayStreamError> {
    tls::tune(&stream)?;
    let stream = server.handshake(Box::new(stream)).await?;
    Ok(AcceptedConnection {
        peer_key: stream.peer_key()?,
        remote,
        stream: ViaStream::of_tls(stream, remote),
    })
}
