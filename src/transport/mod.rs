//! Connections over QUIC and TLS 1.3, on which both ends have proved a raw public key.
//!
//! Carriers and connections to a relay use the same dialers, listeners and limits. They differ in
//! their [`Protocol`]: the ALPN name, and what the peer may open and send.

mod accept;
mod error;
pub(crate) mod handshake_limiter;
pub mod quic;
mod race;
pub mod tls;

pub(crate) use accept::{accept_quic, accept_tls, tcp_listener};
pub use error::{ConfigError, ConnectError, NoPeerKey};
pub(crate) use race::{ATTEMPT_DELAY, race};
pub use tls::{Duplex, TransportStats, WithoutStats};

use bytes::Bytes;
use quinn::VarInt;
use rustls::pki_types::CertificateDer;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio_rustls::TlsStream;

/// The server name that quinn and rustls require. It is never sent, because keys are checked, not
/// names.
const NO_NAME: &str = "bowline";

/// A protocol, as one of its ends speaks it. TLS over TCP needs the name only; the rest is for
/// QUIC.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// ALPN protocol name (RFC 7301).
    pub alpn: &'static [u8],
    /// Most unidirectional streams that the peer may have open.
    pub uni_streams: u32,
    /// Most bidirectional streams that the peer may have open.
    pub bidi_streams: u32,
    /// Most bytes of one stream that wait to be read.
    pub stream_window: VarInt,
    /// Most bytes of all streams that wait to be read.
    pub receive_window: VarInt,
    /// Most bytes that are sent and not acknowledged.
    pub send_window: u64,
    /// Whether the peer may send datagrams.
    pub datagrams: bool,
    /// How often an idle connection is kept alive, if at all.
    pub keep_alive: Option<Duration>,
}

/// Why this end closes a connection. The peer receives it if the transport can carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The session ended, or the carrier was not needed.
    Done,
    /// Another carrier is the lead now.
    Replaced,
    /// The peer violated the protocol.
    Protocol,
    /// This program is shutting down.
    ShuttingDown,
    /// A hello was refused or did not arrive in time.
    Refused,
    /// Too many connections; the peer may come back later.
    Busy,
    /// The peer does not receive what this half sends.
    Undelivered,
}

impl CloseReason {
    /// The QUIC error code.
    pub(crate) const fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    const fn text(self) -> &'static str {
        match self {
            CloseReason::Done => "done",
            CloseReason::Replaced => "replaced",
            CloseReason::Protocol => "protocol error",
            CloseReason::ShuttingDown => "shutting down",
            CloseReason::Refused => "refused",
            CloseReason::Busy => "too many connections, try again later",
            CloseReason::Undelivered => "what is sent does not arrive",
        }
    }

    /// Closes a QUIC connection for this reason.
    pub(crate) fn close(self, connection: &quinn::Connection) {
        connection.close(self.code(), self.text().as_bytes());
    }
}

/// What both ends of a connection have proved.
pub(crate) trait Authenticated {
    /// The peer's TLS key, SPKI DER.
    ///
    /// # Errors
    /// The peer proved none.
    fn peer_key(&self) -> Result<Bytes, NoPeerKey>;

    /// TLS exporter value (RFC 8446 section 7.5): equal at both ends, and unique to this connection.
    ///
    /// # Errors
    /// The handshake is not complete.
    fn exporter(&self, label: &[u8]) -> io::Result<[u8; 32]>;
}

impl Authenticated for quinn::Connection {
    fn peer_key(&self) -> Result<Bytes, NoPeerKey> {
        let shown = self
            .peer_identity()
            .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        first_key(shown.as_deref().map(Vec::as_slice))
    }

    fn exporter(&self, label: &[u8]) -> io::Result<[u8; 32]> {
        let mut exporter = [0; 32];
        self.export_keying_material(&mut exporter, label, b"")
            .map_err(|_| io::Error::other("the TLS exporter failed"))?;
        Ok(exporter)
    }
}

impl Authenticated for TlsStream<Box<dyn Duplex>> {
    fn peer_key(&self) -> Result<Bytes, NoPeerKey> {
        first_key(self.get_ref().1.peer_certificates())
    }

    fn exporter(&self, label: &[u8]) -> io::Result<[u8; 32]> {
        let exporter = match self {
            TlsStream::Client(client) => client.get_ref().1.export_keying_material([0; 32], label, Some(b"")),
            TlsStream::Server(server) => server.get_ref().1.export_keying_material([0; 32], label, Some(b"")),
        };
        exporter.map_err(io::Error::other)
    }
}

fn first_key(shown: Option<&[CertificateDer<'_>]>) -> Result<Bytes, NoPeerKey> {
    let key = shown.and_then(<[_]>::first).ok_or(NoPeerKey)?;
    Ok(Bytes::copy_from_slice(key))
}

/// Converts an IPv4-mapped address back to IPv4. A link-local address keeps its zone.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        IpAddr::V6(_) => address,
    }
}
