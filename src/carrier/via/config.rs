//! QUIC and TLS settings for connections between a half and a relay, for both ends.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{TransportConfig, VarInt};
use rustls::{ClientConfig, ServerConfig};

use crate::carrier::quic::config::{UNAUTHENTICATED_WINDOW, listener_config, transport};
use crate::carrier::quic::{ListenerSecrets, QuicLimits};
use crate::identity::raw_key::{ServerKey, TlsConfigError, TlsKey, client_config, server_config};
use crate::wire::{KeyDigest, RELAY_ALPN};

/// Keeps NAT bindings alive (RFC 4787 requires two minutes, but some NATs keep them for 30 s only).
/// A third of the idle timeout, so that two keepalives may be lost.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

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

    /// Connection-level window for this many streams, so that a stream that nobody reads does not
    /// block the others.
    pub(crate) fn times(self, streams: u32) -> VarInt {
        VarInt::from_u32(self.0.saturating_mul(streams))
    }
}

impl Default for RelayWindow {
    fn default() -> RelayWindow {
        RelayWindow(1 << 20)
    }
}

/// TLS or QUIC to a relay could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ViaConfigError {
    /// rustls rejected the settings.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// The TLS provider lacks the cipher of QUIC's Initial packets.
    #[error("TLS lacks the cipher that QUIC requires")]
    Cipher(#[from] NoInitialCipherSuite),
}

/// Which TLS keys of a relay are accepted.
pub(super) fn accepted_key(key: Option<KeyDigest>) -> ServerKey {
    key.map_or(ServerKey::Any, |digest| ServerKey::Digest(*digest.as_bytes()))
}

pub(super) fn tls_client(key: &TlsKey, accept: ServerKey) -> Result<Arc<ClientConfig>, ViaConfigError> {
    Ok(Arc::new(client_config(key, accept, RELAY_ALPN)?))
}

pub(super) fn tls_server(key: &TlsKey) -> Result<Arc<ServerConfig>, ViaConfigError> {
    Ok(Arc::new(server_config(key, RELAY_ALPN)?))
}

/// The settings of a half. `streams`: most streams that the relay may open.
pub(super) fn quic_client(
    key: &TlsKey,
    accept: ServerKey,
    limits: &QuicLimits,
    window: RelayWindow,
    streams: u32,
) -> Result<quinn::ClientConfig, ViaConfigError> {
    let crypto = QuicClientConfig::try_from(client_config(key, accept, RELAY_ALPN)?)?;
    let mut transport = transport_config(limits, window);
    transport
        .max_concurrent_bidi_streams(streams.into())
        .receive_window(window.times(streams.saturating_add(1)))
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL));
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// The settings of a relay, for a peer that has not sent its first message.
pub(super) fn quic_server(
    key: &TlsKey,
    secrets: &ListenerSecrets,
    limits: &QuicLimits,
    window: RelayWindow,
) -> Result<quinn::ServerConfig, ViaConfigError> {
    let crypto = QuicServerConfig::try_from(server_config(key, RELAY_ALPN)?)?;
    let mut transport = transport_config(limits, window);
    transport
        .max_concurrent_bidi_streams(1u32.into())
        .receive_window(UNAUTHENTICATED_WINDOW)
        .send_window(RelayWindow::INITIAL);
    Ok(listener_config(crypto, transport, secrets, limits.max_incoming))
}

fn transport_config(limits: &QuicLimits, window: RelayWindow) -> TransportConfig {
    let mut transport = transport(limits.mtu_cap);
    transport
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(VarInt::from_u32(window.0))
        .datagram_receive_buffer_size(None);
    transport
}
