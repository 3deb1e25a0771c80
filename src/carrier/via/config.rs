//! Settings of both transports to a relay, for both of their ends.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{TransportConfig, VarInt};
use rustls::{ClientConfig, ServerConfig};

use crate::carrier::quic::config::{STRANGER_WINDOW, listening, transport};
use crate::carrier::quic::{ListenerSecrets, QuicLimits};
use crate::identity::raw_key::{ServerKey, TlsConfigError, TlsKey, client_config, server_config};
use crate::wire::{KeyDigest, RELAY_ALPN};

/// Keeps the bindings of all but the most impatient NATs (RFC 4787 asks for two minutes, some give 30 s), and is a
/// third of the idle timeout: two may get lost.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What one end of a leg lets the other send beyond what was taken on, per stream and direction. Default 1 MiB.
///
/// A stream through a relay carries at most this per round trip of the longer leg: 168 Mbit/s at 50 ms. A server half
/// holds at most one per stream; a relay begins with less, and goes so far where its memory allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayWindow(u32);

impl RelayWindow {
    /// What a relay lets a peer send, and has on its way to it, before it knows what that wants.
    pub(crate) const FIRST: u64 = STRANGER_WINDOW.into_inner();

    /// A window of `bytes`, at least 16 KiB: one message of TLS, or one hello, must fit. Less is taken for that.
    pub fn new(bytes: u32) -> RelayWindow {
        RelayWindow(bytes.max(16 << 10))
    }

    /// Its size.
    pub(crate) fn bytes(self) -> u64 {
        self.0.into()
    }

    /// Room for all of `streams` at once: one that nobody reads must not stop the others.
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
    /// rustls refused.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// The provider lacks the cipher of QUIC's first packets.
    #[error("TLS lacks what QUIC needs")]
    Cipher(#[from] NoInitialCipherSuite),
}

/// Which relay keys are taken.
pub(super) fn accepting(key: Option<KeyDigest>) -> ServerKey {
    key.map_or(ServerKey::Any, |digest| ServerKey::Digest(*digest.as_bytes()))
}

pub(super) fn tls_client(key: &TlsKey, accept: ServerKey) -> Result<Arc<ClientConfig>, ViaConfigError> {
    Ok(Arc::new(client_config(key, accept, RELAY_ALPN)?))
}

pub(super) fn tls_server(key: &TlsKey) -> Result<Arc<ServerConfig>, ViaConfigError> {
    Ok(Arc::new(server_config(key, RELAY_ALPN)?))
}

/// A half's end. `streams` are those that the relay may open.
pub(super) fn quic_client(
    key: &TlsKey,
    accept: ServerKey,
    limits: &QuicLimits,
    window: RelayWindow,
    streams: u32,
) -> Result<quinn::ClientConfig, ViaConfigError> {
    let crypto = QuicClientConfig::try_from(client_config(key, accept, RELAY_ALPN)?)?;
    let mut transport = leg(limits, window);
    transport
        .max_concurrent_bidi_streams(streams.into())
        .receive_window(window.times(streams.saturating_add(1)))
        .keep_alive_interval(Some(KEEP_ALIVE));
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// The relay's end, for a peer that has said nothing yet.
pub(super) fn quic_server(
    key: &TlsKey,
    secrets: &ListenerSecrets,
    limits: &QuicLimits,
    window: RelayWindow,
) -> Result<quinn::ServerConfig, ViaConfigError> {
    let crypto = QuicServerConfig::try_from(server_config(key, RELAY_ALPN)?)?;
    let mut transport = leg(limits, window);
    transport
        .max_concurrent_bidi_streams(1u32.into())
        .receive_window(STRANGER_WINDOW)
        .send_window(RelayWindow::FIRST);
    Ok(listening(crypto, transport, secrets, limits.max_incoming))
}

fn leg(limits: &QuicLimits, window: RelayWindow) -> TransportConfig {
    let mut transport = transport(limits.mtu_cap);
    transport
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(VarInt::from_u32(window.0))
        .datagram_receive_buffer_size(None);
    transport
}
