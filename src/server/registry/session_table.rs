//! The table of sessions, and the recently closed ones.

use super::recently_closed::RecentlyClosed;
use crate::pump::{Epochs, PathEvent, SessionCommand, SessionStats};
use crate::server::authority::Account;
use crate::server::session_store::Slot;
use crate::wire::{Epoch, Offset, Refusal, SessionId};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// All sessions. Changed by its methods only, so that the owners' counts are right.
pub(super) struct SessionTable {
    pub(super) sessions: HashMap<SessionId, Arc<Entry>>,
    /// How many of them each TLS key has opened.
    owners: HashMap<Bytes, usize>,
    pub(super) ended: RecentlyClosed,
    count: watch::Sender<usize>,
}

/// The number of sessions, for whoever waits until there are none.
#[derive(Clone)]
pub(crate) struct IdleWatch(watch::Receiver<usize>);

impl IdleWatch {
    /// Returns when there was no session for `limit`.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        let mut count = self.0.clone();
        // Without a sender the server half has ended, and somebody else ends this task.
        while count.wait_for(|count| *count == 0).await.is_ok() {
            tokio::select! {
                _ = count.changed() => {}
                () = tokio::time::sleep(limit) => return,
            }
        }
        std::future::pending().await
    }
}

impl SessionTable {
    /// An empty table with these closed sessions.
    pub(super) fn new(ended: RecentlyClosed) -> SessionTable {
        SessionTable {
            sessions: HashMap::new(),
            owners: HashMap::new(),
            ended,
            count: watch::Sender::new(0),
        }
    }

    pub(super) fn idle_watch(&self) -> IdleWatch {
        IdleWatch(self.count.subscribe())
    }

    /// Whether any session was opened under this TLS key.
    pub(super) fn is_owner(&self, key: &Bytes) -> bool {
        self.owners.contains_key(key)
    }

    pub(super) fn insert(&mut self, id: SessionId, entry: Arc<Entry>) {
        *self.owners.entry(entry.owner.clone()).or_default() += 1;
        self.sessions.insert(id, entry);
        self.count.send_replace(self.sessions.len());
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<Arc<Entry>> {
        let entry = self.sessions.remove(&id)?;
        self.count.send_replace(self.sessions.len());
        if let Some(count) = self.owners.get_mut(&entry.owner) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&entry.owner);
            }
        }
        Some(entry)
    }
}

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
