//! The life of one connection: greeting, login in time, service, end. Nothing it started outlives it.

use super::handler::{ConnectionError, Handler};
use super::startups::Startup;
use super::{Shared, channel_queue};
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{Config, RunningSession};
use russh::{Disconnect, Limits, MethodKind, MethodSet, Preferred, SshId};
use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{Instrument, debug, info_span};

/// Time to log in, as sshd's LoginGraceTime.
const LOGIN_GRACE_TIMEOUT: Duration = Duration::from_secs(120);

/// What every refused login takes, so that the reason cannot be timed. A key look-up takes far less.
const REJECTION_DELAY: Duration = Duration::from_millis(50);

/// Refused keys per connection, as sshd's MaxAuthTries.
const MAX_AUTH_TRIES: usize = 6;

/// Time for a client to hear that the server goes, and to go first.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes, per direction, after which the server asks for new keys. OpenSSH asks after 64 GiB (AES) or 1 GiB (ChaCha20)
/// of its own accord; AES-GCM is good for 2^32 packets. The largest that russh takes.
const REKEY_BYTES: usize = 1 << 30;

/// A detached client may be silent for days, so time alone asks rarely: RFC 4253 section 9 says an hour.
const REKEY_INTERVAL: Duration = Duration::from_secs(24 * 3600);

pub(super) fn russh_config(keys: Vec<PrivateKey>) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed(concat!("SSH-2.0-bowline_", env!("CARGO_PKG_VERSION")))),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION_DELAY,
        // The "none" that every client starts with gives nothing away.
        auth_rejection_time_initial: Some(Duration::ZERO),
        max_auth_attempts: MAX_AUTH_TRIES,
        keys,
        window_size: channel_queue::OPEN_WINDOW,
        limits: Limits::new(REKEY_BYTES, REKEY_BYTES, REKEY_INTERVAL),
        preferred: Preferred {
            key: Cow::Owned(without_sha1()),
            ..Preferred::DEFAULT
        },
        // Sessions outlive their paths: silence is no reason to end one.
        inactivity_timeout: None,
        keepalive_interval: None,
        nodelay: true,
        ..Config::default()
    }
}

fn without_sha1() -> Vec<Algorithm> {
    Preferred::DEFAULT
        .key
        .iter()
        .filter(|key| !matches!(key, Algorithm::Rsa { hash: None }))
        .cloned()
        .collect()
}

/// Serves one client until it leaves, or until `stop`.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    startup: Startup,
    stop: CancellationToken,
) {
    let span = info_span!("sshd", %peer);
    async move {
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        if let Err(error) = converse(stream, peer, shared, startup, &stop, &cut).await {
            debug!(%error, "connection ended");
        }
    }
    .instrument(span)
    .await;
}

async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    startup: Startup,
    stop: &CancellationToken,
    cut: &CancellationToken,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true).map_err(russh::Error::from)?;
    let local = stream.local_addr().map_err(russh::Error::from)?;
    let russh = shared.russh.clone();
    let gives_way = startup.gives_way();
    let handler = Handler::new(shared, peer, local, cut.clone(), startup);
    let (logged_in, tasks) = (handler.logged_in(), handler.tasks());
    let grace = async {
        tokio::select! {
            biased;
            () = logged_in.cancelled() => std::future::pending().await,
            () = gives_way.cancelled() => ConnectionError::GivesWay,
            () = tokio::time::sleep(LOGIN_GRACE_TIMEOUT) => ConnectionError::LoginGrace,
        }
    };
    tokio::pin!(grace);
    let mut session = tokio::select! {
        greeted = russh::server::run_stream(russh, CancellableStream::new(stream, cut), handler) => greeted?,
        too_late = &mut grace => return Err(too_late),
        () = stop.cancelled() => return Ok(()),
    };
    let outcome = tokio::select! {
        outcome = &mut session => outcome,
        too_late = &mut grace => { cut.cancel(); (&mut session).await.and(Err(too_late)) }
        () = stop.cancelled() => farewell(&mut session, cut).await,
    };
    cut.cancel();
    tasks.close();
    tasks.wait().await;
    outcome
}

async fn farewell(session: &mut RunningSession<Handler>, cut: &CancellationToken) -> Result<(), ConnectionError> {
    let handle = session.handle();
    let leaving = async {
        let _ = handle
            .disconnect(
                Disconnect::ByApplication,
                "the server is going down".to_owned(),
                String::new(),
            )
            .await;
        (&mut *session).await
    };
    if let Ok(outcome) = tokio::time::timeout(DISCONNECT_TIMEOUT, leaving).await {
        return outcome;
    }
    cut.cancel();
    session.await
}

/// Reads and writes fail with `ConnectionAborted` from the moment its token is cancelled.
///
/// russh runs each connection in a task of its own that ends only with its stream; this makes the stream end.
pub(super) struct CancellableStream {
    stream: TcpStream,
    // One waiter for each direction: they are polled with wakers of their own.
    read_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    write_cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl CancellableStream {
    pub(super) fn new(stream: TcpStream, cut: &CancellationToken) -> CancellableStream {
        let waiter = || Box::pin(cut.clone().cancelled_owned());
        CancellableStream {
            stream,
            read_cut: waiter(),
            write_cut: waiter(),
        }
    }
}

impl AsyncRead for CancellableStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for CancellableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.write_cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
