//! Dials a relay: a connection on which both TLS keys are proved, and a stream for the first
//! message.

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
    /// The socket could not be created, or the TCP connection failed.
    #[error("cannot connect: {0}")]
    Socket(#[source] io::Error),
    /// The address cannot be dialled.
    #[error("cannot connect: {0}")]
    Connect(#[from] quinn::ConnectError),
    /// The QUIC connection failed: no answer, a refusal, or a key other than the pinned one.
    #[error("{0}")]
    Quic(Quoting<quinn::ConnectionError>),
    /// The TLS handshake failed, for the same reasons.
    #[error("TLS failed: {0}")]
    Tls(Quoting<io::Error>),
    /// The relay answers, but accepts no more connections from here for now.
    #[error("it accepts no more connections for now")]
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

/// Settings to dial with.
#[derive(Clone, Copy)]
pub(super) struct DialSettings<'a> {
    /// The TLS key to authenticate with.
    pub(super) key: &'a TlsKey,
    /// The accepted keys of the relay.
    pub(super) accept: &'a ServerKey,
    pub(super) quic: QuicLimits,
    pub(super) window: RelayWindow,
    /// Most streams that the relay may open.
    pub(super) streams: u32,
}

pub(super) async fn dial_quic(settings: DialSettings<'_>, address: SocketAddr) -> Result<ViaStream, DialRelayError> {
    let config = config::quic_client(
        settings.key,
        settings.accept.clone(),
        &settings.quic,
        settings.window,
        settings.streams,
    )?;
    let socket = bind(any_local(address)).map_err(DialRelayError::Socket)?;
    let endpoint = endpoint(socket, client_endpoint(), None).map_err(DialRelayError::Socket)?;
    let connection = endpoint.connect_with(config, address, NO_NAME)?.await?;
    let streams = connection.open_bi().await?;
    Ok(ViaStream::of_quic(connection, streams))
}

/// Over a `stream` that is connected to the relay's TLS port.
pub(super) async fn dial_tls(
    settings: DialSettings<'_>,
    stream: Box<dyn Duplex>,
    address: SocketAddr,
) -> Result<ViaStream, DialRelayError> {
    let config = config::tls_client(settings.key, settings.accept.clone())?;
    let name = ServerName::try_from(NO_NAME).expect("a well-formed name");
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
