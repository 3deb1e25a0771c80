//! A TCP service that sends everything back, for forwardings and for sessions without ssh.

use super::upstream::Service;
use super::wait_for;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// The service; it stops accepting with its owner.
pub struct TcpEcho {
    service: Service,
    accepted: Arc<AtomicUsize>,
}

impl TcpEcho {
    /// On a free port of loopback.
    pub fn start() -> TcpEcho {
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = accepted.clone();
        let service = Service::start(move |stream| {
            count.fetch_add(1, SeqCst);
            std::thread::spawn(move || echo(stream));
        });
        TcpEcho { service, accepted }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// How many connections have come.
    pub fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// Connects once somebody listens.
///
/// # Panics
/// When nobody does within ten seconds.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = wait_for(Duration::from_secs(10), || TcpStream::connect(address).ok());
    let stream = stream.unwrap_or_else(|| panic!("nobody listens on {address}"));
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a connected socket");
    stream
}

/// Asks a SOCKS 5 proxy for a connection to `target` (RFC 1928, no authentication).
///
/// # Panics
/// When the proxy refuses.
pub fn connect_by_socks(proxy: SocketAddr, target: SocketAddr) -> TcpStream {
    let mut stream = connect(proxy);
    let mut greeting = [0; 2];
    stream
        .write_all(&[5, 1, 0])
        .and_then(|()| stream.read_exact(&mut greeting))
        .expect("a SOCKS greeting");
    assert_eq!(greeting, [5, 0], "the proxy wants no authentication");
    let SocketAddr::V4(target) = target else {
        panic!("IPv4 targets only")
    };
    let mut request = vec![5, 1, 0, 1];
    request.extend(target.ip().octets());
    request.extend(target.port().to_be_bytes());
    let mut answer = [0; 10];
    stream
        .write_all(&request)
        .and_then(|()| stream.read_exact(&mut answer))
        .expect("a SOCKS answer");
    assert_eq!(answer[..2], [5, 0], "the proxy connects");
    stream
}

/// Sends bytes and insists on getting them back, with the end of the stream after them.
#[track_caller]
pub fn assert_echoes(stream: TcpStream, bytes: &[u8]) {
    let mut writer = stream.try_clone().expect("a connected socket");
    let sent = bytes.to_vec();
    let writing = std::thread::spawn(move || {
        writer
            .write_all(&sent)
            .and_then(|()| writer.shutdown(Shutdown::Write))
            .expect("the echo takes everything");
    });
    let mut back = vec![];
    let mut reader = stream;
    reader.read_to_end(&mut back).expect("the echo ends its stream");
    writing.join().expect("the echo takes everything");
    assert_eq!(back.len(), bytes.len(), "as many bytes as were sent");
    assert!(back == bytes, "the same bytes as were sent");
}
