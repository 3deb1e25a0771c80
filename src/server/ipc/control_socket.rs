//! The keeper's control socket, a file in the runtime folder: the only socket on which a server half can be asked about
//! its sessions, told to end some, and replaced (`bowline status`, `bowline kill`, `serve --replace`).
//!
//! Only the owner can enter the folder, and the kernel names the user of each connection: requests of root and of the
//! keeper's own user are answered, others are refused. A keeper never waits for a client, except for a moment during a
//! handover, when nothing else may happen.

use std::{
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{SocketFlags, SocketType},
};
use tracing::{debug, warn};

use super::{ControlReply, ControlRequest, seqpacket};
use crate::local_socket::{self, SUFFIX};

/// The start of the name of the socket's file.
const START: &str = "serve-";

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// The most connections at once. Others wait in the socket's queue.
const MAX_PEERS: usize = 8;

/// A connection without a request is closed after this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long no connection is accepted after a failure that would happen again at once, such as too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// The socket on which `bowline status`, `bowline kill` and other keepers ask. Dropping it leaves the file: another
/// process may have the socket too.
#[derive(Debug)]
pub struct ControlListener {
    file: PathBuf,
    socket: OwnedFd,
}

impl ControlListener {
    /// Listens in a folder, at a name that depends on the server half's addresses. An existing file of that name is
    /// replaced: nobody else can have bound these addresses.
    ///
    /// # Errors
    /// As `bind(2)`, `listen(2)` and `rename(2)`.
    pub fn open(folder: &Path, addresses: &[SocketAddr]) -> io::Result<Self> {
        let file = file_in(folder, addresses)?;
        let socket = local_socket::listen(&file, SocketType::SEQPACKET, BACKLOG)?;
        Ok(Self { file, socket })
    }

    /// Whether this is the socket that [`ControlListener::open`] would open, and its file still exists.
    pub fn is_for(&self, folder: &Path, addresses: &[SocketAddr]) -> bool {
        file_in(folder, addresses).is_ok_and(|file| file == self.file && file.exists())
    }

    /// A socket that another keeper has opened.
    pub(in crate::server) fn of(file: OsString, socket: OwnedFd) -> Self {
        let file = file.into();
        Self { file, socket }
    }

    pub(in crate::server) fn file(&self) -> &Path {
        &self.file
    }

    /// Removes the file, so that nobody finds the socket any more.
    pub(in crate::server) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.file) {
            debug!(file = %self.file.display(), %error, "cannot remove the socket's file");
        }
    }
}

impl AsFd for ControlListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[derive(Debug)]
pub(in crate::server) struct ControlServer {
    listener: ControlListener,
    peers: Vec<Peer>,
    accept_paused_until: Option<Instant>,
    pub(in crate::server) since: Instant,
}

/// A connection whose user may send requests.
#[derive(Debug)]
pub(in crate::server) struct Peer {
    pub(in crate::server) connection: OwnedFd,
    pub(in crate::server) pid: u32,
    until: Instant,
}

impl ControlServer {
    pub(in crate::server) fn new(listener: ControlListener, now: Instant) -> Self {
        Self {
            listener,
            peers: Vec::new(),
            accept_paused_until: None,
            since: now,
        }
    }

    pub(in crate::server) fn listener(&self) -> &ControlListener {
        &self.listener
    }

    /// Removes the socket's file.
    pub(in crate::server) fn close(&self) {
        self.listener.remove();
    }

    /// The descriptors to poll for readability.
    pub(in crate::server) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let is_open = self.accept_paused_until.is_none() && self.peers.len() < MAX_PEERS;
        let listener = is_open.then(|| self.listener.as_fd());
        listener
            .into_iter()
            .chain(self.peers.iter().map(|peer| peer.connection.as_fd()))
    }

    /// When to call [`Self::requests`] again at the latest.
    pub(in crate::server) fn deadline(&self) -> Option<Instant> {
        let peers = self.peers.iter().map(|peer| peer.until);
        peers.chain(self.accept_paused_until).min()
    }

    /// The requests that have arrived, one of each peer. A peer with a request is removed; [`Self::keep`] puts it
    /// back.
    pub(in crate::server) fn requests(&mut self, now: Instant) -> Vec<(Peer, ControlRequest)> {
        self.accept_paused_until = self.accept_paused_until.filter(|until| now < *until);
        self.accept(now);
        let mut requests = Vec::new();
        for peer in std::mem::take(&mut self.peers) {
            match peer.receive() {
                Ok(Some(ask)) => requests.push((peer, ask)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && now < peer.until => self.peers.push(peer),
                Err(error) => debug!(pid = peer.pid, %error, "control connection closed"),
                Ok(None) => {}
            }
        }
        requests
    }

    /// Puts back a peer, which may send another request.
    pub(in crate::server) fn keep(&mut self, peer: Peer, now: Instant) {
        self.peers.push(Peer {
            until: now + REQUEST_TIMEOUT,
            ..peer
        });
    }

    fn accept(&mut self, now: Instant) {
        while self.accept_paused_until.is_none() && self.peers.len() < MAX_PEERS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(connection) => self.peers.extend(Peer::new(connection, now)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    warn!(%error, "cannot accept a control connection");
                    self.accept_paused_until = Some(now + ACCEPT_RETRY_DELAY);
                }
            }
        }
    }
}

impl Peer {
    fn new(connection: OwnedFd, now: Instant) -> Option<Self> {
        let peer = local_socket::peer(&connection).ok()?;
        if !local_socket::is_permitted(&connection) {
            warn!(
                pid = peer.pid,
                uid = peer.user.as_raw(),
                "refused a control connection of another user"
            );
            return None;
        }
        Some(Self {
            connection,
            pid: peer.pid,
            until: now + REQUEST_TIMEOUT,
        })
    }

    /// `None`: the peer has closed its end.
    pub(in crate::server) fn receive(&self) -> io::Result<Option<ControlRequest>> {
        // Descriptors that come with the request are closed.
        let Some((text, _)) = seqpacket::receive(&self.connection)? else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_slice(&text)?))
    }

    pub(in crate::server) fn send(&self, reply: &ControlReply) -> io::Result<()> {
        seqpacket::send(&self.connection, &serde_json::to_vec(reply)?, &[])
    }
}

/// The files of all such sockets in a folder, including those of dead keepers.
pub(in crate::server) fn socket_files(folder: &Path) -> Vec<PathBuf> {
    local_socket::files(folder, &[START])
}

/// Connects to such a socket.
///
/// # Errors
/// As `connect(2)`; `WouldBlock` if its queue is full.
pub(in crate::server) fn connect(file: &Path) -> io::Result<OwnedFd> {
    let socket = local_socket::connect(file, SocketType::SEQPACKET)?;
    // The kernel names the sender of each reply, which need not be the process that called listen(2).
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    Ok(socket)
}

/// Absolute: another keeper may have another working directory.
fn file_in(folder: &Path, addresses: &[SocketAddr]) -> io::Result<PathBuf> {
    std::path::absolute(folder.join(name_of(addresses)))
}

/// The network namespace of this process: the same address in another namespace is a different one.
pub(in crate::server) fn network() -> u64 {
    fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino())
}

/// A short name, the same for the same addresses in any order. The path of a socket has at most 107 bytes.
fn name_of(addresses: &[SocketAddr]) -> String {
    let port = addresses.first().map_or(0, SocketAddr::port);
    let mut sorted: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    sorted.sort();
    sorted.push(network().to_string());
    // FNV-1a: names must not differ between builds, and nobody gains by a collision.
    let hash = sorted.join(" ").bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{START}{port}-{hash:08x}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn addresses(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn names_differ_by_address_and_port_not_by_order() {
        let name = |text: &[&str]| name_of(&addresses(text));
        let both = name(&["0.0.0.0:22", "[::]:22"]);
        assert!(both.starts_with("serve-22-") && both.ends_with(".sock"), "{both}");
        assert_eq!(both, name(&["[::]:22", "0.0.0.0:22"]));
        for other in [
            &["0.0.0.0:22"][..],
            &["0.0.0.0:23", "[::]:23"],
            &["127.0.0.1:22", "[::]:22"],
        ] {
            assert_ne!(both, name(other));
        }
    }

    #[test]
    fn file_of_a_dead_one_is_replaced_and_of_a_live_one_found() {
        let folder = tempfile::tempdir().unwrap();
        let addresses = addresses(&["127.0.0.1:22"]);
        let dead = ControlListener::open(folder.path(), &addresses).unwrap();
        let file = dead.file().to_owned();
        drop(dead);
        assert_eq!(socket_files(folder.path()), [file.as_path()]);
        assert_eq!(connect(&file).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let live = ControlListener::open(folder.path(), &addresses).unwrap();
        assert!(live.is_for(folder.path(), &addresses));
        connect(&file).unwrap();
        live.remove();
        assert_eq!(socket_files(folder.path()), [] as [&Path; 0]);
    }

    #[test]
    fn folder_with_a_path_longer_than_a_socket_s_may_be_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(100));
        fs::create_dir(&deep).unwrap();
        let listener = ControlListener::open(&deep, &addresses(&["127.0.0.1:22"])).unwrap();
        connect(listener.file()).unwrap();
        assert_eq!(socket_files(&deep).len(), 1);
    }

    #[test]
    fn silent_ones_are_shown_out_and_others_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let address: SocketAddr = "127.0.0.1:22".parse().unwrap();
        let listener = ControlListener::open(folder.path(), &[address]).unwrap();
        let file = listener.file().to_owned();
        let start = clock::now();
        let mut server = ControlServer::new(listener, start);
        let silent: Vec<_> = (0..MAX_PEERS).map(|_| connect(&file).unwrap()).collect();
        let asker = connect(&file).unwrap();
        seqpacket::send(&asker, b"\"Identify\"", &[]).unwrap();
        assert!(server.requests(start).is_empty());
        // At the limit only the connections are polled, not the listener.
        assert_eq!(server.sources().count(), MAX_PEERS);
        assert_eq!(server.deadline(), Some(start + REQUEST_TIMEOUT));
        assert!(server.requests(start + REQUEST_TIMEOUT).is_empty());
        let requests = server.requests(start + REQUEST_TIMEOUT);
        assert!(matches!(requests[..], [(_, ControlRequest::Identify)]));
        drop(silent);
    }

    #[test]
    fn whoever_babbles_is_shown_out_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let address: SocketAddr = "127.0.0.1:22".parse().unwrap();
        let listener = ControlListener::open(folder.path(), &[address]).unwrap();
        let file = listener.file().to_owned();
        let now = clock::now();
        let mut server = ControlServer::new(listener, now);
        let babbling = connect(&file).unwrap();
        seqpacket::send(&babbling, &[0xff; 20_000], &[]).unwrap();
        assert!(server.requests(now).is_empty());
        assert_eq!(server.sources().count(), 1, "only the listener");
        assert_eq!(server.deadline(), None);
    }
}
