//! What comes of dialing: a carrier on which both TLS keys are proved, and the server half's first words.

use super::quic::QuicConfigError;
use super::stream::{CommandError, ProxyError};
use super::via::ReachError;
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
    introduction: Introduction,
}

/// Where the server half's host message is.
pub(super) enum Introduction {
    /// On a stream of its own, which came with the first flight.
    Stream(quinn::Connection),
    /// In front of everything else on the carrier.
    FirstMessage,
}

impl Dialed {
    pub(super) fn new(carrier: Carrier, introduction: Introduction) -> Dialed {
        Dialed { carrier, introduction }
    }

    /// The server half's host message, and the carrier, ready for a hello.
    ///
    /// # Errors
    /// The connection is lost, or what came is no host message.
    pub async fn host(mut self) -> Result<(Carrier, Host), CarrierError> {
        let message = match self.introduction {
            Introduction::FirstMessage => Some(self.carrier.read_message().await?),
            Introduction::Stream(connection) => {
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

    /// Says `hello` to a server half whose key is known already, without waiting for its host message.
    ///
    /// # Errors
    /// The connection is lost, or what came is no answer.
    pub async fn ask(mut self, hello: &Hello) -> Result<(Carrier, Answer), CarrierError> {
        self.carrier.send_message(hello.encode()).await?;
        if let Introduction::FirstMessage = self.introduction {
            Host::decode(self.carrier.read_message().await?)?;
        }
        let answer = Answer::decode(self.carrier.read_message().await?)?;
        Ok((self.carrier, answer))
    }

    /// The same, where something joins the halves.
    pub(crate) fn via(self, what: Arc<str>, rank: Rank) -> Dialed {
        Dialed {
            carrier: self.carrier.via(what, rank),
            ..self
        }
    }

    /// What is dialed.
    pub fn carrier(&self) -> &Carrier {
        &self.carrier
    }
}

/// A dial attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no socket to dial from, or none that may.
    #[error("cannot make a socket: {0}")]
    Socket(#[source] io::Error),
    /// The address cannot be dialed at all.
    #[error("cannot connect")]
    Connect(#[from] quinn::ConnectError),
    /// The network says that nothing is there.
    #[error("{0}")]
    Unreachable(#[source] io::Error),
    /// No answer, or a refusal in the handshake of QUIC.
    #[error("{0}")]
    Quic(Quoting<quinn::ConnectionError>),
    /// The handshake of TLS failed.
    #[error("{0}")]
    Tls(Quoting<io::Error>),
    /// What answers speaks TLS, and nothing that a server half would say.
    #[error(
        "what answers speaks TLS and is no bowline: another server listens there, or something on the way intercepts TLS ({0})"
    )]
    OtherTls(Quoting<io::Error>),
    /// Something answers there, and takes no connection for now.
    #[error("it takes no more connections for now")]
    Busy,
    /// The relay cannot be reached, or does not reach the server half.
    #[error(transparent)]
    Relay(#[from] ReachError),
    /// The proxy gave no connection.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The program did not start, or what it gave was no server half.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A relay finds a server half by its host keys, and none is known.
    #[error("no key of this host is known, and a relay finds a host by its key")]
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

/// Whether a peer ended the handshake because it has too many connections, or gave this one up for another: in the first
/// packets QUIC has no code of the application's own (RFC 9000 section 10.2.3).
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

/// The same for TLS: its alert for what is nobody's fault (RFC 8446 section 6.2).
pub(in crate::carrier) fn is_busy_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(
        inner,
        Some(rustls::Error::AlertReceived(AlertDescription::InternalError))
    )
}

/// Whether an ordinary TLS server answered: it sends a certificate where a server half sends a raw key, or knows nothing of
/// our protocol or of TLS 1.3.
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
    /// A handshake of TLS that failed.
    pub(super) fn tls(error: io::Error) -> DialError {
        if is_busy_tls(&error) {
            DialError::Busy
        } else if is_other_tls(&error) {
            DialError::OtherTls(Quoting(error))
        } else {
            DialError::Tls(Quoting(error))
        }
    }

    /// Whether the network or the peer said that this will not work, rather than nothing.
    pub fn is_definite(&self) -> bool {
        match self {
            DialError::Quic(error) => !matches!(
                **error,
                quinn::ConnectionError::TimedOut
                    | quinn::ConnectionError::Reset
                    | quinn::ConnectionError::LocallyClosed
            ),
            DialError::Unreachable(error) => error.kind() != io::ErrorKind::TimedOut,
            // rustls' own errors; what merely broke may not break the next time.
            DialError::Tls(error) => error.kind() == io::ErrorKind::InvalidData,
            DialError::Socket(_) | DialError::Connect(_) | DialError::NoHostKey | DialError::OtherTls(_) => true,
            DialError::Config(_) | DialError::QuicConfig(_) => true,
            // A server half may be about to be listed, or to have room.
            DialError::Busy
            | DialError::Carrier(_)
            | DialError::Relay(_)
            | DialError::Proxy(_)
            | DialError::Command(_) => false,
        }
    }

    /// Whether something answers there that speaks QUIC, but not this version of the protocol.
    pub fn is_other_protocol(&self) -> bool {
        // TLS alert no_application_protocol (RFC 7301 section 3.2) as a QUIC error (RFC 9001 section 4.8).
        const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
        matches!(self, DialError::Quic(error)
            if matches!(&**error, quinn::ConnectionError::ConnectionClosed(close)
                if u64::from(close.error_code) == NO_APPLICATION_PROTOCOL))
    }
}
