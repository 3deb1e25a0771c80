//! Why a carrier is of no use any more.

use super::link;
use crate::wire::{DecodeError, Quoting};

/// Why a carrier is of no use any more. Never the end of a session.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// The path or the peer is gone, or the peer closed the carrier.
    #[error("carrier lost: {0}")]
    Lost(Quoting<quinn::ConnectionError>),
    /// The peer has too many carriers that are not a session's yet, and takes this one later.
    #[error("the server half has too many connections without a session for now")]
    Busy,
    /// The byte stream broke.
    #[error("carrier broke: {0}")]
    Stream(Quoting<std::io::Error>),
    /// The peer closed the byte stream in good order.
    #[error("peer closed the carrier")]
    Closed,
    /// The peer sent what the protocol does not allow.
    #[error("peer broke the protocol")]
    Protocol(#[from] DecodeError),
}

impl From<quinn::ConnectionError> for CarrierError {
    fn from(error: quinn::ConnectionError) -> CarrierError {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) if u64::from(close.error_code) == link::BUSY => {
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
    /// Whether the peer's host itself said so, and can thus be reached: also when it knows the carrier no more.
    pub fn is_word_of_peer(&self) -> bool {
        use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed, Reset};
        match self {
            CarrierError::Lost(error) => matches!(**error, Reset | ApplicationClosed(_) | ConnectionClosed(_)),
            CarrierError::Busy | CarrierError::Closed | CarrierError::Protocol(_) => true,
            // A reset of TCP may come from anything between the ends.
            CarrierError::Stream(_) => false,
        }
    }

    /// Whether the peer closed it because it was done ([`CloseReason::Done`]), with all that it was for.
    pub fn is_peer_done(&self) -> bool {
        match self {
            CarrierError::Lost(error) => matches!(&**error,
                quinn::ConnectionError::ApplicationClosed(close) if u64::from(close.error_code) == link::DONE),
            CarrierError::Closed => true,
            CarrierError::Busy | CarrierError::Stream(_) | CarrierError::Protocol(_) => false,
        }
    }
}
