//! Whether there is room for one more session, and who ends to make it.

use super::super::authority::{Account, refusal};
use super::entry::oldest_detached;
use super::{Known, Registry};
use crate::wire::{Refusal, RefusalCode};
use tracing::{info, warn};

impl Registry {
    /// Counts, and ends a detached session where that makes room.
    pub(super) fn make_room(&self, known: &Known, account: &Account) -> Result<(), Refusal> {
        let running = || known.sessions.values().filter(|entry| !entry.facts.is_ended());
        if running().count() >= self.limits.sessions {
            // Only those that sshd has left already: what they still hold is a few last bytes.
            let mut left = running().filter(|entry| entry.facts.is_input_ended());
            let left = oldest_detached(left.clone()).or_else(|| left.next());
            let Some(entry) = left else {
                warn!(event = "refused", limit = self.limits.sessions, "too many sessions");
                let message = format!("{} sessions are open, no more are allowed", self.limits.sessions);
                return Err(refusal(RefusalCode::Busy, message));
            };
            entry.end("the server half was full, and sshd had ended this session already");
        }
        let own = || running().filter(|entry| entry.account == *account);
        if own().count() < self.limits.sessions_per_key {
            return Ok(());
        }
        let Some(entry) = oldest_detached(own()) else {
            let limit = self.limits.sessions_per_key;
            warn!(
                event = "refused",
                key = account.0,
                limit,
                "too many sessions of one key"
            );
            return Err(refusal(
                RefusalCode::Busy,
                format!("this key has {limit} sessions in use, no more are allowed"),
            ));
        };
        info!(key = account.0, "key at its limit: its oldest detached session ends");
        entry.end("the key has too many sessions, and this one was detached longest");
        Ok(())
    }
}
