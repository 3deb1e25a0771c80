//! Serves a client that asks for a server half: opens a stream to that server half and splices
//! both.

use super::RelayState;
use super::accept::{AcceptedConnection, refuse};
use super::copy::{BUFFER, Meter, copy_bidirectional};
use super::memory::{Reservation, TLS_CONNECTION};
use super::metrics::count;
use super::quota::SplicePermit;
use super::registrations::{ControlMessage, RegisteredServer};
use super::windows::{StalledStream, Windows};
use crate::carrier::via::{RelayWindow, ViaStream, send_message};
use crate::clock;
use crate::random;
use crate::wire::{Code, DialToken, KeyDigest, RelayMessage, RelayRefusalCode};
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;

/// Longest wait for a server half to accept a stream, or to dial back.
const OPEN_STREAM_TIMEOUT: Duration = Duration::from_secs(3);
const DIAL_BACK_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn connect(state: &RelayState, accepted: AcceptedConnection, fingerprints: &[KeyDigest]) {
    let AcceptedConnection { mut stream, remote, .. } = accepted;
    let reached = match ClientConnection::of(state, &stream) {
        Some(client) => find_server(state, remote, fingerprints)
            .await
            .map(|reached| (client, reached)),
        None => Err(NO_MEMORY),
    };
    let (client, reached) = match reached {
        Ok(reached) => reached,
        Err((code, message)) => {
            debug!(%remote, code = code.name(), "client refused");
            return refuse(state, stream, code, message).await;
        }
    };
    count(&state.counters.splices);
    if send_message(&mut stream, &RelayMessage::Reached).await.is_ok() {
        splice(state, stream, client, reached).await;
    }
}

/// Copies bytes in both directions until both have ended or one end fails.
async fn splice(state: &RelayState, mut stream: ViaStream, client: ClientConnection, reached: Reached) {
    let Reached {
        mut server,
        host_key,
        windows,
        ..
    } = reached;
    let (all, remote, by) = (&state.counters, stream.remote(), stream.transport());
    let stalled = windows
        .clone()
        .map(|windows| StalledStream::new(windows, state.window.bytes()));
    let entry = state.splices.add(remote, by, host_key, stalled, clock::now());
    let own = entry.splice();
    let up = Meter {
        counts: [&all.bytes_up, &own.up],
        from: client.windows.as_deref(),
        to: windows.as_deref(),
        stalled: None,
    };
    let down = Meter {
        counts: [&all.bytes_down, &own.down],
        from: windows.as_deref(),
        to: client.windows.as_deref(),
        stalled: own.stalled(),
    };
    if let Err(error) = copy_bidirectional(&mut stream, &mut server, up, down).await {
        debug!(%remote, %error, "splice failed");
        // Neither end may take the failure for a clean end of stream.
        stream.abort();
        server.abort();
    }
}

/// The client's connection.
struct ClientConnection {
    windows: Option<Arc<Windows>>,
    /// For the copy buffers, and for the connection itself if it is TCP.
    _memory: Reservation,
}

impl ClientConnection {
    /// Reserves memory for the connection; `None` if there is none left.
    fn of(state: &RelayState, stream: &ViaStream) -> Option<ClientConnection> {
        let between = 2 * BUFFER as u64;
        Some(match stream.connection() {
            Some(connection) => ClientConnection {
                windows: Some(state.windows(connection, RelayWindow::INITIAL, state.window.bytes())?),
                _memory: state.memory.reserve(between)?,
            },
            None => ClientConnection {
                windows: None,
                _memory: state.memory.reserve(between + TLS_CONNECTION)?,
            },
        })
    }
}

const NO_MEMORY: Refused = (RelayRefusalCode::Busy, "the relay has no memory left");

type Refused = (RelayRefusalCode, &'static str);

/// A stream to a server half.
struct Reached {
    /// Ready for the client's bytes.
    server: ViaStream,
    /// The host key under which the server half is registered.
    host_key: KeyDigest,
    /// The flow-control windows of the server half's connection, if that is QUIC.
    windows: Option<Arc<Windows>>,
    _memory: Option<Reservation>,
    _permit: SplicePermit,
}

async fn find_server(state: &RelayState, source: SocketAddr, fingerprints: &[KeyDigest]) -> Result<Reached, Refused> {
    let (host_key, registrations) = state.registrations.find(fingerprints).ok_or((
        RelayRefusalCode::NotRegistered,
        "no server half with this host key is registered",
    ))?;
    for registered in registrations {
        let permit = state.quotas.splice(source.ip(), &registered.tls_key, clock::now());
        let permit = permit.map_err(|code| match code {
            RelayRefusalCode::Quota => (code, "too many paths from this address or to this server half"),
            code => (code, "too many paths"),
        })?;
        let memory = match &registered.windows {
            Some(_) => None,
            None => Some(state.memory.reserve(TLS_CONNECTION).ok_or(NO_MEMORY)?),
        };
        if let Some(server) = open_stream(state, &registered, source).await {
            return Ok(Reached {
                server,
                host_key,
                windows: registered.windows.clone(),
                _memory: memory,
                _permit: permit,
            });
        }
    }
    Err((
        RelayRefusalCode::NoAnswer,
        "the server half is registered but does not answer",
    ))
}

async fn open_stream(state: &RelayState, registered: &RegisteredServer, source: SocketAddr) -> Option<ViaStream> {
    let mut stream = match &registered.connection {
        Some(connection) => {
            let streams = timeout(OPEN_STREAM_TIMEOUT, connection.open_bi()).await.ok()?.ok()?;
            ViaStream::of_quic(connection.clone(), streams)
        }
        None => {
            let mut pending = state.dial_backs.register();
            let token = pending.token;
            registered
                .messages
                .try_send(ControlMessage::Dial { token, source })
                .ok()?;
            timeout(DIAL_BACK_TIMEOUT, &mut pending.answer).await.ok()?.ok()?
        }
    };
    let sent = timeout(
        OPEN_STREAM_TIMEOUT,
        send_message(&mut stream, &RelayMessage::Incoming { source }),
    )
    .await;
    sent.ok()?.ok().map(|()| stream)
}

/// Waiting clients by token. Bounded by the number of splices: each waits for at most one
/// dial-back.
#[derive(Default)]
pub(super) struct DialBacks(Mutex<HashMap<DialToken, oneshot::Sender<ViaStream>>>);

/// A client that waits for a dial-back; removed when dropped.
pub(super) struct PendingDialBack<'a> {
    dial_backs: &'a DialBacks,
    /// Sent to the server half, which returns it when it dials back.
    pub(super) token: DialToken,
    /// Receives the server half's stream.
    pub(super) answer: oneshot::Receiver<ViaStream>,
}

impl DialBacks {
    /// Registers a waiting client under a new token.
    pub(super) fn register(&self) -> PendingDialBack<'_> {
        let token = DialToken::new(random::bytes());
        let (sender, answer) = oneshot::channel();
        self.pending().insert(token, sender);
        PendingDialBack {
            dial_backs: self,
            token,
            answer,
        }
    }

    /// Hands a stream to the client that waits for this token. `false` if there is none.
    pub(super) fn answer(&self, token: DialToken, stream: ViaStream) -> bool {
        let waiting = self.pending().remove(&token);
        waiting.is_some_and(|waiting| waiting.send(stream).is_ok())
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<DialToken, oneshot::Sender<ViaStream>>> {
        self.0.lock()
    }
}

impl Drop for PendingDialBack<'_> {
    fn drop(&mut self) {
        self.dial_backs.pending().remove(&self.token);
    }
}
