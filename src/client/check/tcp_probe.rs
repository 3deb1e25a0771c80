//! TCP probes of a host to which a path failed: is it up, and do long packets arrive?
//!
//! They go to sshd's TCP port, which is open if any port is. Whether the host is up is seen without a connection that
//! sshd would notice: sshd counts connections without a login against their source address. Only the test of long
//! packets needs a connection. It sends what any SSH client may send, and ends before authentication.

use crate::clock;
use crate::tcp_info::TcpInfo;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout, timeout_at};

/// What a TCP probe of sshd's port found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortState {
    /// No answer.
    Silent,
    /// The host is up and the port is closed.
    Closed,
    /// The port is open.
    Open,
    /// The port is open; a short segment arrived and a long one did not.
    LosesLongPackets,
}

/// Payload size: such a packet does not fit a path MTU below 1400 bytes.
const LONG: usize = 1400;
/// Time for one loss and two retransmissions, for a round trip of 0.
const ACK_TIMEOUT: Duration = Duration::from_millis(700);
const POLL_INTERVAL: Duration = Duration::from_millis(30);

/// Limit for the whole test of long packets.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Probes whether the port is open, within `limit`, by half a TCP handshake: the SYN-ACK is answered with a reset, so
/// no connection is established.
pub(super) async fn probe_port(sshd: SocketAddr, limit: Duration) -> PortState {
    let connecting = async { half_open(sshd)?.connect(sshd).await };
    match timeout(limit, connecting).await {
        Ok(Ok(_reset)) => PortState::Open,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => PortState::Closed,
        _ => PortState::Silent,
    }
}

/// A socket that delays the last packet of the handshake by up to 0.2 s (TCP_QUICKACK off, tcp(7)), and is reset when
/// closed.
fn half_open(remote: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_quickack(false)?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Connects to sshd, which logs that, and tests whether a long packet arrives.
pub(super) async fn probe_long_packet(sshd: SocketAddr) -> PortState {
    let end = clock::now() + EXCHANGE_TIMEOUT;
    match timeout_at(end.into(), TcpStream::connect(sshd)).await {
        Ok(Ok(stream)) => timeout_at(end.into(), exchange(stream))
            .await
            .unwrap_or(PortState::Open),
        // It answered a moment ago.
        Ok(Err(_)) | Err(_) => PortState::Open,
    }
}

/// Sends enough to fill a packet, and waits for its acknowledgement.
async fn exchange(mut stream: TcpStream) -> PortState {
    let mut greeting = [0; 255];
    // The banner is short: it shows that packets pass, and sshd sends first.
    let greeted = matches!(timeout(ACK_TIMEOUT, stream.read(&mut greeting)).await, Ok(Ok(1..)));
    if !greeted || stream.set_nodelay(true).is_err() || stream.write_all(&long_banner()).await.is_err() {
        return PortState::Open;
    }
    let rtt = TcpInfo::of(stream.as_fd()).map_or(Duration::ZERO, |info| info.rtt);
    let arrived = async {
        while TcpInfo::of(stream.as_fd()).is_ok_and(|info| info.unacked > 0) {
            sleep(POLL_INTERVAL).await;
        }
    };
    match timeout(ACK_TIMEOUT + 3 * rtt, arrived).await {
        Ok(()) => PortState::Open,
        Err(_) => PortState::LosesLongPackets,
    }
}

/// An identification string (RFC 4253 section 4.2) and an SSH_MSG_IGNORE (section 11.2), unencrypted as before key
/// exchange.
fn long_banner() -> Vec<u8> {
    const IGNORE: u8 = 2;
    const PADDING: u8 = 4;
    let mut said = b"SSH-2.0-bowline_check\r\n".to_vec();
    // The packet length must be a multiple of eight (section 6).
    let data = (LONG as u32) & !7;
    let payload = 1 + 4 + data;
    let padding = PADDING + (8 - (4 + 1 + payload + u32::from(PADDING)) % 8) as u8 % 8;
    said.extend((1 + payload + u32::from(padding)).to_be_bytes());
    said.push(padding);
    said.push(IGNORE);
    said.extend(data.to_be_bytes());
    said.resize(said.len() + (data + u32::from(padding)) as usize, 0);
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn what_is_said_is_one_whole_ssh_message() {
        let said = long_banner();
        let packet = &said[said.iter().position(|byte| *byte == b'\n').unwrap() + 1..];
        let length = u32::from_be_bytes(packet[..4].try_into().unwrap()) as usize;
        assert_eq!(packet.len(), 4 + length);
        assert_eq!(packet.len() % 8, 0);
        assert!(packet[4] >= 4, "padding");
        assert!(said.len() > LONG);
    }

    #[tokio::test]
    async fn a_host_that_lives_is_told_from_a_closed_port_without_a_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe_port(address, ACK_TIMEOUT).await, PortState::Open);
        let heard = timeout(ACK_TIMEOUT, listener.accept()).await;
        assert!(heard.is_err(), "the listener was told of a connection");
        drop(listener);
        assert_eq!(probe_port(address, ACK_TIMEOUT).await, PortState::Closed);
    }

    #[tokio::test]
    async fn a_long_packet_that_arrives_is_no_black_hole() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-here\r\n").await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap()
        };
        let (seen, heard) = tokio::join!(probe_long_packet(address), answering);
        assert_eq!((seen, heard), (PortState::Open, long_banner().len()));
    }
}
