//! Plain TCP to sshd, for hosts without a server half: no resumption, no recovery.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
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
        let len = from.read(&mut buffer).await?;
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
