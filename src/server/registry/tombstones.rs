//! What became of sessions that ended a short while ago, for clients that ask late.

use crate::clock;
use crate::server::vault::{PLACES, Tombs, Tombstone};
use crate::wire::SessionId;
use aws_lc_rs::digest::{SHA256, digest};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Most that are kept: about 1 MiB.
const MOST: usize = PLACES;
/// A client that was cut off at the very end returns within its patience; after this, `gone` is answer enough.
const LIFETIME: Duration = Duration::from_secs(3600);

/// What `bowline status` still shows: so many, for so long.
const MOST_TOLD: usize = 20;
const TOLD: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(super) struct Tombstones {
    stones: HashMap<SessionId, Tombstone>,
    by_age: VecDeque<(Instant, SessionId)>,
    /// The same for a successor, where there may be one.
    kept: Option<Tombs>,
}

impl Tombstones {
    /// Those of predecessors, to which others are added.
    pub(super) fn kept(tombs: Tombs) -> Tombstones {
        let mut tombstones = Tombstones::default();
        tombs.all().into_iter().for_each(|stone| tombstones.insert(stone));
        tombstones.kept = Some(tombs);
        tombstones
    }

    pub(super) fn add(&mut self, session: SessionId, owner: &[u8], why: String) {
        let stone = Tombstone {
            session,
            owner: hash(owner),
            why,
            at: clock::now(),
        };
        if let Some(kept) = &mut self.kept {
            kept.add(&stone);
        }
        self.insert(stone);
    }

    /// Whether a session of this id ended.
    pub(super) fn holds(&self, session: SessionId) -> bool {
        self.stones.contains_key(&session)
    }

    /// Why a session ended, told to its owner only.
    pub(super) fn why(&self, session: SessionId, key: &[u8]) -> Option<String> {
        let stone = self.stones.get(&session)?;
        (stone.owner == hash(key)).then(|| stone.why.clone())
    }

    /// Those of the last minutes, the newest first: id, why, and how long ago.
    pub(super) fn latest(&self) -> impl Iterator<Item = (SessionId, &str, Duration)> {
        let now = clock::now();
        let newest = self.by_age.iter().rev().take(MOST_TOLD);
        let told = newest.map(move |(at, session)| (*session, now.saturating_duration_since(*at)));
        told.filter(|(_, age)| *age < TOLD)
            .filter_map(|(session, age)| Some((session, self.stones.get(&session)?.why.as_str(), age)))
    }

    fn insert(&mut self, stone: Tombstone) {
        let now = clock::now();
        while let Some((at, oldest)) = self.by_age.front().copied() {
            if self.by_age.len() < MOST && now.saturating_duration_since(at) < LIFETIME {
                break;
            }
            self.by_age.pop_front();
            self.stones.remove(&oldest);
        }
        self.by_age.push_back((stone.at, stone.session));
        self.stones.insert(stone.session, stone);
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
        let mut tombstones = Tombstones::default();
        let id = |n: usize| SessionId::new((n as u128).to_be_bytes());
        for n in 0..MOST + 10 {
            tombstones.add(id(n), b"owner", "ended".into());
        }
        assert_eq!(tombstones.stones.len(), MOST);
        assert_eq!(tombstones.why(id(3), b"owner"), None);
        assert_eq!(tombstones.why(id(MOST), b"owner").as_deref(), Some("ended"));
        assert_eq!(tombstones.why(id(MOST), b"stranger"), None);
    }
}
