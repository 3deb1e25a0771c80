//! The table of sessions, and the recently closed ones.

use super::entry::Entry;
use super::recently_closed::RecentlyClosed;
use crate::wire::SessionId;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

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
