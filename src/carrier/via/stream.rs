//! One byte stream by way of a relay, whatever the leg to the relay is made of.

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
use crate::carrier::Duplex;

/// QUIC's error code for a stream whose other leg broke.
const BROKEN: quinn::VarInt = quinn::VarInt::from_u32(1);

/// A byte stream between two halves, one leg of it: this end to the relay, or the relay to one end.
///
/// Dropped it ends both directions; what the other end has not acknowledged by then is lost, so
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) first, which waits for that.
pub struct ViaStream {
    leg: Leg,
    remote: SocketAddr,
    /// Counted until it is dropped.
    _live: Option<Live>,
}

enum Leg {
    Quic(Box<QuicLeg>),
    Tls(Box<TlsStream<Box<dyn Duplex>>>),
}

struct QuicLeg {
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    ending: Option<Ending>,
    /// How that came out: who shuts down a second time, as TLS in the stream does, is told the same.
    ended: Option<Result<(), io::ErrorKind>>,
}

type Ending = Pin<Box<dyn Future<Output = Result<Option<quinn::VarInt>, quinn::StoppedError>> + Send + Sync>>;

/// Counts the streams that live.
pub(super) struct Live(Arc<AtomicUsize>);

impl Live {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Live {
        count.fetch_add(1, Relaxed);
        Live(Arc::clone(count))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl ViaStream {
    pub(crate) fn of_quic(
        connection: quinn::Connection,
        (send, recv): (quinn::SendStream, quinn::RecvStream),
    ) -> ViaStream {
        let remote = crate::carrier::quic::unmapped(connection.remote_address());
        let leg = QuicLeg {
            connection,
            send,
            recv,
            ending: None,
            ended: None,
        };
        ViaStream {
            leg: Leg::Quic(Box::new(leg)),
            remote,
            _live: None,
        }
    }

    pub(super) fn of_tls(stream: TlsStream<Box<dyn Duplex>>, remote: SocketAddr) -> ViaStream {
        ViaStream {
            leg: Leg::Tls(Box::new(stream)),
            remote,
            _live: None,
        }
    }

    /// The same, counted for as long as it lives.
    pub(super) fn counted(self, live: Live) -> ViaStream {
        ViaStream {
            _live: Some(live),
            ..self
        }
    }

    /// What the leg is made of.
    pub fn transport(&self) -> RelayTransport {
        match &self.leg {
            Leg::Quic(_) => RelayTransport::Quic,
            Leg::Tls(_) => RelayTransport::Tls,
        }
    }

    /// The other end of the leg: for a half the relay.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// The connection that the stream is one of, where there is one.
    pub(crate) fn connection(&self) -> Option<&quinn::Connection> {
        match &self.leg {
            Leg::Quic(quic) => Some(&quic.connection),
            Leg::Tls(_) => None,
        }
    }

    /// Ends both directions so that the other end sees a break, never a clean end.
    pub(crate) fn abort(mut self) {
        if let Leg::Quic(quic) = &mut self.leg {
            // Either may have ended before.
            let _ = quic.send.reset(BROKEN);
            let _ = quic.recv.stop(BROKEN);
        }
    }
}

/// What is known of the leg says nothing of the other one.
impl Duplex for ViaStream {}

impl AsyncRead for ViaStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.leg {
            Leg::Quic(quic) => AsyncRead::poll_read(Pin::new(&mut quic.recv), cx, buffer),
            Leg::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ViaStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.leg {
            Leg::Quic(quic) => AsyncWrite::poll_write(Pin::new(&mut quic.send), cx, bytes),
            Leg::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.leg {
            Leg::Quic(_) => Poll::Ready(Ok(())),
            Leg::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Ready when the relay has everything, where the kind can tell.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.leg {
            Leg::Quic(quic) => quic.poll_end(cx),
            Leg::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl QuicLeg {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let QuicLeg {
            send, ending, ended, ..
        } = self;
        if let Some(ended) = *ended {
            return Poll::Ready(ended.map_err(io::Error::from));
        }
        let ending = ending.get_or_insert_with(|| {
            // Fails for a stream that has ended: waiting for that gives the same.
            let _ = send.finish();
            Box::pin(send.stopped())
        });
        let came = match ready!(ending.as_mut().poll(cx)) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(io::ErrorKind::BrokenPipe),
            Err(error) => Err(io::Error::from(error).kind()),
        };
        *ended = Some(came);
        Poll::Ready(came.map_err(io::Error::from))
    }
}
