//! Why sessions ended recently, for clients that ask later.

use crate::clock;
use crate::server::session_store::{ClosedSession, ClosedSessions, MAX_CLOSED_SESSIONS};
use crate::wire::SessionId;
use aws_lc_rs::digest::{SHA256, digest};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The most entries: about 1 MiB.
const MAX_CLOSED: usize = MAX_CLOSED_SESSIONS;
/// A client that was cut off at the very end comes back within this time. After it, "no such session" suffices.
const CLOSED_TTL: Duration = Duration::from_secs(3600);

/// How many closed sessions `bowline status` shows, and for how long.
const MAX_SHOWN: usize = 20;
const SHOWN_FOR: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(super) struct RecentlyClosed {
    sessions: HashMap<SessionId, ClosedSession>,
    by_age: VecDeque<(Instant, SessionId)>,
    /// The same list for the next worker, if sessions are stored.
    kept: Option<ClosedSessions>,
}

impl RecentlyClosed {
    /// Starts with the list of previous workers.
    pub(super) fn kept(closed_sessions: ClosedSessions) -> RecentlyClosed {
        let mut recently_closed = RecentlyClosed::default();
        closed_sessions
            .all()
            .into_iter()
            .for_each(|closed| recently_closed.insert(closed));
        recently_closed.kept = Some(closed_sessions);
        recently_closed
    }

    pub(super) fn add(&mut self, session: SessionId, owner: &[u8], why: String) {
        let closed = ClosedSession {
            session,
            owner: hash(owner),
            reason: why,
            at: clock::now(),
        };
        if let Some(kept) = &mut self.kept {
            kept.add(&closed);
        }
        self.insert(closed);
    }

    /// Whether a session with this id has ended.
    pub(super) fn holds(&self, session: SessionId) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Why a session ended. Only its owner is told.
    pub(super) fn why(&self, session: SessionId, key: &[u8]) -> Option<String> {
        let closed = self.sessions.get(&session)?;
        (closed.owner == hash(key)).then(|| closed.reason.clone())
    }

    /// Those of the last minutes, the newest first: id, reason and age.
    pub(super) fn latest(&self) -> impl Iterator<Item = (SessionId, &str, Duration)> {
        let now = clock::now();
        let newest = self.by_age.iter().rev().take(MAX_SHOWN);
        let told = newest.map(move |(at, session)| (*session, now.saturating_duration_since(*at)));
        told.filter(|(_, age)| *age < SHOWN_FOR)
            .filter_map(|(session, age)| Some((session, self.sessions.get(&session)?.reason.as_str(), age)))
    }

    fn insert(&mut self, closed: ClosedSession) {
        let now = clock::now();
        while let Some((at, oldest)) = self.by_age.front().copied() {
            if self.by_age.len() < MAX_CLOSED && now.saturating_duration_since(at) < CLOSED_TTL {
                break;
            }
            self.by_age.pop_front();
            self.sessions.remove(&oldest);
        }
        self.by_age.push_back((closed.at, closed.session));
        self.sessions.insert(closed.session, closed);
    }
}

fn hash(key: &[u8]) -> [u8; 32] {
    digest(&SHA256, key).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_give_way_and_strangers_learn_nothing() {
        let mut recently_closed = RecentlyClosed::default();
        let id = |n: usize| SessionId::new((n as u128).to_be_bytes());
        for n in 0..MAX_CLOSED + 10 {
            recently_closed.add(id(n), b"owner", "ended".into());
        }
        assert_eq!(recently_closed.sessions.len(), MAX_CLOSED);
        assert_eq!(recently_closed.why(id(3), b"owner"), None);
        assert_eq!(recently_closed.why(id(MAX_CLOSED), b"owner").as_deref(), Some("ended"));
        assert_eq!(recently_closed.why(id(MAX_CLOSED), b"stranger"), None);
    }
}
