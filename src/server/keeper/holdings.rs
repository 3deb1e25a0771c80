//! Descriptors that are kept, by name.
//!
//! The keeper has one of these for its worker; the worker has the same, for a keeper that it may have to raise.

use std::{
    collections::BTreeMap,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::listener::listens;
use crate::tcp_info::TcpInfo;

/// There is no room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug)]
pub(super) struct Holdings {
    kept: BTreeMap<String, Vec<Arc<OwnedFd>>>,
    count: usize,
    /// Most descriptors.
    limit: usize,
}

impl Holdings {
    pub(super) fn new(limit: usize) -> Self {
        let (kept, count) = Default::default();
        Self { kept, count, limit }
    }

    /// Those that somebody has kept before, however many.
    pub(super) fn of(stored: Vec<(String, Arc<OwnedFd>)>, limit: usize) -> Self {
        let mut holdings = Self::new(usize::MAX);
        for (name, descriptor) in stored {
            // Nothing is too many here.
            let _ = holdings.put(&name, vec![descriptor]);
        }
        Self { limit, ..holdings }
    }

    /// Keeps more under a name. All or nothing.
    pub(super) fn put(&mut self, name: &str, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), Full> {
        if descriptors.len() > self.limit.saturating_sub(self.count) {
            return Err(Full);
        }
        if descriptors.is_empty() {
            return Ok(());
        }
        self.count += descriptors.len();
        self.kept.entry(name.to_owned()).or_default().extend(descriptors);
        Ok(())
    }

    /// Keeps nothing more under a name. Whether there was something.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let removed = self.kept.remove(name).unwrap_or_default();
        self.count -= removed.len();
        !removed.is_empty()
    }

    /// Each name with each of its descriptors.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<OwnedFd>)> {
        self.kept
            .iter()
            .flat_map(|(name, kept)| kept.iter().map(move |descriptor| (name.as_str(), descriptor)))
    }

    /// Each name with all its descriptors.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&str, &[Arc<OwnedFd>])> {
        self.kept.iter().map(|(name, kept)| (name.as_str(), kept.as_slice()))
    }

    /// How many descriptors there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// How many names there are.
    pub(super) fn names(&self) -> usize {
        self.kept.len()
    }
}

/// Whether it is something that a worker may want kept: memory, or a TCP connection that it made. Anything else could hold
/// up whoever has it, be a way to something that is none of the worker's business, or come back as what it is not: a
/// socket that listens is the keeper's. One that never was connected, or is not any more by its holder's wish, can still
/// be made to listen; it has no counts.
pub(super) fn may_be_kept(descriptor: BorrowedFd<'_>) -> bool {
    // Only files in memory can be sealed (fcntl(2)).
    let is_memory = || rustix::fs::fcntl_get_seals(descriptor).is_ok();
    is_memory() || (is_inet_stream(descriptor) && was_connected(descriptor))
}

/// Whether it is what a worker tries out a service manager with: an end of a connection within this machine, which leads to
/// nobody but the worker.
pub(super) fn may_be_tried(descriptor: BorrowedFd<'_>) -> bool {
    sockopt::socket_domain(descriptor).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && sockopt::socket_type(descriptor).is_ok_and(|kind| kind == SocketType::SEQPACKET)
        && !listens(descriptor)
}

fn is_inet_stream(descriptor: BorrowedFd<'_>) -> bool {
    sockopt::socket_domain(descriptor).is_ok_and(|domain| matches!(domain, AddressFamily::INET | AddressFamily::INET6))
        && sockopt::socket_type(descriptor).is_ok_and(|kind| kind == SocketType::STREAM)
        && !listens(descriptor)
}

/// The kernel counts the SYN of whoever connects, once it is acknowledged, and forgets it with the connection.
fn was_connected(descriptor: BorrowedFd<'_>) -> bool {
    TcpInfo::of(descriptor).is_ok_and(|info| info.acked > 0)
}

/// connect(2) with AF_UNSPEC: as a taken worker might.
#[cfg(test)]
pub(super) fn disconnect(socket: impl std::os::fd::AsFd) {
    use std::os::fd::AsRawFd;
    // SAFETY: all zeroes is an address of no family (AF_UNSPEC).
    #[allow(unsafe_code)]
    let undone = unsafe {
        let none: libc::sockaddr = std::mem::zeroed();
        let length = size_of::<libc::sockaddr>() as libc::socklen_t;
        libc::connect(socket.as_fd().as_raw_fd(), &raw const none, length)
    };
    assert_eq!(undone, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use socket2::{Domain, SockAddr, Socket, Type};
    use std::io::Read;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    fn memory() -> Arc<OwnedFd> {
        Arc::new(rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap())
    }

    #[test]
    fn what_does_not_fit_is_refused_whole_and_room_comes_back() {
        let mut holdings = Holdings::new(3);
        holdings.put("a", vec![memory(), memory()]).unwrap();
        assert_eq!(holdings.put("b", vec![memory(), memory()]), Err(Full));
        assert_eq!(holdings.iter().count(), 2);
        assert!(holdings.remove("a") && !holdings.remove("a"));
        holdings.put("b", vec![memory(), memory(), memory()]).unwrap();
        assert_eq!((holdings.names(), holdings.iter().count()), (1, 3));
    }

    #[test]
    fn only_memory_and_tcp_connections_are_kept() {
        let local = (Ipv4Addr::LOCALHOST, 0);
        assert!(may_be_kept(memory().as_fd()));
        let listener = TcpListener::bind(local).unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(may_be_kept(connection.as_fd()));
        assert!(!may_be_kept(listener.as_fd()));
        assert!(!may_be_kept(UdpSocket::bind(local).unwrap().as_fd()));
        let (left, _right) = super::super::packet::pair().unwrap();
        assert!(!may_be_kept(left.as_fd()));
        assert!(!may_be_kept(std::fs::File::open("/dev/null").unwrap().as_fd()));
    }

    #[test]
    fn connections_that_have_ended_are_kept() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for is_reset in [false, true] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let far = listener.accept().unwrap().0;
            if is_reset {
                socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(far);
            // A reset is an error here, an end is none; either has arrived then.
            let _ = (&near).read(&mut [0]);
            assert!(may_be_kept(near.as_fd()), "reset: {is_reset}");
        }
    }

    #[test]
    fn sockets_that_can_still_be_made_to_listen_are_not_kept() {
        let stream = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let fresh = stream();
        assert!(!may_be_kept(fresh.as_fd()));
        fresh
            .bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
            .unwrap();
        assert!(!may_be_kept(fresh.as_fd()));
        let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let undone = TcpStream::connect(peer.local_addr().unwrap()).unwrap();
        disconnect(&undone);
        assert!(!may_be_kept(undone.as_fd()));
        // That is what it is about.
        rustix::net::listen(&undone, 1).unwrap();
        assert!(!may_be_kept(undone.as_fd()));
    }

    #[test]
    fn only_ends_of_local_connections_are_tried() {
        let (left, _right) = super::super::packet::pair().unwrap();
        assert!(may_be_tried(left.as_fd()));
        let local = (Ipv4Addr::LOCALHOST, 0);
        assert!(!may_be_tried(TcpListener::bind(local).unwrap().as_fd()));
        assert!(!may_be_tried(UdpSocket::bind(local).unwrap().as_fd()));
        assert!(!may_be_tried(memory().as_fd().as_fd()));
        assert!(!may_be_tried(UnixDatagram::unbound().unwrap().as_fd()));
    }
}
