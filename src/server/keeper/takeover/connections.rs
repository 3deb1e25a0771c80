//! The keeper's side of a takeover: accepts connections and reads requests.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::SocketFlags};
use tracing::{debug, warn};

use super::{
    super::seqpacket,
    TakeoverListener,
    messages::{TakeoverReply, TakeoverRequest},
};

/// The most connections at once. Others wait in the socket's queue.
const MAX_PEERS: usize = 8;

/// A connection without a request is closed after this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long no connection is accepted after a failure that would happen again at once, such as too many open files.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(in super::super) struct TakeoverServer {
    listener: TakeoverListener,
    peers: Vec<Peer>,
    accept_paused_until: Option<Instant>,
    pub(super) since: Instant,
}

/// A connection whose user may send requests.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) connection: OwnedFd,
    pub(super) pid: u32,
    until: Instant,
}

impl TakeoverServer {
    pub(in super::super) fn new(listener: TakeoverListener, now: Instant) -> Self {
        Self {
            listener,
            peers: Vec::new(),
            accept_paused_until: None,
            since: now,
        }
    }

    pub(in super::super) fn listener(&self) -> &TakeoverListener {
        &self.listener
    }

    /// Removes the socket's file.
    pub(in super::super) fn close(&self) {
        self.listener.remove();
    }

    /// The descriptors to poll for readability.
    pub(in super::super) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let is_open = self.accept_paused_until.is_none() && self.peers.len() < MAX_PEERS;
        let listener = is_open.then(|| self.listener.as_fd());
        listener
            .into_iter()
            .chain(self.peers.iter().map(|peer| peer.connection.as_fd()))
    }

    /// When to call [`Self::requests`] again at the latest.
    pub(in super::super) fn deadline(&self) -> Option<Instant> {
        let peers = self.peers.iter().map(|peer| peer.until);
        peers.chain(self.accept_paused_until).min()
    }

    /// The requests that have arrived, one of each peer. A peer with a request is removed; [`Self::keep`] puts it
    /// back.
    pub(super) fn requests(&mut self, now: Instant) -> Vec<(Peer, TakeoverRequest)> {
        self.accept_paused_until = self.accept_paused_until.filter(|until| now < *until);
        self.accept(now);
        let mut requests = Vec::new();
        for peer in std::mem::take(&mut self.peers) {
            match peer.receive() {
                Ok(Some(ask)) => requests.push((peer, ask)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && now < peer.until => self.peers.push(peer),
                Err(error) => debug!(pid = peer.pid, %error, "takeover connection closed"),
                Ok(None) => {}
            }
        }
        requests
    }

    /// Puts back a peer, which may send another request.
    pub(super) fn keep(&mut self, peer: Peer, now: Instant) {
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
                    warn!(%error, "cannot accept a takeover connection");
                    self.accept_paused_until = Some(now + ACCEPT_RETRY_DELAY);
                }
            }
        }
    }
}

impl Peer {
    fn new(connection: OwnedFd, now: Instant) -> Option<Self> {
        let peer = rustix::net::sockopt::socket_peercred(&connection).ok()?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            warn!(pid = %peer.pid, uid = %peer.uid, "refused a takeover connection of another user");
            return None;
        }
        Some(Self {
            connection,
            pid: peer.pid.as_raw_nonzero().get().unsigned_abs(),
            until: now + REQUEST_TIMEOUT,
        })
    }

    /// `None`: the peer has closed its end.
    pub(super) fn receive(&self) -> io::Result<Option<TakeoverRequest>> {
        // Descriptors that come with the request are closed.
        let Some((text, _)) = seqpacket::receive(&self.connection)? else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_slice(&text)?))
    }

    pub(super) fn send(&self, reply: &TakeoverReply) -> io::Result<()> {
        seqpacket::send(&self.connection, &serde_json::to_vec(reply)?, &[])
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{super::listener::connect, *};
    use crate::clock;

    #[test]
    fn silent_ones_are_shown_out_and_others_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let address: SocketAddr = "127.0.0.1:22".parse().unwrap();
        let listener = TakeoverListener::open(folder.path(), &[address]).unwrap();
        let file = listener.file().to_owned();
        let start = clock::now();
        let mut takeover = TakeoverServer::new(listener, start);
        let silent: Vec<_> = (0..MAX_PEERS).map(|_| connect(&file).unwrap()).collect();
        let asker = connect(&file).unwrap();
        seqpacket::send(&asker, b"\"Identify\"", &[]).unwrap();
        assert!(takeover.requests(start).is_empty());
        // At the limit only the connections are polled, not the listener.
        assert_eq!(takeover.sources().count(), MAX_PEERS);
        assert_eq!(takeover.deadline(), Some(start + REQUEST_TIMEOUT));
        assert!(takeover.requests(start + REQUEST_TIMEOUT).is_empty());
        let requests = takeover.requests(start + REQUEST_TIMEOUT);
        assert!(matches!(requests[..], [(_, TakeoverRequest::Identify)]));
        drop(silent);
    }

    #[test]
    fn whoever_babbles_is_shown_out_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let address: SocketAddr = "127.0.0.1:22".parse().unwrap();
        let listener = TakeoverListener::open(folder.path(), &[address]).unwrap();
        let file = listener.file().to_owned();
        let now = clock::now();
        let mut takeover = TakeoverServer::new(listener, now);
        let babbling = connect(&file).unwrap();
        seqpacket::send(&babbling, &[0xff; 20_000], &[]).unwrap();
        assert!(takeover.requests(now).is_empty());
        assert_eq!(takeover.sources().count(), 1, "only the listener");
        assert_eq!(takeover.deadline(), None);
    }
}
