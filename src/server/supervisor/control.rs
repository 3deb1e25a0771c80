//! What the keeper answers on its control socket: who it is, a connection to its worker for `bowline status` and
//! `bowline kill`, and its handover to another keeper.
//!
//! Only root and the keeper's own user get this far ([`Peer`]). The keeper creates the connection to its worker, which
//! has no socket in a folder, and does not read what is sent on it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tracing::debug;

use super::{Keeper, Sidecar, process::Process};
use crate::server::{
    handover::{Inventory, Protocol, addresses},
    ipc::{
        self, ControlReply, ControlRequest, KeeperInfo, KeeperMessage, TakeoverRefusal,
        control_socket::{ControlListener, ControlServer, Peer, network},
        fd_bundle, seqpacket,
    },
    takeover,
};

impl Keeper {
    /// Answers requests. `true`: another keeper has taken over.
    pub(super) fn serve_control_socket(&mut self, now: Instant) -> bool {
        let requests = self
            .control
            .as_mut()
            .map(|control| control.requests(now))
            .unwrap_or_default();
        for (peer, request) in requests {
            let answered = match request {
                ControlRequest::Identify => peer.send(&ControlReply::Identity(self.info(now))),
                ControlRequest::ConnectToWorker => self.send_worker_connection(&peer),
                ControlRequest::TakeOver { version } => match self.refusal(version) {
                    Some(refusal) => peer.send(&ControlReply::Refused(refusal)),
                    None if self.hand_over(&peer) => return true,
                    None => continue,
                },
                // Out of order.
                ControlRequest::Commit => continue,
            };
            if let (Ok(()), Some(control)) = (answered, &mut self.control) {
                control.keep(peer, now);
            }
        }
        false
    }

    /// Keeps the previous keeper's socket, unless this keeper has a socket of its own.
    pub(super) fn inherit_control_listener(&mut self, listener: Option<ControlListener>, now: Instant) {
        match (&self.control, listener) {
            (None, Some(listener)) => self.control = Some(ControlServer::new(listener, now)),
            (Some(control), Some(old)) if control.listener().file() != old.file() => old.remove(),
            _ => {}
        }
    }

    fn info(&self, now: Instant) -> KeeperInfo {
        let age = self
            .control
            .as_ref()
            .map(|control| now.saturating_duration_since(control.since));
        KeeperInfo {
            keeper: std::process::id(),
            worker: self.worker_pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: addresses(&self.listeners, Protocol::Udp),
            tls_addresses: addresses(&self.listeners, Protocol::Tcp),
            client_address: self.config.client_address_name.clone(),
            age: age.unwrap_or_default(),
            managed: self.config.manager.is_some(),
            store_shortage: self.store_shortage(),
            network: network(),
        }
    }

    fn refusal(&self, version: u32) -> Option<TakeoverRefusal> {
        match () {
            () if version != fd_bundle::VERSION => Some(TakeoverRefusal::Version {
                theirs: fd_bundle::VERSION,
            }),
            () if self.ending.is_some() => Some(TakeoverRefusal::Ending),
            () if self.config.manager.is_some() => Some(TakeoverRefusal::Managed),
            () => None,
        }
    }

    /// Returns whether the peer is the keeper now.
    fn hand_over(&self, peer: &Peer) -> bool {
        let mut worker = Inventory::new(&self.config);
        self.worker.list(&mut worker);
        let processes = [self.worker.process(), self.sidecar.as_ref().and_then(Sidecar::process)];
        let processes = processes.into_iter().flatten().map(Process::as_fd);
        let interrupts: Vec<_> = processes.chain([self.signals.as_fd()]).collect();
        takeover::hand_over(peer, &self.inventory(), &worker, &interrupts)
    }

    fn send_worker_connection(&self, peer: &Peer) -> io::Result<()> {
        match self.connect_to_worker() {
            Ok(connection) => {
                let reply = serde_json::to_vec(&ControlReply::WorkerConnection)?;
                seqpacket::send(&peer.connection, &reply, &[connection.as_fd()])
            }
            Err(error) => {
                debug!(pid = peer.pid, %error, "cannot connect a status client to the worker");
                peer.send(&ControlReply::NoWorker)
            }
        }
    }

    fn connect_to_worker(&self) -> io::Result<OwnedFd> {
        let control = self.worker.control().ok_or(io::ErrorKind::NotConnected)?;
        let (theirs, workers) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        ipc::send_with(control, &KeeperMessage::StatusClient, &[workers.as_fd()])?;
        Ok(theirs)
    }
}
