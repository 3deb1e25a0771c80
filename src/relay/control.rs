//! The control connection of a registered server half: verifies its host keys, then exchanges
//! control messages until it closes.

use super::RelayState;
use super::accept::{AcceptedConnection, refuse};
use super::memory::{Reservation, TLS_CONNECTION};
use super::metrics::count;
use super::quota::RegistrationPermit;
use super::registrations::{CONTROL_QUEUE, ControlMessage, RegisteredServer};
use super::windows::Windows;
use crate::carrier::via::{RelayStreamError, ViaStream, read_message, send_message};
use crate::clock;
use crate::identity::key_digest;
use crate::identity::known_hosts::tls_key_fingerprint;
use crate::identity::statement::verify_host;
use crate::tasks::off_thread;
use crate::wire::{Code, KeyDigest, RelayMessage, RelayRefusalCode, Statement};
use bytes::{Bytes, BytesMut};
use russh::keys::ssh_key::HashAlg;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// Longest wait for a server half to accept a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// A server half that has sent nothing for this long is gone: it pings at least every 15 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Flow-control window of one server half, for all its streams together, in each direction: at the
/// start, and at most while bytes keep flowing. The maximum allows 2.7 Gbit/s at a round trip of 50
/// ms. Bytes for a client that does not read them are accounted separately
/// ([`StalledStream`](super::windows::StalledStream)).
const MIN_WINDOW: u64 = 64 << 10;
const MAX_WINDOW: u64 = 16 << 20;

pub(super) async fn register(state: &Arc<RelayState>, accepted: AcceptedConnection, statements: Vec<Statement>) {
    let AcceptedConnection {
        stream,
        peer_key,
        remote,
    } = accepted;
    let tls_key = peer_key.clone();
    // Not on the threads that copy bytes: sixteen signatures take some milliseconds.
    let keys = off_thread("verify statements", move || proven_keys(&statements, &tls_key)).await;
    let keys = keys.unwrap_or_default();
    let refusal = match state.quotas.register(remote.ip(), clock::now()) {
        _ if keys.is_empty() => (
            RelayRefusalCode::NotProven,
            "no statement proves the TLS key of this connection",
        ),
        _ if !state.permits(&keys) => (
            RelayRefusalCode::NotAllowed,
            "this relay does not accept this server half",
        ),
        Err(code @ RelayRefusalCode::Quota) => (code, "too many server halves from this address"),
        Err(code) => (code, "too many server halves"),
        Ok(permit) => match ServerConnection::of(state, &stream) {
            Some(connection) => return accept_registration(state, stream, (peer_key, keys), connection, permit).await,
            None => (RelayRefusalCode::Busy, "the relay has no memory left"),
        },
    };
    debug!(%remote, code = refusal.0.name(), "server half refused");
    refuse(state, stream, refusal.0, refusal.1).await;
}

/// The server half's connection.
struct ServerConnection {
    quic: Option<quinn::Connection>,
    windows: Option<Arc<Windows>>,
    memory: Option<Reservation>,
}

impl ServerConnection {
    /// Reserves memory for the connection; `None` if there is none left.
    fn of(state: &RelayState, stream: &ViaStream) -> Option<ServerConnection> {
        let Some(connection) = stream.connection().cloned() else {
            return Some(ServerConnection {
                quic: None,
                windows: None,
                memory: Some(state.memory.reserve(TLS_CONNECTION)?),
            });
        };
        Some(ServerConnection {
            windows: Some(state.windows(&connection, MIN_WINDOW, MAX_WINDOW)?),
            quic: Some(connection),
            memory: None,
        })
    }
}

async fn accept_registration(
    state: &Arc<RelayState>,
    mut stream: ViaStream,
    (tls_key, keys): (Bytes, Vec<KeyDigest>),
    connection: ServerConnection,
    permit: RegistrationPermit,
) {
    let (messages, queued) = mpsc::channel(CONTROL_QUEUE);
    let server = Arc::new(RegisteredServer {
        tls_key,
        keys,
        connection: connection.quic,
        windows: connection.windows,
        _memory: connection.memory,
        messages,
        revoked: CancellationToken::new(),
        _permit: permit,
    });
    let registered = RelayMessage::Registered {
        keys: server.keys.len() as u64,
    };
    if send(&mut stream, &registered).await.is_ok() {
        serve(state, &server, stream, queued).await;
    }
}

/// Fingerprints of the host keys that signed this TLS key, up to the first invalid statement, and
/// of the TLS key itself, which clients may pin.
fn proven_keys(statements: &[Statement], tls_key: &[u8]) -> Vec<KeyDigest> {
    let mut keys = Vec::new();
    for statement in statements {
        match verify_host(statement, tls_key) {
            Ok(proven) => keys.extend(key_digest(proven.key.fingerprint(HashAlg::Sha256))),
            Err(error) if error.is_unsupported() => debug!(%error, "unsupported statement skipped"),
            // No server half sends invalid statements: stop verifying.
            Err(error) => {
                debug!(%error, "invalid statement");
                break;
            }
        }
    }
    if !keys.is_empty() {
        keys.extend(tls_key_fingerprint(tls_key).and_then(key_digest));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// Keeps the server half registered until its connection closes.
async fn serve(
    state: &RelayState,
    server: &Arc<RegisteredServer>,
    mut stream: ViaStream,
    mut messages: mpsc::Receiver<ControlMessage>,
) {
    state.registrations.add(server);
    if !state.permits(&server.keys) {
        // The rules changed after the check, and this server half was not registered yet when they
        // were applied to those that were.
        server.revoked.cancel();
    }
    count(&state.counters.registrations);
    state.counters.registered.fetch_add(1, Relaxed);
    let (remote, transport) = (stream.remote(), stream.transport());
    info!(event = "registered", %remote, %transport, keys = server.keys.len(), "server half registered");
    let why = serve_control(&mut stream, &mut messages, &server.revoked).await;
    state.registrations.remove(server);
    state.counters.registered.fetch_sub(1, Relaxed);
    let why = why.err().map(tracing::field::display);
    info!(event = "unregistered", %remote, error = why, "server half unregistered");
}

async fn serve_control(
    stream: &mut ViaStream,
    messages: &mut mpsc::Receiver<ControlMessage>,
    revoked: &CancellationToken,
) -> Result<(), RelayStreamError> {
    let mut inbox = BytesMut::new();
    loop {
        let message = tokio::select! {
            message = timeout(IDLE_TIMEOUT, read_message(stream, &mut inbox)) => match message {
                Ok(Ok(RelayMessage::Ping)) => RelayMessage::Pong,
                Ok(Ok(message)) => {
                    debug!(received = ?message, "unexpected message from a server half");
                    continue;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(RelayStreamError::TimedOut),
            },
            () = revoked.cancelled() => return send(stream, &RelayMessage::Draining).await,
            Some(order) = messages.recv() => match order {
                ControlMessage::Dial { token, source } => RelayMessage::Dial { token, source },
                ControlMessage::Leave => RelayMessage::Draining,
                ControlMessage::Replaced => return send(stream, &RelayMessage::Replaced).await,
            },
        };
        send(stream, &message).await?;
    }
}

async fn send(stream: &mut ViaStream, message: &RelayMessage) -> Result<(), RelayStreamError> {
    match timeout(SEND_TIMEOUT, send_message(stream, message)).await {
        Ok(sent) => Ok(sent?),
        Err(_) => Err(RelayStreamError::TimedOut),
    }
}
