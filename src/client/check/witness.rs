//! A second look at an address where a path failed: does the host live, and do long packets get there?
//!
//! By a TCP connection to sshd's own port, since that is the one that is open where any is. What is said there is what
//! any SSH client may say, and the connection ends before a login begins.

use crate::clock;
use crate::tcp_info::TcpInfo;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout, timeout_at};

/// What TCP to sshd's port told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tcp {
    /// Nothing came back.
    Silent,
    /// The host lives, and nobody listens at that port.
    Refused,
    /// Somebody listens.
    Connects,
    /// Somebody listens, and a long segment did not get there while a short one did.
    LongLost,
}

/// A packet that fits no path of less than 1400 bytes.
const LONG: usize = 1400;
/// Room for a loss and two repeats of TCP, from a round trip of 0 on.
const ACK_TIME: Duration = Duration::from_millis(700);
const LOOK: Duration = Duration::from_millis(30);

/// Looks at the host, for `limit` at most.
pub(super) async fn look_at(ip: IpAddr, ssh_port: u16, limit: Duration) -> Tcp {
    let end = clock::now() + limit;
    match timeout_at(end.into(), TcpStream::connect(SocketAddr::new(ip, ssh_port))).await {
        Ok(Ok(stream)) => timeout_at(end.into(), talk(stream)).await.unwrap_or(Tcp::Connects),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Tcp::Refused,
        _ => Tcp::Silent,
    }
}

/// Says so much that it fills a packet, and sees whether that arrives.
async fn talk(mut stream: TcpStream) -> Tcp {
    let mut greeting = [0; 255];
    // Short: shows that something gets through, and is sshd's turn in any case.
    let greeted = matches!(timeout(ACK_TIME, stream.read(&mut greeting)).await, Ok(Ok(1..)));
    if !greeted || stream.set_nodelay(true).is_err() || stream.write_all(&long_greeting()).await.is_err() {
        return Tcp::Connects;
    }
    let rtt = TcpInfo::of(stream.as_fd()).map_or(Duration::ZERO, |info| info.rtt);
    let arrived = async {
        while TcpInfo::of(stream.as_fd()).is_ok_and(|info| info.unacked > 0) {
            sleep(LOOK).await;
        }
    };
    match timeout(ACK_TIME + 3 * rtt, arrived).await {
        Ok(()) => Tcp::Connects,
        Err(_) => Tcp::LongLost,
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
    async fn a_host_that_lives_is_told_from_a_closed_port() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-here\r\n").await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap()
        };
        let (seen, heard) = tokio::join!(look_at(address.ip(), address.port(), ACK_TIME), answering);
        assert_eq!((seen, heard), (Tcp::Connects, long_greeting().len()));
        drop(listener);
        assert_eq!(look_at(address.ip(), address.port(), ACK_TIME).await, Tcp::Refused);
    }
}
