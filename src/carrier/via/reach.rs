//! The client half's side: a stream to a server half that is listed at a relay.

use bytes::BytesMut;

use super::config::{RelayWindow, accepting};
use super::dial::{self, Caller, DialRelayError};
use super::stream::ViaStream;
use super::talk::{TalkError, read_word, send_word};
use super::{RelayAddress, RelayTransport};
use crate::carrier::quic::{MtuCap, QuicLimits};
use crate::carrier::tls;
use crate::identity::raw_key::TlsKey;
use crate::wire::{KeyDigest, MAX_FINGERPRINTS, RelayRefusal, RelayWord};

/// Whom to reach, and as whom.
#[derive(Clone, Debug)]
pub struct Reaching<'a> {
    /// Host keys that would be taken, as known_hosts or a pin gives them. The first [`MAX_FINGERPRINTS`] are asked for.
    pub fingerprints: &'a [KeyDigest],
    /// Proved to the relay: any will do, and the session's own would let relays tell its carriers for one.
    pub key: &'a TlsKey,
    /// Most UDP payload.
    pub mtu_cap: MtuCap,
    /// Room for the stream.
    pub window: RelayWindow,
}

/// A server half cannot be reached through a relay.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// The relay cannot be dialled.
    #[error(transparent)]
    Dial(#[from] DialRelayError),
    /// The relay was lost, or broke the protocol.
    #[error(transparent)]
    Talk(#[from] TalkError),
    /// The relay says no.
    #[error("the relay refuses: {0}")]
    Refused(RelayRefusal),
    /// The relay said something that is no answer.
    #[error("the relay gave no answer to the question")]
    OffTopic,
}

/// Dials `relay` and has it join a stream to a server half that has proved one of the fingerprints to it. Bytes written
/// arrive there; who it is must still be proved inside. Dropping the future gives the attempt up.
///
/// # Errors
/// See [`ReachError`].
pub async fn reach(
    relay: &RelayAddress,
    transport: RelayTransport,
    reaching: &Reaching<'_>,
) -> Result<ViaStream, ReachError> {
    let accept = accepting(relay.key);
    let caller = reaching.caller(&accept);
    let stream = match transport {
        RelayTransport::Quic => dial::dial_quic(caller, relay.address).await?,
        RelayTransport::Tls => {
            let stream = tls::connect(relay.address).await.map_err(DialRelayError::Socket)?;
            dial::dial_tls(caller, Box::new(stream), relay.address).await?
        }
    };
    ask(stream, reaching.fingerprints).await
}

async fn ask(mut stream: ViaStream, fingerprints: &[KeyDigest]) -> Result<ViaStream, ReachError> {
    let asked = &fingerprints[..fingerprints.len().min(MAX_FINGERPRINTS)];
    let word = RelayWord::Reach {
        fingerprints: asked.to_vec(),
    };
    send_word(&mut stream, &word).await.map_err(TalkError::from)?;
    match read_word(&mut stream, &mut BytesMut::new()).await? {
        RelayWord::Reached => Ok(stream),
        RelayWord::Refused(refusal) => Err(ReachError::Refused(refusal)),
        _ => Err(ReachError::OffTopic),
    }
}

impl Reaching<'_> {
    fn caller<'a>(&'a self, accept: &'a crate::identity::raw_key::ServerKey) -> Caller<'a> {
        Caller {
            key: self.key,
            accept,
            quic: QuicLimits {
                mtu_cap: self.mtu_cap,
                ..QuicLimits::default()
            },
            window: self.window,
            // The stream is this end's.
            streams: 0,
        }
    }
}
