//! One byte stream between a half and a relay, over QUIC or TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::RelayTransport;
use crate::transport::{Duplex, unmapped};

/// QUIC error code for a stream that ends because the other half's stream failed.
const BROKEN: quinn::VarInt = quinn::VarInt::from_u32(1);

/// A byte stream between two halves through a relay: the part between this end and the relay, or,
/// at the relay, between the relay and one half.
///
/// Dropping it ends both directions, and unacknowledged bytes are lost. Call
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) first, which waits for the acknowledgement.
pub struct ViaStream {
    inner: Inner,
    remote: SocketAddr,
    /// Counts the stream until it is dropped.
    _live: Option<LiveStream>,
}

enum Inner {
    Quic(Box<QuicStream>),
    Tls(Box<TlsStream<Box<dyn Duplex>>>),
}

struct QuicStream {
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    closed: Option<Stopped>,
    /// The outcome of the shutdown, for a second caller: TLS inside the stream shuts down too.
    ended: Option<Result<(), io::ErrorKind>>,
}

type Stopped = Pin<Box<dyn Future<Output = Result<Option<quinn::VarInt>, quinn::StoppedError>> + Send + Sync>>;

/// Counts open streams.
pub(super) struct LiveStream(Arc<AtomicUsize>);

impl LiveStream {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> LiveStream {
        count.fetch_add(1, Relaxed);
        LiveStream(Arc::clone(count))
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl ViaStream {
    pub(crate) fn of_quic(
        connection: quinn::Connection,
        (send, recv): (quinn::SendStream, quinn::RecvStream),
    ) -> ViaStream {
        let remote = unmapped(connection.remote_address());
        let leg = QuicStream {
            connection,
            send,
            recv,
            closed: None,
            ended: None,
        };
        ViaStream {
            inner: Inner::Quic(Box::new(leg)),
            remote,
            _live: None,
        }
    }

    pub(crate) fn of_tls(stream: TlsStream<Box<dyn Duplex>>, remote: SocketAddr) -> ViaStream {
        ViaStream {
            inner: Inner::Tls(Box::new(stream)),
            remote,
            _live: None,
        }
    }

    /// Counts this stream for as long as it is open.
    pub(super) fn counted(self, live: LiveStream) -> ViaStream {
        ViaStream {
            _live: Some(live),
            ..self
        }
    }

    /// The transport of this stream.
    pub fn transport(&self) -> RelayTransport {
        match &self.inner {
            Inner::Quic(_) => RelayTransport::Quic,
            Inner::Tls(_) => RelayTransport::Tls,
        }
    }

    /// The peer's address: for a half, the relay's.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The QUIC connection of the stream, if it has one.
    pub(crate) fn connection(&self) -> Option<&quinn::Connection> {
        match &self.inner {
            Inner::Quic(quic) => Some(&quic.connection),
            Inner::Tls(_) => None,
        }
    }

    /// Ends both directions with an error instead of a clean end of stream.
    pub(crate) fn abort(mut self) {
        if let Inner::Quic(quic) = &mut self.inner {
            // Either direction may have ended before.
            let _ = quic.send.reset(BROKEN);
            let _ = quic.recv.stop(BROKEN);
        }
    }
}

/// No transport statistics: those of this part say nothing about the other part.
impl Duplex for ViaStream {}

impl AsyncRead for ViaStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Quic(quic) => AsyncRead::poll_read(Pin::new(&mut quic.recv), cx, buffer),
            Inner::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ViaStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Quic(quic) => AsyncWrite::poll_write(Pin::new(&mut quic.send), cx, bytes),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Quic(_) => Poll::Ready(Ok(())),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Over QUIC ready once the relay has acknowledged everything.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Quic(quic) => quic.poll_end(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl QuicStream {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let QuicStream {
            send, closed, ended, ..
        } = self;
        if let Some(ended) = *ended {
            return Poll::Ready(ended.map_err(io::Error::from));
        }
        let closed = closed.get_or_insert_with(|| {
            // Fails if the stream has ended already; `stopped` then resolves immediately.
            let _ = send.finish();
            Box::pin(send.stopped())
        });
        let came = match ready!(closed.as_mut().poll(cx)) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(io::ErrorKind::BrokenPipe),
            Err(error) => Err(io::Error::from(error).kind()),
        };
        *ended = Some(came);
        Poll::Ready(came.map_err(io::Error::from))
    }
}
