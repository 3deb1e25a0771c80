//! The table of sessions, and the recently closed ones.

use super::entry::Entry;
use super::recently_closed::RecentlyClosed;
use crate::wire::SessionId;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// All sessions. Changed by its methods only, so that the owners' counts are right.
pub(super) struct SessionTable {
    pub(super) sessions: HashMap<SessionId, Arc<Entry>>,
    /// How many of them each TLS key has opened.
    owners: HashMap<Bytes, usize>,
    pub(super) ended: RecentlyClosed,
}

impl SessionTable {
    /// An empty table with these closed sessions.
    pub(super) fn new(ended: RecentlyClosed) -> SessionTable {
        SessionTable {
            sessions: HashMap::new(),
            owners: HashMap::new(),
            ended,
        }
    }

    /// Whether any session was opened under this TLS key.
    pub(super) fn is_owner(&self, key: &Bytes) -> bool {
        self.owners.contains_key(key)
    }

    pub(super) fn insert(&mut self, id: SessionId, entry: Arc<Entry>) {
        *self.owners.entry(entry.owner.clone()).or_default() += 1;
        self.sessions.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<Arc<Entry>> {
        let entry = self.sessions.remove(&id)?;
        if let Some(count) = self.owners.get_mut(&entry.owner) {
            *count -= 1;
            if *count == 0 {
                self.owners.remove(&entry.owner);
            }
        }
        Some(entry)
    }
}
