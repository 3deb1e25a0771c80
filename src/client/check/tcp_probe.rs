//! A second look at an address where a path failed: does the host live, and do long packets get there?
//!
//! At sshd's own TCP port, since that is the one that is open where any is. Whether the host lives is seen without a
//! connection that sshd would learn of: it counts connections without a login against the address that they come from.
//! Only the probe about long packets needs one. What is said there is what any SSH client may say, and it ends before
//! a login begins.

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

/// What TCP to sshd's port told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PortState {
    /// Nothing came back.
    Silent,
    /// The host lives, and nobody listens at that port.
    Closed,
    /// Somebody listens.
    Open,
    /// Somebody listens, and a long segment did not get there while a short one did.
    LosesLongPackets,
}

/// A packet that fits no path of less than 1400 bytes.
const LONG: usize = 1400;
/// Room for a loss and two repeats of TCP, from a round trip of 0 on.
const ACK_TIMEOUT: Duration = Duration::from_millis(700);
const POLL_INTERVAL: Duration = Duration::from_millis(30);

/// For the long packet, in all.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Sees whether the host lives, for `limit` at most, by half of a TCP handshake: the answer to its first packet is
/// answered with a reset, so that no connection comes about.
pub(super) async fn probe_port(sshd: SocketAddr, limit: Duration) -> PortState {
    let connecting = async { half_open(sshd)?.connect(sshd).await };
    match timeout(limit, connecting).await {
        Ok(Ok(_reset)) => PortState::Open,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => PortState::Closed,
        _ => PortState::Silent,
    }
}

/// A socket whose last packet of a handshake waits for data, 0.2 s at most (TCP_QUICKACK off, tcp(7)), and that is reset
/// when it is closed.
fn half_open(remote: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_quickack(false)?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Connects to sshd, which logs it, and sees whether a long packet gets there.
pub(super) async fn probe_long_packet(sshd: SocketAddr) -> PortState {
    let end = clock::now() + EXCHANGE_TIMEOUT;
    match timeout_at(end.into(), TcpStream::connect(sshd)).await {
        Ok(Ok(stream)) => timeout_at(end.into(), talk(stream)).await.unwrap_or(PortState::Open),
        // It answered a moment ago.
        Ok(Err(_)) | Err(_) => PortState::Open,
    }
}

/// Says so much that it fills a packet, and sees whether that arrives.
async fn talk(mut stream: TcpStream) -> PortState {
    let mut greeting = [0; 255];
    // Short: shows that something gets through, and is sshd's turn in any case.
    let greeted = matches!(timeout(ACK_TIMEOUT, stream.read(&mut greeting)).await, Ok(Ok(1..)));
    if !greeted || stream.set_nodelay(true).is_err() || stream.write_all(&long_greeting()).await.is_err() {
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

/// An identification line (RFC 4253 section 4.2), and a message to be ignored (section 11.2), unencrypted as all are
/// before keys are exchanged.
fn long_greeting() -> Vec<u8> {
    const IGNORE: u8 = 2;
    const PADDING: u8 = 4;
    let mut said = b"SSH-2.0-bowline_check\r\n".to_vec();
    // Length, padding and all are a multiple of eight (section 6).
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
        let said = long_greeting();
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
        assert_eq!((seen, heard), (PortState::Open, long_greeting().len()));
    }
}
