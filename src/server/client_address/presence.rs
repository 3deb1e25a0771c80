//! Which keepers of this network namespace need what was set up.
//!
//! Each has a Unix socket with a name that begins alike, in the abstract namespace: that belongs to the network namespace,
//! and the kernel takes it away when the process ends, however it ends. Any local user may have such a name too: all that
//! comes of it is that rules stay that nobody needs.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

const PREFIX: &str = "bowline/client-address/";

#[derive(Debug)]
pub(super) struct Presence {
    _socket: OwnedFd,
    name: String,
}

impl Presence {
    pub(super) fn show() -> io::Result<Presence> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        // A process id alone is not enough: process namespaces share a network.
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::ErrorKind::Other)?;
        let name = format!("{PREFIX}{:016x}", u64::from_ne_bytes(random));
        bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        Ok(Presence { _socket: socket, name })
    }

    /// Whether there are others. If that cannot be told, there may be.
    pub(super) fn others(&self) -> bool {
        let Ok(table) = fs::read_to_string("/proc/self/net/unix") else {
            return true;
        };
        let names = table
            .lines()
            .filter_map(|line| line.rsplit_once('@').map(|(_, name)| name));
        names
            .filter(|name| name.starts_with(PREFIX))
            .any(|name| name != self.name)
    }
}
