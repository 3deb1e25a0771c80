//! Dialling a relay: a connection with both TLS keys proved, and a stream on it for the first word.

use std::io;
use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::config::{self, RelayWindow, ViaConfigError};
use super::stream::ViaStream;
use crate::carrier::Duplex;
use crate::carrier::dialed::{is_busy, is_busy_tls};
use crate::carrier::quic::config::client_endpoint;
use crate::carrier::quic::socket::{any_local, endpoint};
use crate::carrier::quic::{NO_NAME, QuicLimits, bind};
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::wire::Quoting;

/// A relay cannot be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialRelayError {
    /// The system has no socket, or TCP no answer.
    #[error("cannot connect: {0}")]
    Socket(#[source] io::Error),
    /// The address cannot be dialled at all.
    #[error("cannot connect: {0}")]
    Connect(#[from] quinn::ConnectError),
    /// No answer over QUIC, a refusal, or another key than the pinned one.
    #[error("{0}")]
    Quic(Quoting<quinn::ConnectionError>),
    /// The same over TLS.
    #[error("TLS failed: {0}")]
    Tls(Quoting<io::Error>),
    /// It answers, and takes no connection from here for now.
    #[error("it takes no more connections for now")]
    Busy,
    /// TLS could not be set up.
    #[error(transparent)]
    Config(#[from] ViaConfigError),
}

impl From<quinn::ConnectionError> for DialRelayError {
    fn from(error: quinn::ConnectionError) -> DialRelayError {
        if is_busy(&error) {
            DialRelayError::Busy
        } else {
            DialRelayError::Quic(Quoting(error))
        }
    }
}

/// What a half dials with.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    /// Proved to the relay.
    pub(super) key: &'a TlsKey,
    /// Which relay is taken.
    pub(super) accept: &'a ServerKey,
    pub(super) quic: QuicLimits,
    pub(super) window: RelayWindow,
    /// Streams that the relay may open.
    pub(super) streams: u32,
}

pub(super) async fn dial_quic(caller: Caller<'_>, address: SocketAddr) -> Result<ViaStream, DialRelayError> {
    let config = config::quic_client(
        caller.key,
        caller.accept.clone(),
        &caller.quic,
        caller.window,
        caller.streams,
    )?;
    let socket = bind(any_local(address)).map_err(DialRelayError::Socket)?;
    let endpoint = endpoint(socket, client_endpoint(), None).map_err(DialRelayError::Socket)?;
    let connection = endpoint.connect_with(config, address, NO_NAME)?.await?;
    let streams = connection.open_bi().await?;
    Ok(ViaStream::of_quic(connection, streams))
}

/// Over a `stream` that leads to the relay's TLS port.
pub(super) async fn dial_tls(
    caller: Caller<'_>,
    stream: Box<dyn Duplex>,
    address: SocketAddr,
) -> Result<ViaStream, DialRelayError> {
    let config = config::tls_client(caller.key, caller.accept.clone())?;
    let name = ServerName::try_from(NO_NAME).expect("a plain word is a name");
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|error| {
        if is_busy_tls(&error) {
            DialRelayError::Busy
        } else {
            DialRelayError::Tls(Quoting(error))
        }
    })?;
    Ok(ViaStream::of_tls(stream.into(), address))
}
