//! Stored descriptors, by name.
//!
//! The keeper stores them for its worker; the worker has the same list for a keeper that it may have to start.

use std::{
    collections::BTreeMap,
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::listener::listens;
use crate::tcp_info::TcpInfo;

/// The limit is reached.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug)]
pub(super) struct StoredFds {
    kept: BTreeMap<String, Vec<Arc<OwnedFd>>>,
    count: usize,
    /// The most descriptors.
    limit: usize,
}

impl StoredFds {
    pub(super) fn new(limit: usize) -> Self {
        let (kept, count) = Default::default();
        Self { kept, count, limit }
    }

    /// Descriptors that were stored earlier, however many.
    pub(super) fn of(stored: Vec<(String, Arc<OwnedFd>)>, limit: usize) -> Self {
        let mut stored_fds = Self::new(usize::MAX);
        for (name, descriptor) in stored {
            // There is no limit here.
            let _ = stored_fds.put(&name, vec![descriptor]);
        }
        Self { limit, ..stored_fds }
    }

    /// Adds descriptors under a name: all of them or none.
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

    /// Removes everything under a name. Returns whether there was something.
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

    /// The number of descriptors.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The number of names.
    pub(super) fn names(&self) -> usize {
        self.kept.len()
    }
}

/// Whether a worker may store this descriptor: a memfd, or a TCP connection that the worker opened. Any other
/// descriptor could block its holder, give access to something that is none of the worker's business, or be taken for
/// something else when it comes back: a listening socket is taken for one of the keeper's. A TCP socket that was never
/// connected, or that was disconnected, can still be made to listen; the kernel counts no acknowledged bytes for it.
pub(super) fn may_be_stored(descriptor: BorrowedFd<'_>) -> bool {
    // Only memfds can be sealed (fcntl(2)).
    let is_memory = || rustix::fs::fcntl_get_seals(descriptor).is_ok();
    is_memory() || (is_inet_stream(descriptor) && was_connected(descriptor))
}

/// Whether a worker may test the service manager's store with this descriptor: an end of a connection within this
/// machine, which leads to nobody but the worker.
pub(super) fn may_test_store(descriptor: BorrowedFd<'_>) -> bool {
    sockopt::socket_domain(descriptor).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && sockopt::socket_type(descriptor).is_ok_and(|kind| kind == SocketType::SEQPACKET)
        && !listens(descriptor)
}

fn is_inet_stream(descriptor: BorrowedFd<'_>) -> bool {
    sockopt::socket_domain(descriptor).is_ok_and(|domain| matches!(domain, AddressFamily::INET | AddressFamily::INET6))
        && sockopt::socket_type(descriptor).is_ok_and(|kind| kind == SocketType::STREAM)
        && !listens(descriptor)
}

/// The kernel counts the SYN of the connecting side once it is acknowledged, and forgets the count with the
/// connection.
fn was_connected(descriptor: BorrowedFd<'_>) -> bool {
    TcpInfo::of(descriptor).is_ok_and(|info| info.acked > 0)
}

/// connect(2) with AF_UNSPEC: as a compromised worker might do.
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
        let mut stored_fds = StoredFds::new(3);
        stored_fds.put("a", vec![memory(), memory()]).unwrap();
        assert_eq!(stored_fds.put("b", vec![memory(), memory()]), Err(Full));
        assert_eq!(stored_fds.iter().count(), 2);
        assert!(stored_fds.remove("a") && !stored_fds.remove("a"));
        stored_fds.put("b", vec![memory(), memory(), memory()]).unwrap();
        assert_eq!((stored_fds.names(), stored_fds.iter().count()), (1, 3));
    }

    #[test]
    fn only_memory_and_tcp_connections_are_kept() {
        let local = (Ipv4Addr::LOCALHOST, 0);
        assert!(may_be_stored(memory().as_fd()));
        let listener = TcpListener::bind(local).unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(may_be_stored(connection.as_fd()));
        assert!(!may_be_stored(listener.as_fd()));
        assert!(!may_be_stored(UdpSocket::bind(local).unwrap().as_fd()));
        let (left, _right) = super::super::seqpacket::pair().unwrap();
        assert!(!may_be_stored(left.as_fd()));
        assert!(!may_be_stored(std::fs::File::open("/dev/null").unwrap().as_fd()));
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
            // After a reset the read fails, after a FIN it returns 0. In both cases the end has arrived.
            let _ = (&near).read(&mut [0]);
            assert!(may_be_stored(near.as_fd()), "reset: {is_reset}");
        }
    }

    #[test]
    fn sockets_that_can_still_be_made_to_listen_are_not_kept() {
        let stream = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let fresh = stream();
        assert!(!may_be_stored(fresh.as_fd()));
        fresh
            .bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
            .unwrap();
        assert!(!may_be_stored(fresh.as_fd()));
        let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let undone = TcpStream::connect(peer.local_addr().unwrap()).unwrap();
        disconnect(&undone);
        assert!(!may_be_stored(undone.as_fd()));
        // This is what the check prevents.
        rustix::net::listen(&undone, 1).unwrap();
        assert!(!may_be_stored(undone.as_fd()));
    }

    #[test]
    fn only_ends_of_local_connections_are_tried() {
        let (left, _right) = super::super::seqpacket::pair().unwrap();
        assert!(may_test_store(left.as_fd()));
        let local = (Ipv4Addr::LOCALHOST, 0);
        assert!(!may_test_store(TcpListener::bind(local).unwrap().as_fd()));
        assert!(!may_test_store(UdpSocket::bind(local).unwrap().as_fd()));
        assert!(!may_test_store(memory().as_fd().as_fd()));
        assert!(!may_test_store(UnixDatagram::unbound().unwrap().as_fd()));
    }
}
