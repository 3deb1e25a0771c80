//! Accepts connections: the handshake, and the first message.

use super::metrics::count;
use super::{RelayState, connect, control};
use crate::carrier::via::{RelayStreamError, RelayTransport, ViaStream, read_message, send_message};
use crate::clock;
use crate::tasks::Tasks;
use crate::transport::handshake_limiter::{Admission, HandshakeLimiter, Origin, Permit};
use crate::transport::quic::QuicListener;
use crate::transport::tls::{self, TlsServer};
use crate::transport::{self, Authenticated, CloseReason, unmapped};
use crate::wire::{Refusal, RelayMessage, RelayRefusalCode};
use bytes::{Bytes, BytesMut};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the first stream of a connection. Every half opens it immediately.
const FIRST_STREAM_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the first message. Every half sends it immediately.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to deliver a refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn accept_quic(
    listener: &QuicListener,
    limiter: &HandshakeLimiter,
    state: &Arc<RelayState>,
    connections: &Tasks,
) {
    // A forged address must not consume the quota of its owner. The quota is charged once the
    // address is validated, by Retry or by the handshake. An address without quota has to pass
    // Retry first and is then refused before any other work.
    let admit = |source: SocketAddr, is_proved| {
        let (ip, now) = (source.ip(), clock::now());
        if is_proved && !state.quotas.connect(ip, now) {
            return state.refused();
        }
        match limiter.admit(Origin::direct(ip), is_proved, now) {
            Admission::Admitted(_) if !is_proved && !state.quotas.may_connect(ip, now) => Admission::ProveAddress,
            Admission::Refused => state.refused(),
            admission => admission,
        }
    };
    transport::accept_quic(listener, admit, |incoming, permit| {
        state.counters.count_attempt(RelayTransport::Quic);
        let (source, is_proved) = (incoming.remote_address(), incoming.remote_address_validated());
        let state = Arc::clone(state);
        connections.spawn("connection", async move {
            let charge = |ip| is_proved || state.quotas.connect(ip, clock::now());
            serve(&state, source, permit, quic_handshake(incoming, charge)).await;
        });
    })
    .await;
}

pub(super) async fn accept_tls(
    listener: &tokio::net::TcpListener,
    tls: &TlsServer,
    limiter: &HandshakeLimiter,
    state: &Arc<RelayState>,
    connections: &Tasks,
) {
    let admit = |source: SocketAddr| {
        let (ip, now) = (source.ip(), clock::now());
        match state.quotas.connect(ip, now) {
            true => match limiter.admit(Origin::direct(ip), true, now) {
                Admission::Refused => state.refused(),
                admission => admission,
            },
            false => state.refused(),
        }
    };
    transport::accept_tls(listener, admit, |stream, source, permit| {
        state.counters.count_attempt(RelayTransport::Tls);
        let (state, tls) = (Arc::clone(state), tls.clone());
        connections.spawn("connection", async move {
            serve(&state, source, permit, tls_handshake(&tls, stream, source)).await;
        });
    })
    .await;
}

impl RelayState {
    fn refused(&self) -> Admission {
        count(&self.counters.turned_away);
        Admission::Refused
    }
}

/// A connection whose peer has proved its TLS key and sent no message yet.
pub(super) struct AcceptedConnection {
    /// The stream of the first message.
    pub(super) stream: ViaStream,
    /// The peer's TLS key, SPKI DER.
    pub(super) peer_key: Bytes,
    /// The peer's address.
    pub(super) remote: SocketAddr,
}

/// Completes one QUIC handshake, which validates the peer's address. If `is_permitted` allows that
/// address, waits for the first stream.
///
/// # Errors
/// The connection failed, or the address is not permitted.
async fn quic_handshake(
    incoming: quinn::Incoming,
    is_permitted: impl FnOnce(IpAddr) -> bool,
) -> Result<AcceptedConnection, RelayStreamError> {
    let connection = incoming.await.map_err(io::Error::from)?;
    let remote = unmapped(connection.remote_address());
    if !is_permitted(remote.ip()) {
        CloseReason::Busy.close(&connection);
        return Err(RelayStreamError::TooManyConnections);
    }
    let peer_key = connection.peer_key()?;
    let streams = timeout(FIRST_STREAM_TIMEOUT, connection.accept_bi()).await;
    let streams = streams.map_err(io::Error::from)?.map_err(io::Error::from)?;
    Ok(AcceptedConnection {
        peer_key,
        remote,
        stream: ViaStream::of_quic(connection, streams),
    })
}

/// Completes one TLS handshake.
///
/// # Errors
/// The connection failed, or the peer proved no key.
async fn tls_handshake(
    server: &TlsServer,
    stream: TcpStream,
    remote: SocketAddr,
) -> Result<AcceptedConnection, RelayStreamError> {
    tls::tune(&stream)?;
    let stream = server.handshake(Box::new(stream)).await?;
    Ok(AcceptedConnection {
        peer_key: stream.peer_key()?,
        remote,
        stream: ViaStream::of_tls(stream, remote),
    })
}

/// Serves one connection, from the handshake to its end.
async fn serve(
    state: &Arc<RelayState>,
    source: SocketAddr,
    permit: Permit,
    handshake: impl Future<Output = Result<AcceptedConnection, RelayStreamError>>,
) {
    let first = async {
        let mut accepted = timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .map_err(|_| None)?
            .map_err(Some)?;
        let mut inbox = BytesMut::new();
        let message = timeout(FIRST_MESSAGE_TIMEOUT, read_message(&mut accepted.stream, &mut inbox));
        let message = message.await.map_err(|_| None)?.map_err(Some)?;
        Ok::<_, Option<RelayStreamError>>((accepted, message))
    };
    let first = tokio::select! {
        first = first => first,
        () = permit.revoked() => {
            count(&state.counters.failed);
            return debug!(%source, "closed in favour of another connection");
        }
    };
    let (accepted, message) = match first {
        Ok(first) => first,
        Err(error) => {
            count(&state.counters.failed);
            return debug!(%source, error = error.map(tracing::field::display), "no valid first message");
        }
    };
    drop(permit);
    match message {
        RelayMessage::Register { statements } => control::register(state, accepted, statements).await,
        RelayMessage::Reach { fingerprints } => connect::connect(state, accepted, &fingerprints).await,
        RelayMessage::Answer { token } => {
            if !state.dial_backs.answer(token, accepted.stream) {
                debug!(%source, "unexpected dial-back");
            }
        }
        message => {
            debug!(%source, received = ?message, "unexpected first message");
            refuse(
                state,
                accepted.stream,
                RelayRefusalCode::Malformed,
                "expected Register, Reach or Answer",
            )
            .await;
        }
    }
}

/// Sends a refusal and counts it.
pub(super) async fn refuse(state: &RelayState, mut stream: ViaStream, code: RelayRefusalCode, message: &str) {
    state.counters.count_refusal(code);
    let refusal = Refusal {
        code,
        message: message.into(),
    };
    let sent = async {
        send_message(&mut stream, &RelayMessage::Refused(refusal)).await?;
        stream.shutdown().await
    };
    // A peer that does not read misses the refusal.
    let _ = timeout(REFUSAL_TIMEOUT, sent).await;
}
