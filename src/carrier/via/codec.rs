//! Reads and writes relay messages. Never reads a byte beyond a message.

use bytes::{Buf, BytesMut};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::transport::NoPeerKey;
use crate::wire::{DecodeError, Quoting, RelayMessage, missing_bytes, next_message};

/// Largest read.
const READ_SIZE: usize = 2048;

/// Messages cannot be exchanged on the stream any more.
#[derive(Debug, thiserror::Error)]
pub enum RelayStreamError {
    /// The stream ended or failed.
    #[error("connection lost: {0}")]
    Lost(Quoting<io::Error>),
    /// The peer sent or accepted nothing in time.
    #[error("the other end does not respond")]
    TimedOut,
    /// The peer's address has too many connections.
    #[error("too many connections from this address")]
    TooManyConnections,
    /// The TLS handshake succeeded without a key of the peer.
    #[error(transparent)]
    NoPeerKey(#[from] NoPeerKey),
    /// The peer sent something that is not a valid message.
    #[error("the other end broke the protocol: {0}")]
    Protocol(#[from] DecodeError),
}

impl From<io::Error> for RelayStreamError {
    fn from(error: io::Error) -> RelayStreamError {
        RelayStreamError::Lost(Quoting(error))
    }
}

/// Reads one message. If the future is dropped, the bytes read so far stay in `inbox`, and the next
/// call continues with them.
///
/// # Errors
/// See [`RelayStreamError`].
pub(crate) async fn read_message<S: AsyncRead + Unpin>(
    stream: &mut S,
    inbox: &mut BytesMut,
) -> Result<RelayMessage, RelayStreamError> {
    poll_fn(|cx| poll_message(stream, inbox, cx)).await
}

fn poll_message<S: AsyncRead + Unpin>(
    stream: &mut S,
    inbox: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<Result<RelayMessage, RelayStreamError>> {
    loop {
        let missing = missing_bytes(inbox)?;
        if missing == 0
            && let Some(message) = next_message(inbox)?
        {
            return Poll::Ready(Ok(RelayMessage::decode(message)?));
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

/// Writes one message.
///
/// # Errors
/// The stream failed.
pub(crate) async fn send_message<S: AsyncWrite + Unpin>(stream: &mut S, message: &RelayMessage) -> io::Result<()> {
    let mut message = message.encode();
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
    async fn bytes_after_a_message_stay_on_the_stream() {
        let (mut near, mut far) = duplex(1024);
        send_message(&mut near, &RelayMessage::Reached).await.unwrap();
        near.write_all(b"ciphertext").await.unwrap();
        let mut inbox = BytesMut::new();
        assert_eq!(read_message(&mut far, &mut inbox).await.unwrap(), RelayMessage::Reached);
        assert!(inbox.is_empty());
        let mut rest = [0; 10];
        far.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"ciphertext");
    }

    #[tokio::test]
    async fn cancelled_read_continues_where_it_stopped() {
        let (mut near, mut far) = duplex(1024);
        let message = RelayMessage::Registered { keys: 3 }.encode();
        let mut inbox = BytesMut::new();
        for byte in &message[..message.len() - 1] {
            near.write_all(&[*byte]).await.unwrap();
            let given_up = poll_fn(|cx| Poll::Ready(poll_message(&mut far, &mut inbox, cx).is_pending()));
            assert!(given_up.await);
        }
        near.write_all(&message[message.len() - 1..]).await.unwrap();
        let read = read_message(&mut far, &mut inbox).await.unwrap();
        assert_eq!(read, RelayMessage::Registered { keys: 3 });
    }

    #[tokio::test]
    async fn too_long_message_is_refused_by_its_length() {
        let (mut near, mut far) = duplex(1024);
        near.write_all(&[0xbf, 0xff, 0xff, 0xff]).await.unwrap();
        let error = read_message(&mut far, &mut BytesMut::new()).await.unwrap_err();
        assert!(matches!(
            error,
            RelayStreamError::Protocol(DecodeError::TooLarge { .. })
        ));
    }
}
