//! Detects quickly that a UDP port is closed or unreachable.
//!
//! QUIC sockets are not connected, so the kernel does not report ICMP errors on them. A connected socket gets them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Hosts send a few ICMP errors at once and then one per second (Linux: icmp_ratelimit), so the first probe may go
/// unanswered.
const PROBE_INTERVAL: Duration = Duration::from_millis(1100);

/// Returns the error if the system or the network reports that `remote` is unreachable; otherwise never returns.
///
/// Sends one byte per interval. QUIC servers ignore it.
pub(super) async fn icmp_error(remote: SocketAddr) -> io::Error {
    match probe(remote).await {
        Err(error) => error,
        // Something that is not bowline answered; the QUIC dial decides.
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
        if let Ok(heard) = timeout(PROBE_INTERVAL, socket.recv(&mut [0])).await {
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
        assert_eq!(icmp_error(free).await.kind(), io::ErrorKind::ConnectionRefused);
    }
}
