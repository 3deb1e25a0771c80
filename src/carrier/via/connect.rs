//! The client half's side: asks a relay for a stream to a registered server half.

use bytes::BytesMut;

use super::codec::{RelayStreamError, read_message, send_message};
use super::dial::DialSettings;
use super::dial::{RelayWindow, accepted_key};
use super::stream::ViaStream;
use super::{RelayAddress, RelayTransport};
use crate::identity::raw_key::TlsKey;
use crate::transport::ConnectError;
use crate::transport::quic::MtuCap;
use crate::wire::{KeyDigest, MAX_FINGERPRINTS, Refusal, RelayMessage, RelayRefusalCode};

/// What to ask a relay for.
#[derive(Clone, Debug)]
pub struct RelayConnectRequest<'a> {
    /// Acceptable host keys, from known_hosts or pinned. The relay is asked for the first
    /// [`MAX_FINGERPRINTS`].
    pub fingerprints: &'a [KeyDigest],
    /// The TLS key to authenticate with. Any key will do. With the session's own key, relays could
    /// tell which carriers belong to the same session.
    pub key: &'a TlsKey,
    /// Most UDP payload.
    pub mtu_cap: MtuCap,
    /// Window of the stream.
    pub window: RelayWindow,
}

/// A server half cannot be reached through a relay.
#[derive(Debug, thiserror::Error)]
pub enum RelayConnectError {
    /// The relay cannot be dialled.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection to the relay failed, or the relay violated the protocol.
    #[error(transparent)]
    Stream(#[from] RelayStreamError),
    /// The relay refused the request.
    #[error("the relay refuses: {0}")]
    Refused(Refusal<RelayRefusalCode>),
    /// The relay sent a message that does not answer the request.
    #[error("the relay answered with an unexpected message")]
    UnexpectedMessage,
}

/// Dials `relay` and asks for a stream to a server half that has proved one of the host keys to the
/// relay. The caller must still authenticate the server half over that stream. Dropping the future
/// cancels the attempt.
///
/// # Errors
/// See [`RelayConnectError`].
pub async fn connect(
    relay: &RelayAddress,
    transport: RelayTransport,
    request: &RelayConnectRequest<'_>,
) -> Result<ViaStream, RelayConnectError> {
    let settings = DialSettings {
        key: request.key,
        accept: &accepted_key(relay.key),
        mtu_cap: request.mtu_cap,
        window: request.window,
        // This end opens the stream.
        streams: 0,
    };
    let stream = settings.dial(relay.address, transport).await?;
    ask(stream, request.fingerprints).await
}

async fn ask(mut stream: ViaStream, fingerprints: &[KeyDigest]) -> Result<ViaStream, RelayConnectError> {
    let asked = &fingerprints[..fingerprints.len().min(MAX_FINGERPRINTS)];
    let message = RelayMessage::Reach {
        fingerprints: asked.to_vec(),
    };
    send_message(&mut stream, &message)
        .await
        .map_err(RelayStreamError::from)?;
    match read_message(&mut stream, &mut BytesMut::new()).await? {
        RelayMessage::Reached => Ok(stream),
        RelayMessage::Refused(refusal) => Err(RelayConnectError::Refused(refusal)),
        _ => Err(RelayConnectError::UnexpectedMessage),
    }
}
