//! Byte streams between the halves by way of a relay, which sees only what is sealed inside of them.
//!
//! A client half [`reach`]es a server half through a relay; a server half keeps itself listed there
//! ([`Registration`]) and is handed the streams of clients. Both ends then run the same TLS inside as on every other
//! path: nothing here proves who the other half is, and a relay is trusted with nothing but its being there.

mod backoff;
mod config;
mod dial;
mod door;
mod listing;
mod pulse;
mod reach;
mod registrar;
mod registration;
mod stream;
mod talk;
mod way;

pub use backoff::Backoff;
pub use config::{RelayWindow, ViaConfigError};
pub use dial::DialRelayError;
pub use door::OpenDoorError;
pub(crate) use door::{Guest, QuicDoor, TlsDoor};
pub use pulse::{Beat, Pulse};
pub use reach::{ReachError, Reaching, reach};
pub use registrar::{RegisterError, RegistrationSettings};
pub use registration::{Registration, RegistrationState};
pub use stream::ViaStream;
pub use talk::TalkError;
pub(crate) use talk::{read_word, send_word};
pub use way::{Resolved, Way};

use crate::wire::KeyDigest;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// One address of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    /// What people know it by: `r1.example.org:443`.
    pub name: Arc<str>,
    /// Where to dial, by UDP or TCP.
    pub address: SocketAddr,
    /// SHA-256 over the SPKI of its TLS key, where that is pinned; `None` takes any.
    pub key: Option<KeyDigest>,
}

/// How one end talks to a relay. The other end may do it otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelayTransport {
    /// QUIC over UDP.
    Quic,
    /// TLS 1.3 over TCP, where UDP is blocked.
    Tls,
}

impl fmt::Display for RelayTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RelayTransport::Quic => "quic",
            RelayTransport::Tls => "tls",
        })
    }
}

/// The stream of a client, at a server half. Nothing is proved yet of who it is.
pub struct IncomingStream {
    /// To the client, by way of the relay.
    pub stream: ViaStream,
    /// Which relay.
    pub relay: Arc<str>,
    /// Where the client is, as the relay says: good for logs and limits, not for trust.
    pub source: SocketAddr,
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingStream")
            .field("relay", &self.relay)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}
