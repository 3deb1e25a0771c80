//! Byte streams between the halves through a relay, which sees only ciphertext.
//!
//! A client half [`connect`]s to a server half through a relay. A server half keeps itself
//! registered at the relay ([`Registration`]) and receives the streams of clients. Over the stream
//! both ends use the same TLS as on every other path: nothing here authenticates the other half,
//! and a relay is trusted only to be available.

mod codec;
mod connect;
mod control;
mod dial;
mod keepalive;
mod register;
mod registration;
mod stream;

pub use codec::RelayStreamError;
pub(crate) use codec::{read_message, send_message};
pub use connect::{RelayConnectError, RelayConnectRequest, connect};
pub use dial::RelayWindow;
pub use keepalive::{Keepalive, KeepaliveAction};
pub use register::{AddressSource, ResolveFuture};
pub use register::{RegisterError, RegistrationSettings};
pub use registration::Backoff;
pub use registration::{Registration, RegistrationState};
pub use stream::ViaStream;

use crate::wire::KeyDigest;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// One address of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayAddress {
    /// Its name, as users know it: `r1.example.org:443`.
    pub name: Arc<str>,
    /// The UDP and TCP address to dial.
    pub address: SocketAddr,
    /// The pinned TLS key: SHA-256 of its SPKI. `None` accepts any key.
    pub key: Option<KeyDigest>,
}

/// The transport between one half and a relay. The other half may use another one.
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

/// The stream of a client that is not authenticated yet, at a server half.
pub struct IncomingStream {
    /// The stream, through the relay.
    pub stream: ViaStream,
    /// The relay's name.
    pub relay: Arc<str>,
    /// The client's address according to the relay: for logs and limits only, not to be trusted.
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
