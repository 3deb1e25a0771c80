//! What the local program says before there is a session.
//!
//! ssh says who it is at once, and sshd's next word waits for it: sent along with the open, these bytes save a round trip.

use crate::wire::MAX_FIRST;
use bytes::{Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// An input, of which the first bytes may have been read already. Gives them too, but for those that went with an open.
#[derive(Debug)]
pub struct FirstWords<R> {
    said: BytesMut,
    input: R,
}

impl<R> FirstWords<R> {
    /// An input that nothing was read from.
    pub fn new(input: R) -> FirstWords<R> {
        FirstWords {
            said: BytesMut::new(),
            input,
        }
    }

    /// What was read so far, at most [`MAX_FIRST`] bytes.
    pub(super) fn so_far(&self) -> Bytes {
        Bytes::copy_from_slice(&self.said)
    }

    /// Takes what was read: it has been told, and is not given any more.
    pub(super) fn take(&mut self) -> Bytes {
        self.said.split().freeze()
    }
}

impl<R: AsyncRead + Unpin> FirstWords<R> {
    /// Reads what comes, for as long as it is polled. Never ends; nothing is lost when it is dropped.
    pub(super) async fn listen(&mut self) -> ! {
        while let room @ 1.. = MAX_FIRST - self.said.len() {
            // An end or an error is there for whoever reads next.
            if !matches!(
                (&mut self.input).take(room as u64).read_buf(&mut self.said).await,
                Ok(1..)
            ) {
                break;
            }
        }
        std::future::pending().await
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for FirstWords<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.said.is_empty() {
            return Pin::new(&mut self.input).poll_read(cx, buf);
        }
        let len = self.said.len().min(buf.remaining());
        buf.put_slice(&self.said.split_to(len));
        Poll::Ready(Ok(()))
    }
}
