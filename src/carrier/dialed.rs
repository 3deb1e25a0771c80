//! The result of dialling: a carrier on which both TLS keys are proved, and the server half's host
//! message.

use super::quic::QuicConfigError;
use super::stream::{CommandError, ProxyError};
use super::via::RelayConnectError;
use super::{Carrier, CarrierError, Rank};
use crate::identity::raw_key::TlsConfigError;
use crate::wire::{Answer, Hello, Host, MAX_HELLO, Quoting, next_message};
use bytes::BytesMut;
use quinn_proto::TransportErrorCode;
use rustls::AlertDescription;
use std::io;
use std::sync::Arc;

/// A connection on which both TLS keys are proved.
pub struct Dialed {
    carrier: Carrier,
    host_message: HostMessage,
}

/// Where the host message arrives.
pub(super) enum HostMessage {
    /// On a stream of its own, in the server half's first flight.
    Stream(quinn::Connection),
    /// As the first message on the carrier.
    FirstMessage,
}

impl Dialed {
    pub(super) fn new(carrier: Carrier, host_message: HostMessage) -> Dialed {
        Dialed { carrier, host_message }
    }

    /// Waits for the host message. Returns it with the carrier, which is then ready for a hello.
    ///
    /// # Errors
    /// The connection is lost, or the message is not a host message.
    pub async fn host(mut self) -> Result<(Carrier, Host), CarrierError> {
        let message = match self.host_message {
            HostMessage::FirstMessage => Some(self.carrier.read_message().await?),
            HostMessage::Stream(connection) => {
                let mut stream = connection.accept_uni().await?;
                let bytes = stream.read_to_end(MAX_HELLO + 8).await.map_err(io::Error::other)?;
                next_message(&mut BytesMut::from(&bytes[..]))?
            }
        };
        match message {
            Some(message) => Ok((self.carrier, Host::decode(message)?)),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Sends `hello` to a server half whose key is known already, without waiting for its host
    /// message, and returns the answer.
    ///
    /// # Errors
    /// The connection is lost, or the message is not an answer.
    pub async fn ask(mut self, hello: &Hello) -> Result<(Carrier, Answer), CarrierError> {
        self.carrier.send_message(hello.encode()).await?;
        if let HostMessage::FirstMessage = self.host_message {
            Host::decode(self.carrier.read_message().await?)?;
        }
        let answer = Answer::decode(self.carrier.read_message().await?)?;
        Ok((self.carrier, answer))
    }

    /// Records that the carrier goes through a relay, a proxy or a program.
    pub(crate) fn via(self, what: Arc<str>, rank: Rank) -> Dialed {
        Dialed {
            carrier: self.carrier.via(what, rank),
            ..self
        }
    }

    /// The carrier.
    pub fn carrier(&self) -> &Carrier {
        &self.carrier
    }
}

/// A dial attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The socket could not be created, or the system forbids its use.
    #[error("cannot create a socket: {0}")]
    Socket(#[source] io::Error),
    /// The address cannot be dialled.
    #[error("cannot connect")]
    Connect(#[from] quinn::ConnectError),
    /// The network reported that the address cannot be reached.
    #[error("{0}")]
    Unreachable(#[source] io::Error),
    /// The QUIC handshake failed: no answer, or a refusal.
    #[error("{0}")]
    Quic(Quoting<quinn::ConnectionError>),
    /// The TLS handshake failed.
    #[error("{0}")]
    Tls(Quoting<io::Error>),
    /// A TLS server answered that is not bowline.
    #[error(
        "a TLS server answered that is not bowline: another server listens there, or something on the way intercepts TLS ({0})"
    )]
    OtherTls(Quoting<io::Error>),
    /// The server answers, but accepts no more connections for now.
    #[error("it accepts no more connections for now")]
    Busy,
    /// The relay failed, or could not reach the server half.
    #[error(transparent)]
    Relay(#[from] RelayConnectError),
    /// The proxy failed.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The program did not start, or did not lead to a server half.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// No host key is known, but a relay needs one to find the server half.
    #[error("no key of this host is known, but a relay finds hosts by their keys")]
    NoHostKey,
    /// TLS could not be set up.
    #[error(transparent)]
    Config(#[from] TlsConfigError),
    /// QUIC could not be set up.
    #[error(transparent)]
    QuicConfig(#[from] QuicConfigError),
    /// The carrier was lost right after the handshake.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
}

impl From<quinn::ConnectionError> for DialError {
    fn from(error: quinn::ConnectionError) -> DialError {
        if is_busy(&error) {
            DialError::Busy
        } else {
            DialError::Quic(Quoting(error))
        }
    }
}

/// Whether the peer closed the connection during the handshake because it has too many connections,
/// or preferred another one. Initial and Handshake packets cannot carry an application error code
/// (RFC 9000 section 10.2.3).
pub(in crate::carrier) fn is_busy(error: &quinn::ConnectionError) -> bool {
    match error {
        quinn::ConnectionError::ConnectionClosed(close) => [
            TransportErrorCode::CONNECTION_REFUSED,
            TransportErrorCode::APPLICATION_ERROR,
        ]
        .contains(&close.error_code),
        quinn::ConnectionError::ApplicationClosed(_) => true,
        _ => false,
    }
}

/// The same for TLS: the alert internal_error (RFC 8446 section 6.2).
pub(in crate::carrier) fn is_busy_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(
        inner,
        Some(rustls::Error::AlertReceived(AlertDescription::InternalError))
    )
}

/// Whether an ordinary TLS server answered: one that sends a certificate instead of a raw public
/// key, or that does not support our ALPN protocol or TLS 1.3.
fn is_other_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(
        inner,
        Some(
            rustls::Error::PeerIncompatible(_)
                | rustls::Error::AlertReceived(
                    AlertDescription::NoApplicationProtocol
                        | AlertDescription::ProtocolVersion
                        | AlertDescription::HandshakeFailure
                        | AlertDescription::UnsupportedExtension
                        | AlertDescription::UnrecognisedName
                )
        )
    )
}

impl DialError {
    /// Classifies a failed TLS handshake.
    pub(super) fn tls(error: io::Error) -> DialError {
        if is_busy_tls(&error) {
            DialError::Busy
        } else if is_other_tls(&error) {
            DialError::OtherTls(Quoting(error))
        } else {
            DialError::Tls(Quoting(error))
        }
    }

    /// Whether the network or the peer reported the failure, so that it will not work the next time
    /// either.
    pub fn is_definite(&self) -> bool {
        match self {
            DialError::Quic(error) => match &**error {
                quinn::ConnectionError::TimedOut
                | quinn::ConnectionError::Reset
                | quinn::ConnectionError::LocallyClosed => false,
                // Its proof of address has expired on the way; the next one may not.
                quinn::ConnectionError::ConnectionClosed(close) => {
                    close.error_code != quinn::TransportErrorCode::INVALID_TOKEN
                }
                _ => true,
            },
            DialError::Unreachable(error) => error.kind() != io::ErrorKind::TimedOut,
            // These are rustls' own errors. A connection that merely failed may succeed the next
            // time.
            DialError::Tls(error) => error.kind() == io::ErrorKind::InvalidData,
            DialError::Socket(_) | DialError::Connect(_) | DialError::NoHostKey | DialError::OtherTls(_) => true,
            DialError::Config(_) | DialError::QuicConfig(_) => true,
            // The server half may register, or have free capacity, by the next time.
            DialError::Busy
            | DialError::Carrier(_)
            | DialError::Relay(_)
            | DialError::Proxy(_)
            | DialError::Command(_) => false,
        }
    }

    /// Whether a QUIC server answered that does not support this version of the protocol.
    pub fn is_other_protocol(&self) -> bool {
        // The TLS alert no_application_protocol (RFC 7301 section 3.2) as a QUIC error code (RFC
        // 9001 section 4.8).
        const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
        matches!(self, DialError::Quic(error)
            if matches!(&**error, quinn::ConnectionError::ConnectionClosed(close)
                if u64::from(close.error_code) == NO_APPLICATION_PROTOCOL))
    }
}
