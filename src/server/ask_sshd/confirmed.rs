//! Keys that sshd accepted from an address that is not on loopback.
//!
//! Pure bookkeeping behind a lock; time is an argument.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;

use crate::identity::statement::ProvenKey;

/// How long such an answer is valid. sshd is asked about the key itself at each open; only a new `from=` option on it
/// may go unnoticed for this long. An sshd with penalties counts each question against one address of this machine.
const CONFIRMED_TTL: Duration = Duration::from_secs(600);

/// The most answers, about 100 bytes each. Beyond it the oldest is removed.
const MAX_CONFIRMED: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Confirmed(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    until: HashMap<[u8; 32], Instant>,
    /// Oldest first.
    order: VecDeque<[u8; 32]>,
}

impl Confirmed {
    pub(super) fn contains(&self, user: &str, key: &ProvenKey, now: Instant) -> bool {
        let entries = self.0.lock();
        entries.until.get(&name(user, key)).is_some_and(|until| now < *until)
    }

    pub(super) fn insert(&self, user: &str, key: &ProvenKey, now: Instant) {
        let mut entries = self.0.lock();
        let name = name(user, key);
        if entries.until.insert(name, now + CONFIRMED_TTL).is_none() {
            entries.order.push_back(name);
        }
        while entries.order.len() > MAX_CONFIRMED {
            let Some(oldest) = entries.order.pop_front() else { break };
            entries.until.remove(&oldest);
        }
    }
}

fn name(user: &str, key: &ProvenKey) -> [u8; 32] {
    let length = u64::try_from(user.len()).unwrap_or(u64::MAX).to_be_bytes();
    let all = [&length, user.as_bytes(), &key.blob].concat();
    let digest = digest(&SHA256, &all);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
