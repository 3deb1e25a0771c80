//! Dials a relay: a connection on which both TLS keys are proved, and a stream for the first
//! message.

use super::RelayTransport;
use super::config::RelayWindow;
use super::stream::ViaStream;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::transport::quic::{MtuCap, QuicDialer};
use crate::transport::{ConnectError, tls};
use crate::wire::RELAY_ALPN;
use std::net::SocketAddr;

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
