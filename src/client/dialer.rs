//! Dials paths: one path at a time, or several in a staggered race (RFC 8305). The first path that completes its
//! handshake wins.

use super::failures::{AttemptError, Failed};
use crate::carrier::stream::{self, CommandError, CommandLine};
use crate::carrier::via::{self, RelayAddress, RelayConnectRequest, RelayTransport, RelayWindow, ViaStream};
use crate::carrier::{ConnectError, DialError, Dialed, Path, dial_quic, dial_tls};
use crate::clock;
use crate::identity::key_digest;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::transport::quic::{MtuCap, QuicDialer};
use crate::transport::{self, ATTEMPT_DELAY, WithoutStats, tls};
use crate::wire::KeyDigest;
use russh::keys::ssh_key::Fingerprint;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

/// Delays before a busy peer is dialed again. Together they are long enough for many clients that connect at the same
/// moment.
const BUSY_DELAYS: [Duration; 3] = [
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(600),
];

/// State shared by all dials of one client process: the TLS key, the settings and the UDP sockets.
#[derive(Clone)]
pub(super) struct Dialer {
    key: Arc<TlsKey>,
    relay_target: RelayTarget,
    mtu_cap: MtuCap,
    /// One for IPv4, one for IPv6.
    sockets: [Option<QuicDialer>; 2],
    /// Set once anything arrives at one of them.
    heard: Arc<AtomicBool>,
}

impl Dialer {
    pub(super) fn new(key: Arc<TlsKey>, mtu_cap: MtuCap) -> Dialer {
        Dialer {
            key,
            relay_target: RelayTarget {
                key: Arc::new(TlsKey::generate()),
                host_keys: Vec::new(),
                mtu_cap,
            },
            mtu_cap,
            sockets: [None, None],
            heard: Arc::default(),
        }
    }

    /// Is set whenever anything arrives at a UDP socket of this dialer: whoever answers is there, also if no handshake ends in
    /// time.
    pub(super) fn heard(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.heard)
    }

    /// Adds host keys by which relays find the server half. They are tried after those that were added before.
    pub(super) fn add_host_keys(&mut self, host_keys: impl IntoIterator<Item = Fingerprint>) {
        for key in host_keys {
            if let Some(digest) = key_digest(key)
                && !self.relay_target.host_keys.contains(&digest)
            {
                self.relay_target.host_keys.push(digest);
            }
        }
    }

    /// Opens new UDP sockets for later dials: a NAT or firewall may block a flow by its source port.
    pub(super) fn renew_sockets(&mut self) {
        self.sockets = [None, None];
    }

    /// Dials `path`, and again if the peer is busy. Dropping the future aborts the attempt.
    pub(super) fn dial(
        &mut self,
        path: &Path,
        accept: ServerKey,
    ) -> impl Future<Output = Result<Dialed, DialError>> + Send + use<> {
        self.dial_with(path, accept, &BUSY_DELAYS)
    }

    /// The same, but a busy peer ends the attempt: the caller decides when to dial again.
    pub(super) fn dial_once(
        &mut self,
        path: &Path,
        accept: ServerKey,
    ) -> impl Future<Output = Result<Dialed, DialError>> + Send + use<> {
        self.dial_with(path, accept, &[])
    }

    fn dial_with(
        &mut self,
        path: &Path,
        accept: ServerKey,
        busy_delays: &'static [Duration],
    ) -> impl Future<Output = Result<Dialed, DialError>> + Send + use<> {
        let (key, path) = (Arc::clone(&self.key), path.clone());
        let socket = match path {
            Path::Quic(address) => Some(self.socket_for(address)),
            Path::Tls(_) | Path::Relayed(..) | Path::Proxied(_) | Path::Command(_) => None,
        };
        let relay_target = self.relay_target.clone();
        async move {
            let (via, rank) = (path.via(), path.rank());
            let socket = socket.transpose().map_err(ConnectError::Socket)?;
            let mut delays = busy_delays.iter();
            let dialed = loop {
                match dial_path(&path, socket.as_ref(), &relay_target, &key, accept.clone()).await {
                    Err(error) if error.is_busy() => match delays.next() {
                        Some(delay) => sleep(*delay).await,
                        None => return Err(error),
                    },
                    dialed => break dialed?,
                }
            };
            Ok(match via {
                Some(what) => dialed.via(what, rank),
                None => dialed,
            })
        }
    }

    fn socket_for(&mut self, address: SocketAddr) -> io::Result<QuicDialer> {
        let slot = &mut self.sockets[usize::from(address.is_ipv6())];
        match slot {
            Some(socket) => Ok(socket.clone()),
            None => {
                let socket = QuicDialer::reporting_to(address, self.mtu_cap, Arc::clone(&self.heard))?;
                Ok(slot.insert(socket).clone())
            }
        }
    }
}

async fn dial_path(
    path: &Path,
    socket: Option<&QuicDialer>,
    relay_target: &RelayTarget,
    key: &TlsKey,
    accept: ServerKey,
) -> Result<Dialed, DialError> {
    match path {
        Path::Quic(address) => {
            let socket = socket.expect("every QUIC path has one");
            dial_quic(socket, *address, key, accept).await
        }
        Path::Tls(address) => {
            let stream = tls::connect(*address).await?;
            dial_tls(Box::new(stream), Some(*address), key, accept).await
        }
        Path::Relayed(relay, transport) => {
            let stream = relay_target.reach(relay, *transport).await?;
            dial_tls(Box::new(stream), None, key, accept).await
        }
        Path::Proxied(proxied) => {
            let stream = stream::connect(&proxied.proxy, &proxied.host, proxied.port).await?;
            tls::tune(&stream).map_err(ConnectError::Socket)?;
            // `TCP_INFO` of this connection describes the path to the proxy only.
            dial_tls(Box::new(WithoutStats(stream)), None, key, accept).await
        }
        Path::Command(command) => dial_command(command, key, accept).await,
    }
}

async fn dial_command(command: &CommandLine, key: &TlsKey, accept: ServerKey) -> Result<Dialed, DialError> {
    let stream = command.run()?;
    let last_words = stream.stderr_tail();
    match dial_tls(Box::new(stream), None, key, accept).await {
        Err(DialError::Connect(ConnectError::Tls(source) | ConnectError::OtherTls(source))) => {
            Err(CommandError::Failed {
                program: command.name().to_owned(),
                said: last_words.quoted().await,
                source,
            }
            .into())
        }
        dialed => dialed,
    }
}

/// How a relay identifies this client and the server half.
#[derive(Clone)]
struct RelayTarget {
    /// Not the session's key: with that, relays could link all carriers of one session.
    key: Arc<TlsKey>,
    /// Digests of the host keys under which the server half registers.
    host_keys: Vec<KeyDigest>,
    mtu_cap: MtuCap,
}

impl RelayTarget {
    async fn reach(&self, relay: &RelayAddress, transport: RelayTransport) -> Result<ViaStream, DialError> {
        if self.host_keys.is_empty() {
            return Err(DialError::NoHostKey);
        }
        let reaching = RelayConnectRequest {
            fingerprints: &self.host_keys,
            key: &self.key,
            mtu_cap: self.mtu_cap,
            window: RelayWindow::default(),
        };
        Ok(via::connect(relay, transport, &reaching).await?)
    }
}

/// Races `paths`; the first `concurrent` of them start at once. The other attempts are aborted when one wins.
///
/// Also returns how long the winner's handshake took. `None` if all paths failed. `failed` gets the reason for each
/// failed path, also if the caller drops the future.
pub(super) async fn race(
    dialer: &mut Dialer,
    paths: &[Path],
    concurrent: usize,
    accept: &ServerKey,
    failed: &mut Vec<Failed>,
) -> Option<(Dialed, Path, Duration)> {
    let attempts = paths.iter().cloned().enumerate().map(|(index, path)| {
        let dialing = dialer.dial(&path, accept.clone());
        let attempt = async move {
            let begun = clock::now();
            match with_icmp(&path, dialing).await {
                Ok(dialed) => Ok((dialed, path, clock::now().saturating_duration_since(begun))),
                Err(error) => Err(Failed {
                    path,
                    error: AttemptError::Dial(error),
                }),
            }
        };
        let delay = if index < concurrent {
            Duration::ZERO
        } else {
            ATTEMPT_DELAY
        };
        (delay, attempt)
    });
    transport::race(attempts.collect(), |failure| failed.push(failure)).await
}

/// Dials, and fails early if ICMP reports that the address or port is unreachable.
async fn with_icmp(path: &Path, dialing: impl Future<Output = Result<Dialed, DialError>>) -> Result<Dialed, DialError> {
    match path {
        Path::Quic(address) => tokio::select! {
            dialed = dialing => dialed,
            error = icmp_error(*address) => Err(ConnectError::Unreachable(error).into()),
        },
        Path::Tls(_) | Path::Relayed(..) | Path::Proxied(_) | Path::Command(_) => dialing.await,
    }
}

/// Hosts send a few ICMP errors at once and then one per second (Linux: icmp_ratelimit), so the first probe may go
/// unanswered.
const PROBE_INTERVAL: Duration = Duration::from_millis(1100);

/// Returns the error if the system or the network reports that `remote` is unreachable; otherwise never returns.
///
/// QUIC sockets are not connected, so the kernel does not report ICMP errors on them. A connected socket gets them.
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
