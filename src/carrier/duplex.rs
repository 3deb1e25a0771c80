//! Byte streams that a carrier can stand on.

use crate::tcp_info::TcpInfo;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// An ordered stream of bytes both ways, with half-close.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {
    /// What is known of the path; `None` where it is not one TCP connection from end to end.
    fn reading(&self) -> Option<Reading> {
        None
    }
}

/// What the system sees of a path, whatever is read from it.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Packets received; wraps around.
    pub heard: u32,
}

impl Duplex for TcpStream {
    fn reading(&self) -> Option<Reading> {
        let info = TcpInfo::of(self.as_fd()).ok()?;
        Some(Reading {
            rtt: info.rtt,
            heard: info.segments,
        })
    }
}

impl<D: Duplex + ?Sized> Duplex for Box<D> {
    fn reading(&self) -> Option<Reading> {
        (**self).reading()
    }
}

/// Any stream of whose path nothing is known.
pub struct Opaque<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for Opaque<S> {}

impl<S: AsyncRead + Unpin> AsyncRead for Opaque<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opaque<S> {
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
