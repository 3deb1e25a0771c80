//! Dials a relay: a connection on which both TLS keys are proved, and a stream for the first
//! message.

use super::RelayTransport;
use super::stream::ViaStream;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::transport::quic::{MtuCap, QuicDialer, UNAUTHENTICATED_WINDOW};
use crate::transport::{ConnectError, Protocol, tls};
use crate::wire::{KeyDigest, RELAY_ALPN};
use quinn::VarInt;
use std::net::SocketAddr;
use std::time::Duration;

/// Settings to dial with.
#[derive(Clone, Copy)]
pub(super) struct DialSettings<'a> {
    /// The TLS key to authenticate with.
    pub(super) key: &'a TlsKey,
    /// The accepted keys of the relay.
    pub(super) accept: &'a ServerKey,
    pub(super) mtu_cap: MtuCap,
    pub(super) window: RelayWindow,
    /// Most streams that the relay may open.
    pub(super) streams: u32,
}

impl DialSettings<'_> {
    pub(super) async fn dial(self, address: SocketAddr, transport: RelayTransport) -> Result<ViaStream, ConnectError> {
        let accept = self.accept.clone();
        match transport {
            RelayTransport::Quic => {
                let protocol = self.window.of_half(self.streams);
                let dialer = QuicDialer::new(address, self.mtu_cap).map_err(ConnectError::Socket)?;
                let connection = dialer.dial(address, self.key, accept, &protocol).await?;
                let streams = connection.open_bi().await?;
                Ok(ViaStream::of_quic(connection, streams))
            }
            RelayTransport::Tls => {
                let stream = tls::connect(address).await?;
                let stream = tls::dial(Box::new(stream), self.key, accept, RELAY_ALPN).await?;
                Ok(ViaStream::of_tls(stream, address))
            }
        }
    }
}

/// Keeps NAT bindings alive (RFC 4787 requires two minutes, but some NATs keep them for 30 s only).
/// A third of the idle timeout, so that two keepalives may be lost.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Most bytes that a half has sent and the relay has not acknowledged.
const SEND_WINDOW: u64 = 16 << 20;

/// Flow-control window of one stream, per direction, between a half and a relay. Default 1 MiB.
///
/// A stream through a relay carries at most this much per round trip between relay and half: 168
/// Mbit/s at 50 ms. A server half buffers at most one window per stream; a relay starts with less
/// and grows as far as its memory allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayWindow(u32);

impl RelayWindow {
    /// A relay's windows for a connection that has not sent its first message.
    pub(crate) const INITIAL: u64 = UNAUTHENTICATED_WINDOW.into_inner();

    /// A window of `bytes`, but at least 16 KiB: one TLS record, or one hello message, must fit.
    pub fn new(bytes: u32) -> RelayWindow {
        RelayWindow(bytes.max(16 << 10))
    }

    /// The window in bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.0.into()
    }

    /// A half, for which the relay may open this many streams.
    pub(super) fn of_half(self, streams: u32) -> Protocol {
        Protocol {
            bidi_streams: streams,
            // A stream that nobody reads does not block the others.
            receive_window: VarInt::from_u32(self.0.saturating_mul(streams.saturating_add(1))),
            send_window: SEND_WINDOW,
            keep_alive: Some(KEEP_ALIVE_INTERVAL),
            ..self.of_relay()
        }
    }

    /// A relay, for a peer that has not sent its first message.
    pub(crate) fn of_relay(self) -> Protocol {
        Protocol {
            alpn: RELAY_ALPN,
            uni_streams: 0,
            bidi_streams: 1,
            stream_window: VarInt::from_u32(self.0),
            receive_window: UNAUTHENTICATED_WINDOW,
            send_window: RelayWindow::INITIAL,
            datagrams: false,
            keep_alive: None,
        }
    }
}

impl Default for RelayWindow {
    fn default() -> RelayWindow {
        RelayWindow(1 << 20)
    }
}

/// Which TLS keys of a relay are accepted.
pub(super) fn accepted_key(key: Option<KeyDigest>) -> ServerKey {
    key.map_or(ServerKey::Any, |digest| ServerKey::Digest(*digest.as_bytes()))
}
