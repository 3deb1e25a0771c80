//! Connects a client of the status protocol to the worker, which has no socket of its own in a folder.
//!
//! The keeper checks the client's user and creates the connection. It does not read what is sent on it.

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
        seqpacket,
    },
    connections::Peer,
    messages::TakeoverReply,
};

impl Keeper {
    pub(super) fn send_worker_connection(&self, peer: &Peer) -> io::Result<()> {
        match self.connect_to_worker() {
            Ok(connection) => {
                let tell = serde_json::to_vec(&TakeoverReply::WorkerConnection)?;
                seqpacket::send(&peer.connection, &tell, &[connection.as_fd()])
            }
            Err(error) => {
                debug!(pid = peer.pid, %error, "cannot connect a status client to the worker");
                peer.send(&TakeoverReply::NoWorker)
            }
        }
    }

    fn connect_to_worker(&self) -> io::Result<OwnedFd> {
        let control = self.worker.control().ok_or(io::ErrorKind::NotConnected)?;
        let (theirs, workers) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        control::send_with(control, &FromKeeper::StatusClient, &[workers.as_fd()])?;
        Ok(theirs)
    }
}
