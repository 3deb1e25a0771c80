//! Dials paths: one at a time, or all of them in a race, staggered, of which the first to finish its handshake wins.

use super::failures::{AttemptError, Failed};
use super::unreachable::unreachable;
use crate::carrier::quic::{MtuCap, QuicDialer};
use crate::carrier::stream::{self, CommandError, CommandLine};
use crate::carrier::via::{self, Reaching, RelayAddress, RelayTransport, RelayWindow, ViaStream};
use crate::carrier::{DialError, Dialed, Opaque, Path, tls};
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::wire::KeyDigest;
use russh::keys::ssh_key::Fingerprint;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Head start of a path over the next (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// A peer that takes no connection for now is asked again after these. A crowd that comes together gets in within them.
const BUSY_PAUSES: [Duration; 3] = [
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(600),
];

/// What all dials of one client process share: its keys, its settings, and UDP sockets.
#[derive(Clone)]
pub(super) struct Dialer {
    key: Arc<TlsKey>,
    guide: Guide,
    mtu_cap: MtuCap,
    /// For IPv4 and for IPv6.
    sockets: [Option<QuicDialer>; 2],
}

impl Dialer {
    pub(super) fn new(key: Arc<TlsKey>, mtu_cap: MtuCap) -> Dialer {
        Dialer {
            key,
            guide: Guide {
                key: Arc::new(TlsKey::generate()),
                host_keys: Vec::new(),
                mtu_cap,
            },
            mtu_cap,
            sockets: [None, None],
        }
    }

    /// Has relays look for one of these host keys, after those that were named before.
    pub(super) fn know(&mut self, host_keys: impl IntoIterator<Item = Fingerprint>) {
        for key in host_keys {
            if let Fingerprint::Sha256(digest) = key
                && !self.guide.host_keys.contains(&KeyDigest::new(digest))
            {
                self.guide.host_keys.push(KeyDigest::new(digest));
            }
        }
    }

    /// Dials from other UDP sockets from now on: something between the ends may have taken a dislike to a port.
    pub(super) fn renew(&mut self) {
        self.sockets = [None, None];
    }

    /// Dials `path`. Dropping the future gives the attempt up.
    pub(super) fn dial(
        &mut self,
        path: &Path,
        accept: ServerKey,
    ) -> impl Future<Output = Result<Dialed, DialError>> + Send + use<> {
        let (key, path) = (Arc::clone(&self.key), path.clone());
        let socket = match path {
            Path::Quic(address) => Some(self.socket_for(address)),
            Path::Tls(_) | Path::Relayed(..) | Path::Proxied(_) | Path::Command(_) => None,
        };
        let guide = self.guide.clone();
        async move {
            let (via, rank) = (path.via(), path.rank());
            let socket = socket.transpose().map_err(DialError::Socket)?;
            let mut pauses = BUSY_PAUSES.iter();
            let dialed = loop {
                match dial_once(&path, socket.as_ref(), &guide, &key, accept.clone()).await {
                    Err(DialError::Busy) => match pauses.next() {
                        Some(pause) => sleep(*pause).await,
                        None => return Err(DialError::Busy),
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
            None => Ok(slot.insert(QuicDialer::new(address, self.mtu_cap)?).clone()),
        }
    }
}

async fn dial_once(
    path: &Path,
    socket: Option<&QuicDialer>,
    guide: &Guide,
    key: &TlsKey,
    accept: ServerKey,
) -> Result<Dialed, DialError> {
    match path {
        Path::Quic(address) => {
            let socket = socket.expect("every QUIC path has one");
            socket.dial(*address, key, accept).await
        }
        Path::Tls(address) => {
            let stream = tls::connect(*address).await.map_err(DialError::Unreachable)?;
            tls::dial(Box::new(stream), Some(*address), key, accept).await
        }
        Path::Relayed(relay, transport) => {
            let stream = guide.reach(relay, *transport).await?;
            tls::dial(Box::new(stream), None, key, accept).await
        }
        Path::Proxied(proxied) => {
            let stream = stream::connect(&proxied.proxy, &proxied.host, proxied.port).await?;
            tls::tune(&stream).map_err(DialError::Socket)?;
            // What the kernel tells of it is the way to the proxy.
            tls::dial(Box::new(Opaque(stream)), None, key, accept).await
        }
        Path::Command(command) => dial_command(command, key, accept).await,
    }
}

async fn dial_command(command: &CommandLine, key: &TlsKey, accept: ServerKey) -> Result<Dialed, DialError> {
    let stream = command.run()?;
    let last_words = stream.last_words();
    match tls::dial(Box::new(stream), None, key, accept).await {
        Err(DialError::Tls(source) | DialError::OtherTls(source)) => Err(CommandError::Failed {
            program: command.name().to_owned(),
            said: last_words.quoted().await,
            source,
        }
        .into()),
        dialed => dialed,
    }
}

/// What a relay is told.
#[derive(Clone)]
struct Guide {
    /// Proved to relays: the session's own key would let them tell its carriers for one.
    key: Arc<TlsKey>,
    /// By which relays know the server half.
    host_keys: Vec<KeyDigest>,
    mtu_cap: MtuCap,
}

impl Guide {
    async fn reach(&self, relay: &RelayAddress, transport: RelayTransport) -> Result<ViaStream, DialError> {
        if self.host_keys.is_empty() {
            return Err(DialError::NoHostKey);
        }
        let reaching = Reaching {
            fingerprints: &self.host_keys,
            key: &self.key,
            mtu_cap: self.mtu_cap,
            window: RelayWindow::default(),
        };
        Ok(via::reach(relay, transport, &reaching).await?)
    }
}

/// Races `paths`, the first `at_once` of them without a head start. The losers are given up.
///
/// `None` once all have failed. `failed` holds why, also of those that had when the race is given up.
pub(super) async fn race(
    dialer: &mut Dialer,
    paths: &[Path],
    at_once: usize,
    accept: &ServerKey,
    failed: &mut Vec<Failed>,
) -> Option<(Dialed, Path)> {
    let mut waiting = paths.iter();
    let mut running = JoinSet::new();
    loop {
        if let Some(path) = waiting.next() {
            let dialing = dialer.dial(path, accept.clone());
            let path = path.clone();
            running.spawn(async move { (watched(&path, dialing).await, path) });
        } else if running.is_empty() {
            return None;
        }
        if paths.len() - waiting.len() < at_once.min(paths.len()) {
            continue;
        }
        tokio::select! {
            Some(finished) = running.join_next() => match finished {
                Ok((Ok(dialed), path)) => return Some((dialed, path)),
                Ok((Err(error), path)) => failed.push(Failed { path, error: AttemptError::Dial(error) }),
                // Nobody aborts a dial but the end of the race.
                Err(_) => {}
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

/// A dial that also ends when the network says that nothing is there.
async fn watched(path: &Path, dialing: impl Future<Output = Result<Dialed, DialError>>) -> Result<Dialed, DialError> {
    match path {
        Path::Quic(address) => tokio::select! {
            dialed = dialing => dialed,
            error = unreachable(*address) => Err(DialError::Unreachable(error)),
        },
        Path::Tls(_) | Path::Relayed(..) | Path::Proxied(_) | Path::Command(_) => dialing.await,
    }
}
