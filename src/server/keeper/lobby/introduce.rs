//! How somebody who wants to know of sessions gets to the worker, which has no door of its own.
//!
//! The keeper has seen who it is, makes the connection, and hears nothing of what is said on it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tracing::debug;

use super::{
    super::{
        Keeper,
        control::{self, FromKeeper},
        packet,
    },
    guests::Guest,
    words::Tell,
};

impl Keeper {
    pub(super) fn introduce(&self, guest: &Guest) -> io::Result<()> {
        match self.connect_to_worker() {
            Ok(connection) => {
                let tell = serde_json::to_vec(&Tell::Worker)?;
                packet::send(&guest.connection, &tell, &[connection.as_fd()])
            }
            Err(error) => {
                debug!(pid = guest.pid, %error, "nobody to introduce to");
                guest.tell(&Tell::NoWorker)
            }
        }
    }

    fn connect_to_worker(&self) -> io::Result<OwnedFd> {
        let control = self.worker.control().ok_or(io::ErrorKind::NotConnected)?;
        let (theirs, workers) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        control::send_with(control, &FromKeeper::Visitor, &[workers.as_fd()])?;
        Ok(theirs)
    }
}
