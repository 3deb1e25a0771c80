//! Settings of quinn, and their reasons.

use super::congestion::{BbrFactory, UNACKED_PACKETS};
use crate::identity::raw_key::{self, ServerKey, TlsKey};
use crate::transport::{ConfigError, Protocol};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Window of a carrier that belongs to a session. The session's own window is smaller, so that this
/// one never limits it.
pub(crate) const SESSION_WINDOW: VarInt = VarInt::from_u32(16 << 20);

/// Window of a peer that has proved nothing yet: one hello message fits. Times the number of
/// half-open connections, this is all the memory they can use.
pub(crate) const UNAUTHENTICATED_WINDOW: VarInt = VarInt::from_u32(32 << 10);

/// Longer than the client half's longest probe interval (30 s) plus a retransmission. Probes detect
/// a dead carrier much earlier; this timeout only removes clients that vanished.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// RTT estimate before the first measurement. Half of RFC 9002's 333 ms: a lost first packet is
/// retransmitted earlier, and a spurious retransmission on a slow path does no harm.
const INITIAL_RTT: Duration = Duration::from_millis(150);

/// Ethernet: 1500 bytes less the headers of IPv4 and UDP, or of IPv6 and UDP.
const MAX_MTU: u16 = 1472;
const MAX_MTU_V6: u16 = 1452;

/// How often a path with a reduced MTU is probed for a larger one. A half that moves to another
/// network keeps its connection and thus the MTU of the old path, and quinn's 600 s would be long
/// for a transfer. A path that already takes all of [`MtuCap`] is not probed.
const MTU_SEARCH_INTERVAL: Duration = Duration::from_secs(120);

/// Probes take a dozen bytes each, copies some hundred. Datagrams that do not fit are outdated
/// anyway.
const DATAGRAM_BUFFER: usize = 16 << 10;

/// Largest UDP payload, at least 1200 bytes (RFC 9000 section 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MtuCap(u16);

/// The cap is below QUIC's minimum.
#[derive(Debug, thiserror::Error)]
#[error("an MTU cap of {cap} bytes is below QUIC's minimum of 1200")]
pub struct MtuCapError {
    /// The requested cap.
    pub cap: u16,
}

impl MtuCap {
    /// A cap of `bytes` of UDP payload.
    ///
    /// # Errors
    /// Below 1200.
    pub fn new(bytes: u16) -> Result<MtuCap, MtuCapError> {
        if bytes < 1200 {
            Err(MtuCapError { cap: bytes })
        } else {
            Ok(MtuCap(bytes))
        }
    }

    /// The cap for a socket or a peer at `address`: the default is smaller for IPv6.
    pub(super) fn at(self, address: SocketAddr) -> MtuCap {
        match self {
            MtuCap(MAX_MTU) if address.is_ipv6() => MtuCap(MAX_MTU_V6),
            cap => cap,
        }
    }
}

impl Default for MtuCap {
    fn default() -> MtuCap {
        MtuCap(MAX_MTU)
    }
}

/// The seed of the keys of all listeners. It must survive a restart of the server half, so that the
/// first packet after it tells clients that their connection is gone.
#[derive(Clone)]
pub struct EndpointSecrets([u8; 32]);

impl EndpointSecrets {
    /// Derives all keys from 32 random bytes, which must be kept secret.
    pub fn new(seed: [u8; 32]) -> EndpointSecrets {
        EndpointSecrets(seed)
    }

    /// The keys of the listener bound to `address`, as getsockname(2) returns it.
    ///
    /// They depend on nothing else, and therefore stay the same across restarts, whatever else
    /// listens. No two listeners share keys: a listener answers packets of connections that it does
    /// not know with a stateless reset, and with shared keys that would be a valid reset for
    /// another listener's connection (RFC 9000 section 21.11).
    pub fn of_listener(&self, address: SocketAddr) -> ListenerSecrets {
        let (family, scope) = match address {
            SocketAddr::V4(_) => (4, 0),
            SocketAddr::V6(v6) => (6, v6.scope_id()),
        };
        let mut place = b"listener".to_vec();
        place.push(family);
        // IPv4 as IPv4-mapped IPv6, so that all addresses have the same length.
        let bits = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        place.extend(bits);
        place.extend(address.port().to_be_bytes());
        place.extend(scope.to_be_bytes());
        ListenerSecrets(derive(&self.0, &place))
    }
}

/// The keys of one listener: for stateless resets, connection IDs and address validation tokens.
#[derive(Clone)]
pub struct ListenerSecrets([u8; 32]);

impl ListenerSecrets {
    fn derive<const N: usize>(&self, purpose: &[u8]) -> [u8; N] {
        derive(&self.0, purpose)
    }
}

fn derive<const N: usize>(key: &[u8; 32], purpose: &[u8]) -> [u8; N] {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    let tag = aws_lc_rs::hmac::sign(&key, purpose);
    let mut derived = [0; N];
    derived.copy_from_slice(&tag.as_ref()[..N]);
    derived
}

/// Limits on what unauthenticated peers may use.
#[derive(Clone, Copy, Debug)]
pub struct QuicLimits {
    /// Most UDP payload. See [`MtuCap`].
    pub mtu_cap: MtuCap,
    /// Most connections that wait to be accepted. Default 1024.
    pub max_incoming: usize,
}

impl Default for QuicLimits {
    fn default() -> QuicLimits {
        QuicLimits {
            mtu_cap: MtuCap::default(),
            max_incoming: 1024,
        }
    }
}

/// QUIC version 1 (RFC 9000). quinn would also accept the drafts 29 to 34, which are obsolete.
const VERSION_1: u32 = 1;

pub(super) fn client_endpoint() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.supported_versions(vec![VERSION_1]);
    config
}

pub(super) fn server_endpoint(secrets: &ListenerSecrets) -> EndpointConfig {
    let reset_key: [u8; 32] = secrets.derive(b"stateless reset");
    let id_key = u64::from_be_bytes(secrets.derive(b"connection id"));
    let mut config = EndpointConfig::new(Arc::new(aws_lc_rs::hmac::Key::new(
        aws_lc_rs::hmac::HMAC_SHA256,
        &reset_key,
    )));
    // With quinn's 20 ms an endpoint resets the connections of only 50 clients per second after a
    // restart; the others would have to wait for their timeouts.
    config.min_reset_interval(Duration::ZERO);
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
    config.supported_versions(vec![VERSION_1]);
    config
}

pub(super) fn client(
    key: &TlsKey,
    accept: ServerKey,
    protocol: &Protocol,
    mtu_cap: MtuCap,
) -> Result<quinn::ClientConfig, ConfigError> {
    let crypto = QuicClientConfig::try_from(raw_key::client_config(key, accept, protocol.alpn)?)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport(protocol, mtu_cap)));
    Ok(config)
}

/// From Retry to the end of the client's first flight. If some hundred clients come at once, both sides may wait for a
/// processor for longer than quinn's 15 s.
const RETRY_TOKEN_LIFETIME: Duration = Duration::from_secs(60);

pub(super) fn server(
    key: &TlsKey,
    secrets: &ListenerSecrets,
    protocol: &Protocol,
    limits: &QuicLimits,
) -> Result<quinn::ServerConfig, ConfigError> {
    let crypto = QuicServerConfig::try_from(raw_key::server_config(key, protocol.alpn)?)?;
    let token_seed: [u8; 32] = secrets.derive(b"retry token");
    let token_key = aws_lc_rs::hkdf::Salt::new(aws_lc_rs::hkdf::HKDF_SHA256, &[]).extract(&token_seed);
    let mut config = quinn::ServerConfig::new(Arc::new(crypto), Arc::new(token_key));
    config.transport_config(Arc::new(transport(protocol, limits.mtu_cap)));
    config.max_incoming(limits.max_incoming);
    // The client's first flight is two packets. Before the connection is accepted no more is
    // needed.
    config.incoming_buffer_size(8 << 10).incoming_buffer_size_total(4 << 20);
    config.retry_token_lifetime(RETRY_TOKEN_LIFETIME);
    Ok(config)
}

fn transport(protocol: &Protocol, mtu_cap: MtuCap) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(IDLE_TIMEOUT).expect("45 s fit a varint of milliseconds");
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(mtu_cap.0).interval(MTU_SEARCH_INTERVAL);
    let mut acks = AckFrequencyConfig::default();
    // A gap is acknowledged immediately, as without the extension, so that losses are repaired no
    // later.
    acks.ack_eliciting_threshold(UNACKED_PACKETS.into())
        .reordering_threshold(VarInt::from_u32(1));
    transport
        .ack_frequency_config(Some(acks))
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(protocol.keep_alive)
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(1200)
        .mtu_discovery_config(Some(discovery))
        .max_concurrent_uni_streams(protocol.uni_streams.into())
        .max_concurrent_bidi_streams(protocol.bidi_streams.into())
        .stream_receive_window(protocol.stream_window)
        .receive_window(protocol.receive_window)
        .send_window(protocol.send_window)
        .datagram_receive_buffer_size(protocol.datagrams.then_some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        // At 1 % loss and 50 ms, CUBIC and NewReno lose 95 % of their rate, quinn's BBR 16 %, this
        // controller 2 % (measured).
        .congestion_controller_factory(Arc::new(BbrFactory));
    transport
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_has_keys_of_its_own_which_stay_the_same() {
        let addresses = [
            "0.0.0.0:22",
            "[::]:22",
            "[::ffff:0.0.0.0]:22",
            "127.0.0.1:22",
            "[::1]:22",
            "127.0.0.1:443",
            "[fe80::1%2]:22",
            "[fe80::1%3]:22",
        ];
        let all = |seed| {
            let secrets = EndpointSecrets::new([seed; 32]);
            let keys = addresses.map(|address| secrets.of_listener(address.parse().unwrap()).0);
            keys.to_vec()
        };
        assert_eq!(all(1), all(1));
        let mut different = [all(1), all(2)].concat();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 2 * addresses.len());
    }
}
