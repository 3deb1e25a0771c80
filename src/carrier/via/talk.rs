//! Words on a stream: whole ones, and never a byte of what follows.

use bytes::{Buf, BytesMut};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::wire::{DecodeError, Quoting, RelayWord, missing_bytes, next_message};

/// Most bytes taken in one read.
const READ_SIZE: usize = 2048;

/// The talk with the other end of a leg cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The stream ended or broke.
    #[error("connection lost: {0}")]
    Lost(Quoting<io::Error>),
    /// What came is no word of the protocol.
    #[error("the other end broke the protocol: {0}")]
    Protocol(#[from] DecodeError),
}

impl From<io::Error> for TalkError {
    fn from(error: io::Error) -> TalkError {
        TalkError::Lost(Quoting(error))
    }
}

/// Reads one word. What was read of it stays in `inbox` where the future is dropped: it goes on there.
///
/// # Errors
/// See [`TalkError`].
pub(crate) async fn read_word<S: AsyncRead + Unpin>(
    stream: &mut S,
    inbox: &mut BytesMut,
) -> Result<RelayWord, TalkError> {
    poll_fn(|cx| poll_word(stream, inbox, cx)).await
}

fn poll_word<S: AsyncRead + Unpin>(
    stream: &mut S,
    inbox: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<Result<RelayWord, TalkError>> {
    loop {
        let missing = missing_bytes(inbox)?;
        if missing == 0
            && let Some(message) = next_message(inbox)?
        {
            return Poll::Ready(Ok(RelayWord::decode(message)?));
        }
        let mut room = [0; READ_SIZE];
        let mut buffer = ReadBuf::new(&mut room[..missing.min(READ_SIZE)]);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
        }
        inbox.extend_from_slice(buffer.filled());
    }
}

/// Sends one word.
///
/// # Errors
/// The stream broke.
pub(crate) async fn send_word<S: AsyncWrite + Unpin>(stream: &mut S, word: &RelayWord) -> io::Result<()> {
    let mut message = word.encode();
    while message.has_remaining() {
        stream.write_buf(&mut message).await?;
    }
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, duplex};

    #[tokio::test]
    async fn what_follows_a_word_is_left_on_the_stream() {
        let (mut near, mut far) = duplex(1024);
        send_word(&mut near, &RelayWord::Reached).await.unwrap();
        near.write_all(b"ciphertext").await.unwrap();
        let mut inbox = BytesMut::new();
        assert_eq!(read_word(&mut far, &mut inbox).await.unwrap(), RelayWord::Reached);
        assert!(inbox.is_empty());
        let mut rest = [0; 10];
        far.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"ciphertext");
    }

    #[tokio::test]
    async fn a_read_that_was_given_up_goes_on_where_it_was() {
        let (mut near, mut far) = duplex(1024);
        let word = RelayWord::Registered { keys: 3 }.encode();
        let mut inbox = BytesMut::new();
        for byte in &word[..word.len() - 1] {
            near.write_all(&[*byte]).await.unwrap();
            let given_up = poll_fn(|cx| Poll::Ready(poll_word(&mut far, &mut inbox, cx).is_pending()));
            assert!(given_up.await);
        }
        near.write_all(&word[word.len() - 1..]).await.unwrap();
        let read = read_word(&mut far, &mut inbox).await.unwrap();
        assert_eq!(read, RelayWord::Registered { keys: 3 });
    }

    #[tokio::test]
    async fn a_word_that_is_too_long_is_refused_at_its_length() {
        let (mut near, mut far) = duplex(1024);
        near.write_all(&[0xbf, 0xff, 0xff, 0xff]).await.unwrap();
        let error = read_word(&mut far, &mut BytesMut::new()).await.unwrap_err();
        assert!(matches!(error, TalkError::Protocol(DecodeError::TooLarge { .. })));
    }
}
