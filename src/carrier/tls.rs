//! The TLS carrier: TLS 1.3 over one ordered byte stream, for networks that block UDP.
//!
//! One stream carries everything: first the server half's host message, then what the QUIC carrier
//! has on its bidirectional stream. An end with TLS' `close_notify` means that the peer was done
//! ([`CloseReason::Done`](super::CloseReason)); any other end has no meaning.

use super::dialed::{DialError, Dialed, HostMessage};
use super::duplex::Duplex;
use super::link::{Link, StreamLink};
use super::{Carrier, CarrierError, CarrierInfo, Kind, Rank};
use crate::identity::raw_key::{self, ServerKey, TlsConfigError, TlsKey};
use crate::identity::statement::EXPORTER_LABEL;
use crate::wire::ALPN;
use bytes::Bytes;
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// The server name that rustls requires. It is never sent, because keys are checked, not names.
const NO_NAME: &str = "bowline";

/// Most unsent bytes in the kernel's buffer. Later frames cannot overtake them: an ack, or the
/// answer to a probe, would wait behind megabytes of upload.
const NOTSENT_LOWAT: u32 = 64 * 1024;

/// A TLS record (RFC 8446 section 5.1) with the fatal alert internal_error, the only alert that
/// blames neither end.
const BUSY_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Equal to QUIC's idle timeout. Probes detect a dead carrier much earlier.
const DEAD_TIMEOUT: Duration = Duration::from_secs(45);
const KEEPALIVES: u32 = 3;

/// Connects to a TCP port and sets the socket options of a carrier. Dropping the future cancels the
/// attempt.
///
/// # Errors
/// As connect(2).
pub async fn connect(remote: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(remote).await?;
    tune(&stream)?;
    Ok(stream)
}

/// Sets the socket options of a carrier: no delay for small writes, a short send queue, and
/// keepalives.
///
/// # Errors
/// As setsockopt(2).
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(DEAD_TIMEOUT / KEEPALIVES)
        .with_interval(DEAD_TIMEOUT / KEEPALIVES)
        .with_retries(KEEPALIVES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(DEAD_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)
}

/// Refuses a connection before its handshake, with an alert that means "try again later", if that
/// can be sent without blocking.
pub(crate) fn turn_away(mut stream: impl Duplex) {
    let mut cx = Context::from_waker(Waker::noop());
    // Unread bytes would turn the close into a reset, which may discard the alert.
    let mut heard = [0; 4096];
    let _ = Pin::new(&mut stream).poll_read(&mut cx, &mut ReadBuf::new(&mut heard));
    let _ = Pin::new(&mut stream).poll_write(&mut cx, &BUSY_ALERT);
    let _ = Pin::new(&mut stream).poll_flush(&mut cx);
    let _ = Pin::new(&mut stream).poll_shutdown(&mut cx);
}

/// Completes a handshake over `stream` as the client half, and authenticates with `key`.
///
/// # Errors
/// [`DialError`]: the stream failed, the server key is not accepted, or the peer is not bowline.
pub async fn dial(
    stream: Box<dyn Duplex>,
    remote: Option<SocketAddr>,
    key: &TlsKey,
    accept: ServerKey,
) -> Result<Dialed, DialError> {
    let config = raw_key::client_config(key, accept, ALPN)?;
    let name = ServerName::try_from(NO_NAME).expect("a well-formed name");
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = connected.map_err(DialError::tls)?;
    Ok(Dialed::new(
        carrier(TlsStream::Client(stream), remote)?,
        HostMessage::FirstMessage,
    ))
}

/// The server half's side of TLS.
#[derive(Clone)]
pub struct TlsServer {
    acceptor: TlsAcceptor,
}

impl TlsServer {
    /// Authenticates with `key`.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(key: &TlsKey) -> Result<TlsServer, TlsConfigError> {
        let config = Arc::new(raw_key::server_config(key, ALPN)?);
        Ok(TlsServer {
            acceptor: TlsAcceptor::from(config),
        })
    }

    /// Completes one handshake over `stream`, which comes from `remote`, and sends `host`.
    ///
    /// # Errors
    /// The stream failed, or the client proves no key.
    pub async fn handshake(
        &self,
        stream: Box<dyn Duplex>,
        remote: SocketAddr,
        host: Bytes,
    ) -> Result<Carrier, CarrierError> {
        let stream = self.acceptor.accept(stream).await?;
        let mut carrier = carrier(TlsStream::Server(stream), Some(remote))?;
        carrier.send_message(host).await?;
        Ok(carrier)
    }
}

fn carrier(stream: TlsStream<Box<dyn Duplex>>, remote: Option<SocketAddr>) -> Result<Carrier, CarrierError> {
    let (_, connection) = stream.get_ref();
    let room = [0; 32];
    let exporter = match &stream {
        TlsStream::Client(client) => client
            .get_ref()
            .1
            .export_keying_material(room, EXPORTER_LABEL, Some(b"")),
        TlsStream::Server(server) => server
            .get_ref()
            .1
            .export_keying_material(room, EXPORTER_LABEL, Some(b"")),
    };
    let exporter = exporter.map_err(io::Error::other)?;
    let peer_key = connection.peer_certificates().and_then(<[CertificateDer<'_>]>::first);
    let peer_key = peer_key.ok_or(CarrierError::NoPeerKey)?;
    let info = CarrierInfo {
        kind: Kind::Tls,
        remote,
        via: None,
        rank: Rank::DirectInOrder,
        peer_key: Bytes::copy_from_slice(peer_key),
        exporter,
    };
    Ok(Carrier::new(info, Link::Stream(StreamLink::tls(stream))))
}

impl Duplex for TlsStream<Box<dyn Duplex>> {
    fn transport_stats(&self) -> Option<super::duplex::TransportStats> {
        self.get_ref().0.transport_stats()
    }
}

#[cfg(test)]
mod tests;
