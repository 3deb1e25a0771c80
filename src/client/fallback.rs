//! Plain TCP to sshd, for hosts without a server half: no resumption, no recovery.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Bytes moved at once.
const BUFFER: usize = 64 * 1024;

/// Connects to the first of `host`'s addresses that answers, within `limit`.
///
/// # Errors
/// The last address's error, or the time limit.
pub async fn connect(host: &str, port: u16, limit: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = timeout(limit, TcpStream::connect((host, port)));
    let stream = stream.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let address = stream.peer_addr()?;
    Ok((stream, address))
}

/// Carries bytes both ways until the server's direction has ended.
///
/// # Errors
/// Reading or writing failed; a closed pipe is an end, not an error.
pub async fn splice<R, W>(stream: TcpStream, input: R, output: W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (from_server, to_server) = stream.into_split();
    let up = copy(input, to_server);
    let down = copy(from_server, output);
    tokio::pin!(up, down);
    let mut up_is_done = false;
    loop {
        tokio::select! {
            ended = &mut down => return ended,
            ended = &mut up, if !up_is_done => {
                ended?;
                up_is_done = true;
            }
        }
    }
}

async fn copy<R, W>(mut from: R, mut to: W) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let Some(len) = read(&mut from, &mut to, &mut buffer).await? else {
            return Ok(());
        };
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        match to.write_all(bytes).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
    }
    match to.shutdown().await {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        ended => ended,
    }
}

/// What comes next from one end; `None` if the other takes no more.
async fn read<R, W>(from: &mut R, to: &mut W, buffer: &mut [u8]) -> io::Result<Option<usize>>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let mut filled = ReadBuf::new(buffer);
        if let Poll::Ready(read) = Pin::new(&mut *from).poll_read(cx, &mut filled) {
            return Poll::Ready(read.map(|()| Some(filled.filled().len())));
        }
        match Pin::new(&mut *to).poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}
