//! Whether another session is allowed, and which session ends to make room for it.

use super::super::authority::{Account, refusal};
use super::session_table::Entry;
use super::{Registry, SessionTable};
use crate::wire::{Refusal, RefusalCode};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// sshd has ended such a session. Only its last bytes are left, which a running client fetches as soon as it is back.
const INPUT_ENDED_AFTER: Duration = Duration::from_secs(60);

impl Registry {
    /// Checks the limits, and ends a session of the same key if that makes room. A session whose client was killed
    /// looks like one in an outage, so it must have been without a client for some time. No session of another key
    /// ends as long as it could continue.
    pub(super) fn make_room(&self, table: &SessionTable, account: &Account) -> Result<(), Refusal> {
        let running = || table.sessions.values().filter(|entry| entry.is_running());
        let own = || running().filter(|entry| entry.account == *account);
        let is_full = running().count() >= self.limits.sessions;
        let is_key_full = own().count() >= self.limits.sessions_per_key;
        if !is_full && !is_key_full {
            return Ok(());
        }
        if let Some((entry, detached_for)) = self.abandoned(own()) {
            let detached_s = detached_for.as_secs();
            info!(key = account.0, user = entry.user, opened_from = %entry.opened_from, detached_s,
                "session limit reached: ending the session of this key that was without a client for longest");
            entry.end(&format!(
                "the session limit was reached, and this session had been without a client for {detached_s} s"
            ));
            return Ok(());
        }
        if is_key_full {
            return Err(self.key_is_full(account, own()));
        }
        let left = longest_detached(running().filter(|entry| entry.stats.is_input_ended()));
        if let Some((entry, _)) = left.filter(|(_, detached_for)| *detached_for >= self.limits.abandoned_after) {
            info!(
                key = entry.account.0,
                "session limit reached: ending a session that sshd had already ended"
            );
            entry.end("the session limit was reached, and sshd had already ended this session");
            return Ok(());
        }
        warn!(
            event = "refused",
            key = account.0,
            limit = self.limits.sessions,
            "refused: the session limit is reached"
        );
        let most = self.limits.sessions;
        let message = match own().count() {
            0 => format!("{most} sessions are open, no more are allowed"),
            _ => format!(
                "{most} sessions are open, no more are allowed; of this key: {}",
                self.occupation(own())
            ),
        };
        Err(refusal(RefusalCode::Busy, message))
    }

    fn key_is_full<'a>(&self, account: &Account, own: impl Iterator<Item = &'a Arc<Entry>> + Clone) -> Refusal {
        let limit = self.limits.sessions_per_key;
        warn!(
            event = "refused",
            key = account.0,
            limit,
            "refused: the session limit of this key is reached"
        );
        let message = format!(
            "this key has {} sessions, and {limit} are allowed: {}",
            own.clone().count(),
            self.occupation(own)
        );
        refusal(RefusalCode::Busy, message)
    }

    /// Describes the sessions of a key that is refused, and when the next of them may end.
    fn occupation<'a>(&self, own: impl Iterator<Item = &'a Arc<Entry>> + Clone) -> String {
        let after = self.limits.abandoned_after;
        let detached = own.clone().filter(|entry| entry.detached_for().is_some()).count();
        let attached = own.clone().count() - detached;
        let next = longest_detached(own).map(|(_, detached_for)| after.saturating_sub(detached_for));
        match next {
            None => format!("{attached} with a client, none without"),
            Some(next) => format!(
                "{attached} with a client, {detached} without one for less than {} s; the next of these can be replaced in {} s",
                after.as_secs(),
                next.as_secs() + 1
            ),
        }
    }

    /// The session that may end in favour of another of the same key, and how long it has been without a client.
    /// Sessions that sshd has ended come first, then the one without a client for longest.
    fn abandoned<'a>(&self, own: impl Iterator<Item = &'a Arc<Entry>> + Clone) -> Option<(&'a Arc<Entry>, Duration)> {
        let after = self.limits.abandoned_after;
        let beyond = |(_, detached_for): &(_, Duration), limit| *detached_for >= limit;
        let left = longest_detached(own.clone().filter(|entry| entry.stats.is_input_ended()));
        let left = left.filter(|found| beyond(found, after.min(INPUT_ENDED_AFTER)));
        left.or_else(|| longest_detached(own).filter(|found| beyond(found, after)))
    }
}

fn longest_detached<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> Option<(&'a Arc<Entry>, Duration)> {
    let detached = entries.filter_map(|entry| Some((entry, entry.detached_for()?)));
    detached.max_by_key(|(_, detached_for)| *detached_for)
}
