//! How a keeper hands over to another keeper and ends without touching the worker.
//!
//! There are two steps, so that there is exactly one keeper at any moment. What the other keeper gets first gives it
//! no power over the worker. The worker is sent last, in one packet, and with it the handover is complete. If one of
//! the keepers dies in between, the other one is the keeper; if both die, the worker starts a third.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{info, warn};

use super::{
    super::{
        Keeper, fd_bundle,
        handover::Inventory,
        listener::{Protocol, addresses},
        process::Process,
    },
    TakeoverListener, TakeoverServer,
    connections::Peer,
    messages::{KeeperInfo, TakeoverRefusal, TakeoverReply, TakeoverRequest},
};
use crate::fault;

/// How long the other keeper may take to check the handover and to bind missing sockets. Messages of the worker wait
/// meanwhile.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the other keeper may take to accept the next packet.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

impl Keeper {
    /// Answers requests. `true`: another keeper has taken over.
    pub(in super::super) fn serve_takeover(&mut self, now: Instant) -> bool {
        let requests = self
            .takeover
            .as_mut()
            .map(|takeover| takeover.requests(now))
            .unwrap_or_default();
        for (peer, ask) in requests {
            let answered = match ask {
                TakeoverRequest::Identify => peer.send(&TakeoverReply::Identity(self.info(now))),
                TakeoverRequest::TakeOver { version } => match self.refusal(version) {
                    Some(refusal) => peer.send(&TakeoverReply::Refused(refusal)),
                    None if self.hand_over(&peer) => return true,
                    None => continue,
                },
                TakeoverRequest::ConnectToWorker => self.send_worker_connection(&peer),
                // Out of order.
                TakeoverRequest::Commit => continue,
            };
            if let (Ok(()), Some(takeover)) = (answered, &mut self.takeover) {
                takeover.keep(peer, now);
            }
        }
        false
    }

    /// Keeps the previous keeper's socket, unless this keeper has a socket of its own.
    pub(in super::super) fn inherit_takeover_listener(&mut self, listener: Option<TakeoverListener>, now: Instant) {
        match (&self.takeover, listener) {
            (None, Some(listener)) => self.takeover = Some(TakeoverServer::new(listener, now)),
            (Some(takeover), Some(old)) if takeover.listener().file() != old.file() => old.remove(),
            _ => {}
        }
    }

    fn info(&self, now: Instant) -> KeeperInfo {
        let age = self
            .takeover
            .as_ref()
            .map(|takeover| now.saturating_duration_since(takeover.since));
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
            network: super::listener::network(),
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
        let begun = peer.send(&TakeoverReply::Granted);
        fault::pass("granted");
        let begun = begun.and_then(|()| self.inventory().send(&peer.connection, SEND_TIMEOUT));
        if let Err(error) = begun {
            warn!(pid = peer.pid, %error, "cannot hand over: this keeper continues");
            return false;
        }
        if !self.wait_until_ready(peer) {
            warn!(
                pid = peer.pid,
                "another keeper asked for the handover and did not complete it: this keeper continues"
            );
            return false;
        }
        let mut last = Inventory::new(&self.config);
        self.worker.list(&mut last);
        match last.send(&peer.connection, Duration::ZERO) {
            Ok(()) => {
                fault::pass("handed-over");
                info!(by = peer.pid, "another keeper has taken over: this one ends");
                true
            }
            Err(error) => {
                warn!(pid = peer.pid, %error, "cannot hand over the worker: this keeper continues");
                false
            }
        }
    }

    /// Waits for the commit. A signal or the end of a process aborts the handover, because the other keeper would not
    /// learn of it.
    fn wait_until_ready(&self, peer: &Peer) -> bool {
        let worker = self.worker.process().map(Process::as_fd);
        let sidecar = self
            .sidecar
            .as_ref()
            .and_then(super::super::Sidecar::process)
            .map(AsFd::as_fd);
        let sources = [
            Some(peer.connection.as_fd()),
            Some(self.signals.as_fd()),
            worker,
            sidecar,
        ];
        let mut fds: Vec<_> = sources
            .into_iter()
            .flatten()
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        let timeout = Timespec {
            tv_sec: COMMIT_TIMEOUT.as_secs() as _,
            tv_nsec: COMMIT_TIMEOUT.subsec_nanos() as _,
        };
        poll(&mut fds, Some(&timeout)).is_ok() && matches!(peer.receive(), Ok(Some(TakeoverRequest::Commit)))
    }
}
