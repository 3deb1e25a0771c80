//! Plain TCP to sshd, for hosts without a server half. The session ends if the connection breaks.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Size of each copy buffer.
const BUFFER: usize = 64 * 1024;

/// Connects to the first address of `host` that accepts, within `limit`.
///
/// # Errors
/// The error of the last address, or `TimedOut`.
pub async fn connect(host: &str, port: u16, limit: Duration) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = timeout(limit, TcpStream::connect((host, port)));
    let stream = stream.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let address = stream.peer_addr()?;
    Ok((stream, address))
}

/// Copies bytes in both directions until the server closes its direction.
///
/// # Errors
/// Reading or writing failed. A closed pipe is the normal end.
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

/// Reads the next bytes; `None` if the other side is closed.
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
