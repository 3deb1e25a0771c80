//! Descriptors that outlive the worker: the store, what may be stored in it, and how many descriptors there may be.
//!
//! The keeper stores them for its worker, by name; the worker has the same list for a keeper that it may have to start.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    pin::Pin,
    sync::Arc,
};

use rustix::{
    net::{AddressFamily, SocketType, sockopt},
    process::Resource,
};
use tracing::debug;

use super::listener::listens;
use crate::tcp_info::TcpInfo;

/// Descriptors that a worker, which needs the most, needs for each session: the connection to sshd, the memory, a
/// timer, the carrier, and a standby carrier if those are over TCP.
const PER_SESSION: usize = 5;

/// Descriptors for everything else: sockets, questions to sshd (at most 16 at a time), handshakes, log files, the
/// runtime.
const RESERVE: usize = 256;

/// Descriptors stored for each session.
pub(in crate::server) const STORED_PER_SESSION: usize = 2;

/// Descriptors stored for other purposes, with some to spare.
pub(in crate::server) const STORED_BESIDE: usize = 16;

/// Keeps descriptors beyond the life of this process.
pub trait FdStore: Send + Sync {
    /// Stores descriptors under a name of 1 to 8 characters of `0-9a-z`, in addition to those that are stored there
    /// already. Returns once the keeper (and the service manager, if there is one) has stored them.
    ///
    /// # Errors
    /// See [`FdStoreError`]. Nothing of it is stored then.
    fn put<'a>(
        &'a self,
        name: &'a str,
        descriptors: Vec<Arc<OwnedFd>>,
    ) -> Pin<Box<dyn Future<Output = Result<(), FdStoreError>> + Send + 'a>>;

    /// Removes everything that is stored under this name.
    fn remove(&self, name: &str);
}

/// Why descriptors are not stored.
#[derive(Debug, thiserror::Error)]
pub enum FdStoreError {
    /// The store is full.
    #[error("the descriptor store is full ({limit} descriptors)")]
    Full {
        /// The most descriptors.
        limit: usize,
    },
    /// The keeper has died and is not replaced.
    #[error("the keeper has ended")]
    Gone,
    /// The keeper did not confirm in time.
    #[error("the keeper did not confirm within 5 s that it has stored the session")]
    Timeout,
    /// The name is not valid, or is reserved for the keeper. Nothing was sent.
    #[error("the keeper stores nothing under the name {name}")]
    Name {
        /// The name.
        name: String,
    },
    /// More descriptors than a message can have. Nothing was sent.
    #[error("{given} descriptors cannot be stored at once")]
    TooMany {
        /// How many were to be stored.
        given: usize,
    },
    /// The message could not be sent.
    #[error("cannot send descriptors to the keeper")]
    Send(#[source] io::Error),
}

/// The limit is reached.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::server) struct Full;

#[derive(Debug)]
pub(in crate::server) struct StoredFds {
    kept: BTreeMap<String, Vec<Arc<OwnedFd>>>,
    count: usize,
    /// The most descriptors.
    limit: usize,
}

impl StoredFds {
    pub(in crate::server) fn new(limit: usize) -> Self {
        let (kept, count) = Default::default();
        Self { kept, count, limit }
    }

    /// Descriptors that were stored earlier, however many.
    pub(in crate::server) fn of(stored: Vec<(String, Arc<OwnedFd>)>, limit: usize) -> Self {
        let mut stored_fds = Self::new(usize::MAX);
        for (name, descriptor) in stored {
            // There is no limit here.
            let _ = stored_fds.put(&name, vec![descriptor]);
        }
        Self { limit, ..stored_fds }
    }

    /// Adds descriptors under a name: all of them or none.
    pub(in crate::server) fn put(&mut self, name: &str, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), Full> {
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
    pub(in crate::server) fn remove(&mut self, name: &str) -> bool {
        let removed = self.kept.remove(name).unwrap_or_default();
        self.count -= removed.len();
        !removed.is_empty()
    }

    /// Each name with each of its descriptors.
    pub(in crate::server) fn iter(&self) -> impl Iterator<Item = (&str, &Arc<OwnedFd>)> {
        self.kept
            .iter()
            .flat_map(|(name, kept)| kept.iter().map(move |descriptor| (name.as_str(), descriptor)))
    }

    /// Each name with all its descriptors.
    pub(in crate::server) fn groups(&self) -> impl Iterator<Item = (&str, &[Arc<OwnedFd>])> {
        self.kept.iter().map(|(name, kept)| (name.as_str(), kept.as_slice()))
    }

    /// The number of descriptors.
    pub(in crate::server) fn count(&self) -> usize {
        self.count
    }

    /// The number of names.
    pub(in crate::server) fn names(&self) -> usize {
        self.kept.len()
    }
}

/// Whether a worker may store this descriptor: a memfd, or a TCP connection that the worker opened. Any other
/// descriptor could block its holder, give access to something that is none of the worker's business, or be taken for
/// something else when it comes back: a listening socket is taken for one of the keeper's. A TCP socket that was never
/// connected, or that was disconnected, can still be made to listen; the kernel counts no acknowledged bytes for it.
pub(in crate::server) fn may_be_stored(descriptor: BorrowedFd<'_>) -> bool {
    // Only memfds can be sealed (fcntl(2)).
    let is_memory = || rustix::fs::fcntl_get_seals(descriptor).is_ok();
    is_memory() || (is_inet_stream(descriptor) && was_connected(descriptor))
}

/// Whether a worker may test the service manager's store with this descriptor: an end of a connection within this
/// machine, which leads to nobody but the worker.
pub(in crate::server) fn may_test_store(descriptor: BorrowedFd<'_>) -> bool {
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

/// Raises the soft limit to the hard one: the usual soft limit of 1024 exists for programs that use select(2). Returns
/// the new limit; `None`: there is none.
pub fn raise_descriptor_limit() -> Option<usize> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        debug!(%error, "cannot raise the limit of open files");
        limit.current = before;
    }
    limit.current.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many descriptors are stored for this many sessions.
pub fn store_limit(sessions: usize) -> usize {
    sessions
        .saturating_mul(STORED_PER_SESSION)
        .saturating_add(STORED_BESIDE)
}

/// How many sessions keeper and worker can have with this many descriptors.
pub fn sessions_within(descriptors: usize) -> usize {
    descriptors.saturating_sub(RESERVE) / PER_SESSION
}

/// How many descriptors a process needs for this many sessions.
pub fn descriptors_for(sessions: usize) -> usize {
    sessions.saturating_mul(PER_SESSION).saturating_add(RESERVE)
}

/// connect(2) with AF_UNSPEC: as a compromised worker might do.
#[cfg(test)]
pub(in crate::server) fn disconnect(socket: impl std::os::fd::AsFd) {
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
        let (left, _right) = crate::server::ipc::seqpacket::pair().unwrap();
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
        let (left, _right) = crate::server::ipc::seqpacket::pair().unwrap();
        assert!(may_test_store(left.as_fd()));
        let local = (Ipv4Addr::LOCALHOST, 0);
        assert!(!may_test_store(TcpListener::bind(local).unwrap().as_fd()));
        assert!(!may_test_store(UdpSocket::bind(local).unwrap().as_fd()));
        assert!(!may_test_store(memory().as_fd().as_fd()));
        assert!(!may_test_store(UnixDatagram::unbound().unwrap().as_fd()));
    }

    #[test]
    fn usual_limits_allow_the_usual_number_of_sessions() {
        assert_eq!((sessions_within(5256), descriptors_for(1000)), (1000, 5256));
        assert_eq!(
            (sessions_within(260), sessions_within(261), descriptors_for(1)),
            (0, 1, 261)
        );
        assert_eq!(sessions_within(100), 0);
        assert_eq!(store_limit(1000), 2016);
    }
}
