//! Why a connection cannot be made.

use crate::identity::raw_key::TlsConfigError;
use crate::wire::Quoting;
use quinn::crypto::rustls::NoInitialCipherSuite;
use quinn_proto::TransportErrorCode;
use rustls::AlertDescription;
use std::io;

/// TLS, QUIC or a socket could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// rustls rejected the settings.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// The TLS provider lacks the cipher of QUIC's Initial packets.
    #[error("TLS lacks the cipher that QUIC requires")]
    Cipher(#[from] NoInitialCipherSuite),
    /// The socket cannot be used.
    #[error("cannot use the socket")]
    Socket(#[from] io::Error),
}

/// The handshake succeeded without a key of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer proved no TLS key")]
pub struct NoPeerKey;

/// An address could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The socket could not be created, or the system forbids its use.
    #[error("cannot create a socket: {0}")]
    Socket(#[source] io::Error),
    /// The address cannot be dialled.
    #[error("cannot connect")]
    Address(#[from] quinn::ConnectError),
    /// The network reported that the address cannot be reached.
    #[error("{0}")]
    Unreachable(#[source] io::Error),
    /// The QUIC handshake failed: no answer, a refusal, or a key that is not accepted.
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
    /// The peer answers, but accepts no more connections for now.
    #[error("it accepts no more connections for now")]
    Busy,
    /// TLS or QUIC could not be set up.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl From<quinn::ConnectionError> for ConnectError {
    fn from(error: quinn::ConnectionError) -> ConnectError {
        if is_busy(&error) {
            ConnectError::Busy
        } else {
            ConnectError::Quic(Quoting(error))
        }
    }
}

/// Whether the peer closed the connection during the handshake because it has too many connections,
/// or preferred another one. Initial and Handshake packets cannot carry an application error code
/// (RFC 9000 section 10.2.3).
fn is_busy(error: &quinn::ConnectionError) -> bool {
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

impl ConnectError {
    /// Classifies a failed TLS handshake.
    pub(super) fn tls(error: io::Error) -> ConnectError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            // The same as `is_busy` for QUIC (RFC 8446 section 6.2).
            Some(rustls::Error::AlertReceived(AlertDescription::InternalError)) => ConnectError::Busy,
            // An ordinary TLS server: it sends a certificate instead of a raw public key, or does
            // not support our ALPN protocol or TLS 1.3.
            Some(
                rustls::Error::PeerIncompatible(_)
                | rustls::Error::AlertReceived(
                    AlertDescription::NoApplicationProtocol
                    | AlertDescription::ProtocolVersion
                    | AlertDescription::HandshakeFailure
                    | AlertDescription::UnsupportedExtension
                    | AlertDescription::UnrecognisedName,
                ),
            ) => ConnectError::OtherTls(Quoting(error)),
            _ => ConnectError::Tls(Quoting(error)),
        }
    }

    /// Whether the network or the peer reported the failure, so that it will not work the next time
    /// either.
    pub fn is_definite(&self) -> bool {
        match self {
            ConnectError::Quic(error) => match &**error {
                quinn::ConnectionError::TimedOut
                | quinn::ConnectionError::Reset
                | quinn::ConnectionError::LocallyClosed => false,
                // Its proof of address has expired on the way; the next one may not.
                quinn::ConnectionError::ConnectionClosed(close) => {
                    close.error_code != TransportErrorCode::INVALID_TOKEN
                }
                _ => true,
            },
            ConnectError::Unreachable(error) => error.kind() != io::ErrorKind::TimedOut,
            // These are rustls' own errors. A connection that merely failed may succeed the next
            // time.
            ConnectError::Tls(error) => error.kind() == io::ErrorKind::InvalidData,
            ConnectError::Socket(_)
            | ConnectError::Address(_)
            | ConnectError::OtherTls(_)
            | ConnectError::Config(_) => true,
            // It may have free capacity by the next time.
            ConnectError::Busy => false,
        }
    }

    /// Whether a QUIC server answered that does not support this version of the protocol.
    pub fn is_other_protocol(&self) -> bool {
        // The TLS alert no_application_protocol (RFC 7301 section 3.2) as a QUIC error code (RFC
        // 9001 section 4.8).
        const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
        matches!(self, ConnectError::Quic(error)
            if matches!(&**error, quinn::ConnectionError::ConnectionClosed(close)
                if u64::from(close.error_code) == NO_APPLICATION_PROTOCOL))
    }

    /// Whether nothing answered the QUIC handshake.
    pub fn is_quic_timeout(&self) -> bool {
        matches!(self, ConnectError::Quic(error) if matches!(**error, quinn::ConnectionError::TimedOut))
    }
}
