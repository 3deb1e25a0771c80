//! Dials: the result is a carrier on which both TLS keys are proved, and the server half's host
//! message.

use super::link::{Link, QuicLink, StreamLink};
use super::stream::{CommandError, ProxyError};
use super::via::RelayConnectError;
use super::{Carrier, CarrierError, CarrierInfo, Kind, Rank};
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::transport::quic::{QuicDialer, SESSION_WINDOW};
use crate::transport::{ConnectError, Duplex, Protocol, tls};
use crate::wire::{ALPN, Answer, Hello, Host, MAX_HELLO, next_message};
use bytes::BytesMut;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Carriers at the client half. The server half opens one stream, for its host message.
const CLIENT: Protocol = Protocol {
    alpn: ALPN,
    uni_streams: 1,
    bidi_streams: 0,
    stream_window: SESSION_WINDOW,
    receive_window: SESSION_WINDOW,
    send_window: SESSION_WINDOW.into_inner(),
    datagrams: true,
    keep_alive: None,
};

/// Dials `remote` over QUIC and authenticates with `key`. Dropping the future cancels the attempt.
///
/// # Errors
/// [`DialError`]: no answer, a server key that is not accepted, or not a bowline server.
pub async fn dial_quic(
    dialer: &QuicDialer,
    remote: SocketAddr,
    key: &TlsKey,
    accept: ServerKey,
) -> Result<Dialed, DialError> {
    let connection = dialer.dial(remote, key, accept, &CLIENT).await?;
    let streams = connection.open_bi().await.map_err(ConnectError::from)?;
    let info = CarrierInfo::of(&connection, Kind::Quic, Some(connection.remote_address()))?;
    let link = QuicLink::new(connection.clone(), streams, SESSION_WINDOW);
    Ok(Dialed {
        carrier: Carrier::new(info, Link::Quic(link)),
        host_message: HostMessage::Stream(connection),
    })
}

/// Completes a TLS handshake over `stream` as the client half, and authenticates with `key`.
///
/// # Errors
/// [`DialError`]: the stream failed, the server key is not accepted, or the peer is not bowline.
pub async fn dial_tls(
    stream: Box<dyn Duplex>,
    remote: Option<SocketAddr>,
    key: &TlsKey,
    accept: ServerKey,
) -> Result<Dialed, DialError> {
    let stream = tls::dial(stream, key, accept, ALPN).await?;
    let info = CarrierInfo::of(&stream, Kind::Tls, remote)?;
    Ok(Dialed {
        carrier: Carrier::new(info, Link::Stream(StreamLink::tls(stream))),
        host_message: HostMessage::FirstMessage,
    })
}

/// A connection on which both TLS keys are proved.
pub struct Dialed {
    carrier: Carrier,
    host_message: HostMessage,
}

/// Where the host message arrives.
enum HostMessage {
    /// On a stream of its own, in the server half's first flight.
    Stream(quinn::Connection),
    /// As the first message on the carrier.
    FirstMessage,
}

impl Dialed {
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
    /// The address could not be connected to, or the handshake failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
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
    /// The carrier was lost right after the handshake.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
}

impl DialError {
    /// Whether the server answers, but accepts no more connections for now.
    pub fn is_busy(&self) -> bool {
        matches!(self, DialError::Connect(ConnectError::Busy))
    }

    /// Whether the network or the peer reported the failure, so that it will not work the next time
    /// either.
    pub fn is_definite(&self) -> bool {
        match self {
            DialError::Connect(error) => error.is_definite(),
            DialError::NoHostKey => true,
            // The server half may register, or have free capacity, by the next time.
            DialError::Carrier(_) | DialError::Relay(_) | DialError::Proxy(_) | DialError::Command(_) => false,
        }
    }

    /// Whether a QUIC server answered that does not support this version of the protocol.
    pub fn is_other_protocol(&self) -> bool {
        matches!(self, DialError::Connect(error) if error.is_other_protocol())
    }
}
