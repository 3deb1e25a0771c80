//! TLS 1.3 over one ordered byte stream, for networks that block UDP.
//!
//! An end with TLS' `close_notify` means that the peer was done ([`CloseReason::Done`]); any other
//! end has no meaning.
//!
//! [`CloseReason::Done`]: super::CloseReason::Done

use super::{ConnectError, NO_NAME};
use crate::identity::raw_key::{self, ServerKey, TlsConfigError, TlsKey};
use crate::tcp_info::TcpInfo;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// Most unsent bytes in the kernel's buffer. Later frames cannot overtake them: an ack, or the
/// answer to a probe, would wait behind megabytes of upload.
const NOTSENT_LOWAT: u32 = 64 * 1024;

/// A TLS record (RFC 8446 section 5.1) with the fatal alert internal_error, the only alert that
/// blames neither end.
const BUSY_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Equal to QUIC's idle timeout. Probes detect a dead carrier much earlier.
const DEAD_TIMEOUT: Duration = Duration::from_secs(45);
const KEEPALIVES: u32 = 3;

/// Connects to a TCP port and sets the socket options of [`tune`]. Dropping the future cancels the
/// attempt.
///
/// # Errors
/// As connect(2).
pub async fn connect(remote: SocketAddr) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect(remote).await.map_err(ConnectError::Unreachable)?;
    tune(&stream).map_err(ConnectError::Unreachable)?;
    Ok(stream)
}

/// Sets socket options: no delay for small writes, a short send queue, and keepalives.
///
/// # Errors
/// As setsockopt(2).
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(DEAD_TIMEOUT / KEEPALIVES)
        .with_interval(DEAD_TIMEOUT / KEEPALIVES)
        .with_retries(KEEPALIVES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(DEAD_TIMEOUT))?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)
}

/// Refuses a connection before its handshake, with an alert that means "try again later", if that
/// can be sent without blocking.
pub(crate) fn turn_away(mut stream: impl Duplex) {
    let mut cx = Context::from_waker(Waker::noop());
    // Unread bytes would turn the close into a reset, which may discard the alert.
    let mut heard = [0; 4096];
    let _ = Pin::new(&mut stream).poll_read(&mut cx, &mut ReadBuf::new(&mut heard));
    let _ = Pin::new(&mut stream).poll_write(&mut cx, &BUSY_ALERT);
    let _ = Pin::new(&mut stream).poll_flush(&mut cx);
    let _ = Pin::new(&mut stream).poll_shutdown(&mut cx);
}

/// Completes a handshake over `stream` as the client, and authenticates with `key`.
///
/// # Errors
/// The stream failed, the server key is not accepted, or the server does not speak `alpn`.
pub async fn dial(
    stream: Box<dyn Duplex>,
    key: &TlsKey,
    accept: ServerKey,
    alpn: &[u8],
) -> Result<TlsStream<Box<dyn Duplex>>, ConnectError> {
    let config = raw_key::client_config(key, accept, alpn).map_err(super::ConfigError::from)?;
    let name = ServerName::try_from(NO_NAME).expect("a well-formed name");
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    Ok(connected.map_err(ConnectError::tls)?.into())
}

/// The server's side of TLS.
#[derive(Clone)]
pub struct TlsServer {
    acceptor: TlsAcceptor,
}

impl TlsServer {
    /// Authenticates with `key` and speaks `alpn`.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(key: &TlsKey, alpn: &[u8]) -> Result<TlsServer, TlsConfigError> {
        let config = Arc::new(raw_key::server_config(key, alpn)?);
        Ok(TlsServer {
            acceptor: TlsAcceptor::from(config),
        })
    }

    /// Completes one handshake over `stream`.
    ///
    /// # Errors
    /// The stream failed, or the client speaks something else.
    pub async fn handshake(&self, stream: Box<dyn Duplex>) -> io::Result<TlsStream<Box<dyn Duplex>>> {
        Ok(self.acceptor.accept(stream).await?.into())
    }
}

impl Duplex for TlsStream<Box<dyn Duplex>> {
    fn transport_stats(&self) -> Option<TransportStats> {
        self.get_ref().0.transport_stats()
    }
}

/// An ordered, bidirectional byte stream with half-close.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// Statistics of the transport; `None` unless the stream is one TCP connection from end to end.
    fn transport_stats(&self) -> Option<TransportStats> {
        None
    }
}

/// What the kernel knows of a connection, whether or not the program reads.
#[derive(Clone, Copy, Debug)]
pub struct TransportStats {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Packets received; wraps around.
    pub heard: u32,
}

impl Duplex for TcpStream {
    fn transport_stats(&self) -> Option<TransportStats> {
        let info = TcpInfo::of(self.as_fd()).ok()?;
        Some(TransportStats {
            rtt: info.rtt,
            heard: info.segments,
        })
    }
}

impl<D: Duplex + ?Sized> Duplex for Box<D> {
    fn transport_stats(&self) -> Option<TransportStats> {
        (**self).transport_stats()
    }
}

/// A stream without transport statistics.
pub struct WithoutStats<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for WithoutStats<S> {}

impl<S: AsyncRead + Unpin> AsyncRead for WithoutStats<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithoutStats<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
