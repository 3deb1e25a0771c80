//! Forwarded connections: to where the client asks (`-L`, `-D`, `-W`, `-J`), and from ports here to the client (`-R`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{ChannelOpenFailure, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::channel::{ChannelIo, Channels};
use super::channel_queue::QueueReader;

/// Bytes read from a socket at once: one SSH packet.
const READ_BYTES: usize = 32 * 1024;

/// Time for one write to a socket that does not take it, after the client has gone.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Joins a channel with a TCP connection to `host`, or refuses it.
pub(super) async fn connect_tcp(io: ChannelIo, reply: ChannelOpenHandle, host: String, port: u16) {
    let connected = tokio::select! {
        connected = TcpStream::connect((host.as_str(), port)) => connected,
        () = io.closed.cancelled() => return,
    };
    if let Ok(stream) = &connected {
        let _ = stream.set_nodelay(true);
    }
    accept_if(connected, io, reply).await;
}

/// Joins a channel with a Unix socket, or refuses it.
pub(super) async fn connect_unix(io: ChannelIo, reply: ChannelOpenHandle, path: PathBuf) {
    let connected = tokio::select! {
        connected = UnixStream::connect(path) => connected,
        () = io.closed.cancelled() => return,
    };
    accept_if(connected, io, reply).await;
}

async fn accept_if<S: AsyncRead + AsyncWrite>(connected: io::Result<S>, io: ChannelIo, reply: ChannelOpenHandle) {
    match connected {
        Ok(stream) => {
            reply.accept().await;
            join(io, stream).await;
        }
        Err(error) => {
            debug!(%error, "forwarding refused");
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
        }
    }
}

/// Carries both directions, each to its own end.
pub(super) async fn join<S: AsyncRead + AsyncWrite>(mut io: ChannelIo, stream: S) {
    let (from, to) = tokio::io::split(stream);
    let (client_done, ()) = tokio::join!(
        upload(&mut io.queue, to, &io.closed),
        download(from, &io.writer, &io.closed)
    );
    if client_done {
        io.close_last().await
    } else {
        io.close().await
    }
}

/// Says whether the client ended it.
///
/// Clients send their last bytes, EOF and CLOSE, and go, all in one breath: what came before the end is still written.
async fn upload(queue: &mut QueueReader, mut to: impl AsyncWrite + Unpin, closed: &CancellationToken) -> bool {
    let mut broken = false;
    while !broken {
        let data = tokio::select! {
            biased;
            data = queue.next() => data,
            () = closed.cancelled() => None,
        };
        let Some(data) = data else { break };
        broken = tokio::select! {
            written = to.write_all(&data) => written.is_err(),
            () = stuck(closed) => true,
        };
    }
    queue.discard();
    let _ = to.shutdown().await;
    !broken
}

async fn stuck(closed: &CancellationToken) {
    closed.cancelled().await;
    tokio::time::sleep(LAST_WRITE_TIMEOUT).await;
}

async fn download(mut from: impl AsyncRead + Unpin, writer: &ChannelWriteHalf<Msg>, closed: &CancellationToken) {
    let mut buffer = BytesMut::new();
    let carry = async {
        loop {
            buffer.reserve(READ_BYTES);
            let read = from.read_buf(&mut buffer).await;
            if !matches!(read, Ok(1..)) || writer.data_bytes(buffer.split().freeze()).await.is_err() {
                break;
            }
        }
        let _ = writer.eof().await;
    };
    tokio::select! {
        () = carry => {}
        () = closed.cancelled() => {}
    }
}

/// What a client asked to have forwarded to it, in its own words: it finds its request by them.
#[derive(Clone)]
pub(super) struct Forwarded {
    pub(super) address: String,
    pub(super) port: u16,
}

/// A port here, forwarded to the client.
pub(super) struct Remote {
    pub(super) origin: Forwarded,
    pub(super) handle: Handle,
    pub(super) channels: Channels,
    /// Cancelled when the client takes the request back.
    pub(super) stop: CancellationToken,
    /// Cancelled when the connection ends.
    pub(super) connection: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// Binds a port, on the loopback addresses only, as sshd does without GatewayPorts. Port 0 takes a free one.
pub(super) async fn listen(port: u16) -> Option<(u16, Vec<TcpListener>)> {
    let v4 = bind(Ipv4Addr::LOCALHOST.into(), port).await;
    let port = v4
        .as_ref()
        .and_then(|listener| listener.local_addr().ok())
        .map_or(port, |address| address.port());
    let v6 = bind(Ipv6Addr::LOCALHOST.into(), port).await;
    let port = v6
        .as_ref()
        .and_then(|listener| listener.local_addr().ok())
        .map_or(port, |address| address.port());
    let listeners: Vec<_> = v4.into_iter().chain(v6).collect();
    (!listeners.is_empty()).then_some((port, listeners))
}

async fn bind(address: IpAddr, port: u16) -> Option<TcpListener> {
    TcpListener::bind((address, port))
        .await
        .inspect_err(|error| debug!(%address, port, %error, "cannot listen on a forwarded port"))
        .ok()
}

impl Remote {
    /// Brings every connection to the client, until `stop`.
    pub(super) async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(_) if self.channels.is_full() => debug!("forwarding refused: too many channels"),
                Ok((stream, peer)) => self.bring(stream, peer),
                Err(error) => {
                    warn!(%error, "stopped listening on a forwarded port");
                    return;
                }
            }
        }
    }

    fn bring(&self, stream: TcpStream, peer: SocketAddr) {
        let (handle, channels, origin) = (self.handle.clone(), self.channels.clone(), self.origin.clone());
        let connection = self.connection.clone();
        self.tasks.spawn(async move {
            let _ = stream.set_nodelay(true);
            let port = u32::from(origin.port);
            let peer_port = u32::from(peer.port());
            let opening = handle.channel_open_forwarded_tcpip(origin.address, port, peer.ip().to_string(), peer_port);
            let opened = tokio::select! {
                opened = opening => opened,
                () = connection.cancelled() => return,
            };
            match opened {
                Ok(channel) => join(channels.claim(channel), stream).await,
                Err(error) => debug!(%error, "the client refused a forwarded connection"),
            }
        });
    }
}
