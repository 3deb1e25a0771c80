//! A session's entry in the registry.

use crate::pump::{Epochs, PathEvent, SessionCommand, SessionStats};
use crate::server::authority::Account;
use crate::server::session_store::Slot;
use crate::wire::{Epoch, Offset, Refusal};
use bytes::Bytes;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A session, as the rest of the server half sees it.
pub(super) struct Entry {
    pub(super) owner: Bytes,
    pub(super) account: Account,
    pub(super) user: String,
    /// The client half's address at the open.
    pub(super) opened_from: SocketAddr,
    /// Our end of the connection to sshd: the address that sshd sees. Set once connected.
    pub(super) upstream_from: OnceLock<SocketAddr>,
    pub(super) reap_hash: [u8; 32],
    pub(super) path_events: mpsc::Sender<PathEvent>,
    pub(super) commands: mpsc::Sender<SessionCommand>,
    pub(super) stats: Arc<SessionStats>,
    /// The highest epoch of any carrier that has led the session.
    pub(super) epochs: Arc<Epochs>,
    /// Set once the session is connected to sshd and stored, or has failed.
    pub(super) ready: watch::Receiver<Option<Result<(), Refusal>>>,
    /// Set by [`Entry::end`].
    pub(super) is_told_to_end: AtomicBool,
    /// Its slot in the session store.
    pub(super) slot: Mutex<Option<Slot>>,
}

/// A client half's request that a carrier shall lead the session.
pub(super) struct AttachRequest {
    pub(super) epoch: Epoch,
    pub(super) received: Offset,
    pub(super) window: u64,
    pub(super) key: Option<u8>,
    /// The bytes that followed the hello, from the start of the stream.
    pub(super) first: Bytes,
}

impl Entry {
    pub(super) fn end(&self, why: &str) {
        self.is_told_to_end.store(true, Relaxed);
        self.order(SessionCommand::End(why.to_owned()));
    }

    /// Whether it counts for limits: it has not ended, and was not told to end.
    pub(super) fn is_running(&self) -> bool {
        !self.stats.is_ended() && !self.is_told_to_end.load(Relaxed)
    }

    /// How long it has been without a client; `None` while it has one.
    pub(super) fn detached_for(&self) -> Option<Duration> {
        self.stats.outages().detached_for
    }

    pub(super) fn order(&self, order: SessionCommand) {
        // If the channel is full, it holds an order to end already.
        let _ = self.commands.try_send(order);
    }
}
