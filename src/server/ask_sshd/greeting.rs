//! A connection to the SSH server up to its identification line (RFC 4253 section 4.2).

use std::net::SocketAddr;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::super::connect_sshd::{ConnectSshd, Purpose};
use super::AskError;
use crate::wire::PeerText;

/// The most bytes that an SSH server may send up to the end of its identification line; other lines may come before
/// it.
const MAX_GREETING: usize = 4 * 1024;

/// What sshd says if it has too many unfinished logins.
pub(super) const FULL: &str = "Exceeded MaxStartups";

/// A connection whose server has identified itself as an SSH server.
#[derive(Debug)]
pub(super) struct GreetedStream {
    pub(super) stream: TcpStream,
    /// The identification line without its end, such as `SSH-2.0-OpenSSH_9.2p1`.
    pub(super) identification: PeerText,
    /// Bytes read after that line.
    pub(super) beyond: Vec<u8>,
}

/// Connects, and reads the greeting.
pub(super) async fn greet(sshd: &dyn ConnectSshd, purpose: Purpose) -> Result<GreetedStream, AskError> {
    let target = sshd.target();
    let mut stream = sshd
        .connect(purpose)
        .await
        .map_err(|source| AskError::UpstreamDown { target, source })?;
    let mut said = Vec::with_capacity(256);
    loop {
        if let Some((identification, end)) = find_identification(&said) {
            let identification = first_line(identification);
            let beyond = said.split_off(end);
            return Ok(GreetedStream {
                stream,
                identification,
                beyond,
            });
        }
        if said.len() >= MAX_GREETING {
            return Err(AskError::NotSsh {
                target,
                said: first_line(&said),
            });
        }
        match stream.read_buf(&mut said).await {
            Ok(0) | Err(_) => return Err(ended(target, &said)),
            Ok(_) => {}
        }
    }
}

/// The identification line, and the position of the bytes after it.
fn find_identification(said: &[u8]) -> Option<(&[u8], usize)> {
    let mut start = 0;
    while let Some(length) = said[start..].iter().position(|&byte| byte == b'\n') {
        let line = &said[start..start + length];
        start += length + 1;
        if line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-") {
            return Some((line, start));
        }
    }
    None
}

/// The server closed the connection before its greeting. sshd may give the reason in plain text: `Exceeded
/// MaxStartups`, or `Not allowed at this time` for a penalized address.
fn ended(target: SocketAddr, said: &[u8]) -> AskError {
    let known = [FULL.as_bytes(), b"Not allowed at this time"];
    if said.is_empty() || known.iter().any(|reason| said.starts_with(reason)) {
        let said = first_line(said);
        AskError::Dropped { target, said }
    } else {
        let said = first_line(said);
        AskError::NotSsh { target, said }
    }
}

/// The first line that a server sent, at most 255 bytes of it (as RFC 4253 allows).
fn first_line(said: &[u8]) -> PeerText {
    let line = said.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    PeerText::from_bytes(&line[..line.len().min(255)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identification_may_follow_other_lines_and_come_in_pieces() {
        let said = b"Welcome\r\nto this host\nSSH-2.0-OpenSSH_9.2p1 Debian\r\n\0\0\x01";
        for end in 0..said.len() - 3 {
            assert_eq!(find_identification(&said[..end]), None, "{end}");
        }
        let (line, end) = find_identification(said).unwrap();
        assert_eq!(first_line(line), "SSH-2.0-OpenSSH_9.2p1 Debian");
        assert_eq!(&said[end..], b"\0\0\x01");
    }

    #[test]
    fn what_others_say_cannot_disturb_a_log() {
        assert_eq!(first_line(b"a\x1b[2Jb\xff\r\nmore"), "a\\u{1b}[2Jb\u{fffd}");
        assert_eq!(first_line(&[b'x'; 5000]).len(), 255);
    }
}
