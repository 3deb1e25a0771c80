//! Which keepers of this network namespace need the setup.
//!
//! Each has a Unix socket in the abstract namespace, with a common prefix in its name. Abstract names belong to the
//! network namespace, and the kernel removes them when the process ends. Any local user may use such a name too, but
//! the only effect is that rules stay that nobody needs.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

use crate::random;

const PREFIX: &str = "bowline/client-address/";

#[derive(Debug)]
pub(super) struct Presence {
    _socket: OwnedFd,
    name: String,
}

impl Presence {
    pub(super) fn show() -> io::Result<Presence> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        // A process id is not enough: pid namespaces may share a network namespace.
        let name = format!("{PREFIX}{:016x}", u64::from_ne_bytes(random::bytes()));
        bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        Ok(Presence { _socket: socket, name })
    }

    /// Whether there are other keepers. If that cannot be read, there may be.
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
