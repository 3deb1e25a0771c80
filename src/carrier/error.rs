//! Why a carrier was lost.

use crate::transport::{CloseReason, NoPeerKey};
use crate::wire::{DecodeError, Quoting};

/// Why a carrier was lost. The session continues on another one.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// The connection failed, or the peer closed it.
    #[error("carrier lost: {0}")]
    Lost(Quoting<quinn::ConnectionError>),
    /// The peer has too many carriers without a session; it may accept this one later.
    #[error("the server half has too many connections without a session for now")]
    Busy,
    /// The byte stream failed.
    #[error("carrier broke: {0}")]
    Stream(Quoting<std::io::Error>),
    /// The peer closed the byte stream cleanly.
    #[error("peer closed the carrier")]
    Closed,
    /// The TLS handshake succeeded without a key of the peer.
    #[error(transparent)]
    NoPeerKey(#[from] NoPeerKey),
    /// The peer violated the protocol.
    #[error("peer broke the protocol")]
    Protocol(#[from] DecodeError),
}

impl From<quinn::ConnectionError> for CarrierError {
    fn from(error: quinn::ConnectionError) -> CarrierError {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) if close.error_code == CloseReason::Busy.code() => {
                CarrierError::Busy
            }
            error => CarrierError::Lost(Quoting(error)),
        }
    }
}

impl From<std::io::Error> for CarrierError {
    fn from(error: std::io::Error) -> CarrierError {
        CarrierError::Stream(Quoting(error))
    }
}

impl CarrierError {
    /// Whether the error came from the peer's host, which is thus reachable. It need not know the
    /// carrier any more.
    pub fn is_from_peer(&self) -> bool {
        use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed, Reset};
        match self {
            CarrierError::Lost(error) => matches!(**error, Reset | ApplicationClosed(_) | ConnectionClosed(_)),
            CarrierError::Busy | CarrierError::Closed | CarrierError::NoPeerKey(_) | CarrierError::Protocol(_) => true,
            // Anything on the path may have sent a TCP reset.
            CarrierError::Stream(_) => false,
        }
    }

    /// Whether the peer closed the carrier because it was done ([`CloseReason::Done`]).
    pub fn is_peer_done(&self) -> bool {
        match self {
            CarrierError::Lost(error) => matches!(&**error,
                quinn::ConnectionError::ApplicationClosed(close) if close.error_code == CloseReason::Done.code()),
            CarrierError::Closed => true,
            CarrierError::Busy | CarrierError::Stream(_) | CarrierError::NoPeerKey(_) | CarrierError::Protocol(_) => {
                false
            }
        }
    }
}
