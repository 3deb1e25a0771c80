//! Finds out quickly that nothing listens on a UDP port.
//!
//! QUIC's own sockets are not connected, so the kernel does not tell them of ICMP errors; a connected one hears.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Hosts tell it a few times at once, then once a second (Linux: icmp_ratelimit): the first may go unanswered.
const AGAIN: Duration = Duration::from_millis(1100);

/// Returns when the system or the network says that `remote` cannot be reached; else never.
///
/// One byte is sent now and then, which no QUIC server answers.
pub(super) async fn unreachable(remote: SocketAddr) -> io::Error {
    match probe(remote).await {
        Err(error) => error,
        // An answer to a byte of nothing is no bowline, but no proof of its absence either.
        Ok(()) => std::future::pending().await,
    }
}

async fn probe(remote: SocketAddr) -> io::Result<()> {
    let local: SocketAddr = if remote.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }
        .parse()
        .map_err(io::Error::other)?;
    let socket = UdpSocket::bind(local).await?;
    socket.connect(remote).await?;
    loop {
        socket.send(&[0]).await?;
        if let Ok(heard) = timeout(AGAIN, socket.recv(&mut [0])).await {
            return heard.map(|_| ());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_told_at_once() {
        let free = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(unreachable(free).await.kind(), io::ErrorKind::ConnectionRefused);
    }
}
