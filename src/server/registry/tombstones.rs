//! What became of sessions that ended a short while ago, for clients that ask late.

use crate::clock;
use crate::wire::SessionId;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Most that are kept: about 1 MiB.
const MOST: usize = 4096;
/// A client that was cut off at the very end returns within its patience; after this, `gone` is answer enough.
const LIFETIME: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub(super) struct Tombstones {
    stones: HashMap<SessionId, Stone>,
    by_age: VecDeque<(Instant, SessionId)>,
}

struct Stone {
    owner: Bytes,
    why: String,
}

impl Tombstones {
    pub(super) fn add(&mut self, session: SessionId, owner: Bytes, why: String) {
        let now = clock::now();
        while let Some((at, oldest)) = self.by_age.front().copied() {
            if self.by_age.len() < MOST && now.saturating_duration_since(at) < LIFETIME {
                break;
            }
            self.by_age.pop_front();
            self.stones.remove(&oldest);
        }
        self.by_age.push_back((now, session));
        self.stones.insert(session, Stone { owner, why });
    }

    pub(super) fn owner(&self, session: SessionId) -> Option<&Bytes> {
        self.stones.get(&session).map(|stone| &stone.owner)
    }

    /// Why a session ended, told to its owner only.
    pub(super) fn why(&self, session: SessionId, key: &[u8]) -> Option<String> {
        self.stones
            .get(&session)
            .filter(|stone| stone.owner == key)
            .map(|stone| stone.why.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_give_way_and_strangers_learn_nothing() {
        let mut tombstones = Tombstones::default();
        let id = |n: usize| SessionId::new((n as u128).to_be_bytes());
        for n in 0..MOST + 10 {
            tombstones.add(id(n), Bytes::from_static(b"owner"), "ended".into());
        }
        assert_eq!(tombstones.stones.len(), MOST);
        assert_eq!(tombstones.why(id(3), b"owner"), None);
        assert_eq!(tombstones.why(id(MOST), b"owner").as_deref(), Some("ended"));
        assert_eq!(tombstones.why(id(MOST), b"stranger"), None);
    }
}
