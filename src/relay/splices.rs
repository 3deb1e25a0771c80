//! What is joined at this moment, one by one: for those who ask what the relay does.
//!
//! There are never more than the quotas let in, so nothing here has a bound of its own but [`MOST_TOLD`].

use super::windows::Stalled;
use crate::carrier::via::RelayTransport;
use crate::observe::{PathReport, milliseconds};
use crate::wire::KeyDigest;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Most that are told of, the newest: a screen shows fifty, and a relay may carry thousands.
const MOST_TOLD: usize = 1000;

/// All splices, by when they came.
#[derive(Default)]
pub(super) struct Splices(Mutex<Joined>);

#[derive(Default)]
struct Joined {
    /// How many there have been.
    came: u64,
    now: BTreeMap<u64, Arc<Splice>>,
}

/// A client that is joined to a server half.
pub(super) struct Splice {
    client: SocketAddr,
    by: RelayTransport,
    /// The host key that it asked for.
    host_key: KeyDigest,
    since: Instant,
    /// What waits for the client on a connection that others use as well.
    stalled: Option<Stalled>,
    /// Bytes from the client.
    pub(super) up: AtomicU64,
    /// Bytes from the server half.
    pub(super) down: AtomicU64,
}

/// A splice for as long as it lasts: dropped, it is told of no more.
pub(super) struct Entry<'a> {
    splices: &'a Splices,
    number: u64,
    splice: Arc<Splice>,
}

impl Splices {
    /// A client is joined to the server half with this host key.
    pub(super) fn enter(
        &self,
        client: SocketAddr,
        by: RelayTransport,
        host_key: KeyDigest,
        stalled: Option<Stalled>,
        now: Instant,
    ) -> Entry<'_> {
        let splice = Arc::new(Splice {
            client,
            by,
            host_key,
            since: now,
            stalled,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        });
        let mut joined = self.joined();
        let number = joined.came;
        joined.came += 1;
        joined.now.insert(number, Arc::clone(&splice));
        Entry {
            splices: self,
            number,
            splice,
        }
    }

    /// Time has passed: see [`Stalled::tick`].
    pub(super) fn tick(&self) {
        // Without the lock, as below.
        let all: Vec<_> = self.joined().now.values().cloned().collect();
        all.iter().filter_map(|splice| splice.stalled()).for_each(Stalled::tick);
    }

    /// The newest, and they first.
    pub(super) fn report(&self, now: Instant) -> Vec<PathReport> {
        // Looked at without the lock, which everybody who comes and goes waits for.
        let newest: Vec<_> = self.joined().now.values().rev().take(MOST_TOLD).cloned().collect();
        newest.iter().map(|splice| splice.report(now)).collect()
    }

    fn joined(&self) -> MutexGuard<'_, Joined> {
        // Plain values: a panic elsewhere cannot have left them half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Splice {
    /// What to tell where nothing is taken from the server half.
    pub(super) fn stalled(&self) -> Option<&Stalled> {
        self.stalled.as_ref()
    }

    fn report(&self, now: Instant) -> PathReport {
        PathReport {
            peer: self.client,
            transport: self.by.to_string(),
            host_key: self.host_key.to_string(),
            bytes_up: self.up.load(Relaxed),
            bytes_down: self.down.load(Relaxed),
            age_ms: milliseconds(now.saturating_duration_since(self.since)),
        }
    }
}

impl Entry<'_> {
    pub(super) fn splice(&self) -> &Splice {
        &self.splice
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.splices.joined().now.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use std::time::Duration;

    const KEY: KeyDigest = KeyDigest::new([7; 32]);

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 7], port))
    }

    #[test]
    fn a_splice_is_told_of_with_its_own_bytes_while_it_lasts() {
        let (splices, now) = (Splices::default(), clock::now());
        let first = splices.enter(client(1), RelayTransport::Quic, KEY, None, now);
        let second = splices.enter(client(2), RelayTransport::Tls, KEY, None, now + Duration::from_secs(1));
        first.splice().up.store(5, Relaxed);
        first.splice().down.store(6, Relaxed);
        let told = splices.report(now + Duration::from_secs(3));
        let expected = PathReport {
            peer: client(1),
            transport: "quic".to_owned(),
            host_key: KEY.to_string(),
            bytes_up: 5,
            bytes_down: 6,
            age_ms: 3000,
        };
        assert_eq!(told[1], expected);
        assert_eq!((told[0].peer, told[0].bytes_up, told[0].age_ms), (client(2), 0, 2000));
        drop(second);
        assert_eq!(splices.report(now), [PathReport { age_ms: 0, ..expected }]);
        drop(first);
        assert_eq!(splices.report(now), []);
    }

    #[test]
    fn of_thousands_the_newest_are_told_of() {
        let (splices, now) = (Splices::default(), clock::now());
        let enter = |port| splices.enter(client(port), RelayTransport::Quic, KEY, None, now);
        let _all: Vec<_> = (0..2500).map(enter).collect();
        let told = splices.report(now);
        assert_eq!(told.len(), MOST_TOLD);
        assert_eq!((told[0].peer, told[MOST_TOLD - 1].peer), (client(2499), client(1500)));
    }
}
