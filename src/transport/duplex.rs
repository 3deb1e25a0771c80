//! Byte streams under TLS.

use crate::tcp_info::TcpInfo;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

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
