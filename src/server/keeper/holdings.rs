//! Descriptors that are kept, by name.
//!
//! The keeper has one of these for its worker; the worker has the same, for a keeper that it may have to raise.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::net::{AddressFamily, SocketType, sockopt};

use super::listener::listens;

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

    /// How many names there are.
    pub(super) fn names(&self) -> usize {
        self.kept.len()
    }
}

/// Whether it is something that a worker may want kept: memory, or a TCP connection. Anything else could hold up
/// whoever has it, be a way to something that is none of the worker's business, or come back as what it is not: a
/// socket that listens is the keeper's.
pub(super) fn may_be_kept(descriptor: BorrowedFd<'_>) -> bool {
    // Only files in memory can be sealed (fcntl(2)).
    let is_memory = || rustix::fs::fcntl_get_seals(descriptor).is_ok();
    let is_inet = || {
        sockopt::socket_domain(descriptor)
            .is_ok_and(|domain| matches!(domain, AddressFamily::INET | AddressFamily::INET6))
    };
    let is_stream = || sockopt::socket_type(descriptor.as_fd()).is_ok_and(|kind| kind == SocketType::STREAM);
    is_memory() || (is_inet() && is_stream() && !listens(descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

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
        assert!(may_be_kept(memory().as_fd().as_fd()));
        let listener = TcpListener::bind(local).unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(may_be_kept(connection.as_fd()));
        assert!(!may_be_kept(listener.as_fd()));
        assert!(!may_be_kept(UdpSocket::bind(local).unwrap().as_fd()));
        let (left, _right) = super::super::packet::pair().unwrap();
        assert!(!may_be_kept(left.as_fd()));
        assert!(!may_be_kept(std::fs::File::open("/dev/null").unwrap().as_fd()));
    }
}
