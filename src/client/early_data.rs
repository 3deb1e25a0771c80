//! Bytes that the local program writes before the session is open.
//!
//! ssh sends its identification string at once, and sshd waits for it. If the bytes are sent with the open, they save
//! a round trip.

use crate::wire::MAX_FIRST;
use bytes::{Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// An input and the bytes already read from it. Reading returns those bytes first, except the ones that were sent
/// with the open.
#[derive(Debug)]
pub struct EarlyData<R> {
    buffered: BytesMut,
    input: R,
}

impl<R> EarlyData<R> {
    /// Wraps an input that nothing was read from.
    pub fn new(input: R) -> EarlyData<R> {
        EarlyData {
            buffered: BytesMut::new(),
            input,
        }
    }

    /// The bytes read so far, at most [`MAX_FIRST`].
    pub(super) fn peek(&self) -> Bytes {
        Bytes::copy_from_slice(&self.buffered)
    }

    /// Takes the bytes read so far: they were sent with the open, and are not read again.
    pub(super) fn take(&mut self) -> Bytes {
        self.buffered.split().freeze()
    }
}

impl<R: AsyncRead + Unpin> EarlyData<R> {
    /// Reads into the buffer for as long as it is polled. Never returns; cancel safe.
    pub(super) async fn read_ahead(&mut self) -> ! {
        while let room @ 1.. = MAX_FIRST - self.buffered.len() {
            // The next reader gets the end of input, or the error.
            if !matches!(
                (&mut self.input).take(room as u64).read_buf(&mut self.buffered).await,
                Ok(1..)
            ) {
                break;
            }
        }
        std::future::pending().await
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for EarlyData<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffered.is_empty() {
            return Pin::new(&mut self.input).poll_read(cx, buf);
        }
        let len = self.buffered.len().min(buf.remaining());
        buf.put_slice(&self.buffered.split_to(len));
        Poll::Ready(Ok(()))
    }
}
