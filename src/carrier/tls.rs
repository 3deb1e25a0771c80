//! The TLS carrier: TLS 1.3 over one ordered byte stream, for paths that let no UDP through.
//!
//! Everything travels on the one stream: the server half's host message first, then what the QUIC carrier has on its
//! bidirectional stream. A stream that ends with TLS' `close_notify` was closed because all was done
//! ([`CloseReason::Done`](super::CloseReason)), any other end says nothing.

use super::dialed::{DialError, Dialed, Introduction};
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

/// The name that rustls insists on and that is never sent: keys are checked, not names.
const NO_NAME: &str = "bowline";

/// Most bytes that wait in the kernel beyond what is in flight. What lies there can no longer be overtaken: an ack, or
/// the answer to a probe, behind megabytes of upload would be late by as long as they take.
const NOT_SENT: u32 = 64 * 1024;

/// A record (RFC 8446 section 5.1) with the fatal alert internal_error: the only one that blames neither end.
const BUSY_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// As long as QUIC's idle timeout: a dead carrier is found by probing long before.
const DEAD_AFTER: Duration = Duration::from_secs(45);
const KEEPALIVES: u32 = 3;

/// Connects to a TCP port, with the settings of a carrier. Dropping the future gives the attempt up.
///
/// # Errors
/// As connect(2).
pub async fn connect(remote: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(remote).await?;
    tune(&stream)?;
    Ok(stream)
}

/// Sets a TCP connection up to carry sessions: small writes at once, little queued, a dead peer found.
///
/// # Errors
/// As setsockopt(2).
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(DEAD_AFTER / KEEPALIVES)
        .with_interval(DEAD_AFTER / KEEPALIVES)
        .with_retries(KEEPALIVES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    socket.set_tcp_notsent_lowat(NOT_SENT)
}

/// Tells whoever is about to begin a handshake on `stream` to come back later, as far as that can be done at once.
pub(crate) fn turn_away(mut stream: impl Duplex) {
    let mut cx = Context::from_waker(Waker::noop());
    // What was received and not read would make the close a reset, which may overtake the alert.
    let mut heard = [0; 4096];
    let _ = Pin::new(&mut stream).poll_read(&mut cx, &mut ReadBuf::new(&mut heard));
    let _ = Pin::new(&mut stream).poll_write(&mut cx, &BUSY_ALERT);
    let _ = Pin::new(&mut stream).poll_flush(&mut cx);
    let _ = Pin::new(&mut stream).poll_shutdown(&mut cx);
}

/// Shakes hands over `stream` as the client half, and proves `key`.
///
/// # Errors
/// [`DialError`]: the stream broke, the wrong server key, or no bowline there.
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
        Introduction::FirstMessage,
    ))
}

/// The server half's side of TLS.
#[derive(Clone)]
pub struct TlsServer {
    acceptor: TlsAcceptor,
}

impl TlsServer {
    /// Proves `key` to whoever connects.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(key: &TlsKey) -> Result<TlsServer, TlsConfigError> {
        let config = Arc::new(raw_key::server_config(key, ALPN)?);
        Ok(TlsServer {
            acceptor: TlsAcceptor::from(config),
        })
    }

    /// Completes one handshake over `stream`, which comes from `remote`, and says `host`.
    ///
    /// # Errors
    /// The stream broke, or the client proves no key.
    pub async fn shake_hands(
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
    let peer_key = peer_key.ok_or_else(|| io::Error::other("the peer proved no TLS key"))?;
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
    fn reading(&self) -> Option<super::duplex::Reading> {
        self.get_ref().0.reading()
    }
}

#[cfg(test)]
mod tests;
