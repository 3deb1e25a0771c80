//! The active splices, for `bowline status`. A splice joins a client's stream to a server half's
//! stream.
//!
//! The quotas bound their number, so that only the report has a bound of its own
//! ([`MAX_REPORTED`]).

use super::windows::StalledStream;
use crate::carrier::via::RelayTransport;
use crate::observe::{PathReport, milliseconds};
use crate::wire::KeyDigest;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Most splices in a report, newest first: a screen shows fifty, and a relay may carry thousands.
const MAX_REPORTED: usize = 1000;

/// All active splices, in the order in which they began.
#[derive(Default)]
pub(super) struct Splices(Mutex<SpliceTable>);

#[derive(Default)]
struct SpliceTable {
    /// The number of the next splice.
    next_number: u64,
    active: BTreeMap<u64, Arc<Splice>>,
}

/// A client that is connected to a server half.
pub(super) struct Splice {
    client: SocketAddr,
    transport: RelayTransport,
    /// The host key for which it asked.
    host_key: KeyDigest,
    since: Instant,
    /// Accounts for bytes that wait for the client on a connection shared by several streams.
    stalled: Option<StalledStream>,
    /// Bytes from the client.
    pub(super) up: AtomicU64,
    /// Bytes from the server half.
    pub(super) down: AtomicU64,
}

/// Keeps a splice in the table; dropping it removes the splice.
pub(super) struct ActiveSplice<'a> {
    splices: &'a Splices,
    number: u64,
    splice: Arc<Splice>,
}

impl Splices {
    /// Adds a splice between a client and the server half with this host key.
    pub(super) fn add(
        &self,
        client: SocketAddr,
        transport: RelayTransport,
        host_key: KeyDigest,
        stalled: Option<StalledStream>,
        now: Instant,
    ) -> ActiveSplice<'_> {
        let splice = Arc::new(Splice {
            client,
            transport,
            host_key,
            since: now,
            stalled,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        });
        let mut table = self.table();
        let number = table.next_number;
        table.next_number += 1;
        table.active.insert(number, Arc::clone(&splice));
        ActiveSplice {
            splices: self,
            number,
            splice,
        }
    }

    /// Periodic: see [`StalledStream::tick`].
    pub(super) fn tick(&self) {
        // Collected first, so that the lock is not held meanwhile.
        let all: Vec<_> = self.table().active.values().cloned().collect();
        all.iter()
            .filter_map(|splice| splice.stalled())
            .for_each(StalledStream::tick);
    }

    /// The newest splices, newest first.
    pub(super) fn report(&self, now: Instant) -> Vec<PathReport> {
        // Collected first: every connection that opens or closes needs the lock.
        let newest: Vec<_> = self.table().active.values().rev().take(MAX_REPORTED).cloned().collect();
        newest.iter().map(|splice| splice.report(now)).collect()
    }

    fn table(&self) -> MutexGuard<'_, SpliceTable> {
        self.0.lock()
    }
}

impl Splice {
    /// Set if the server half's connection is shared by several streams.
    pub(super) fn stalled(&self) -> Option<&StalledStream> {
        self.stalled.as_ref()
    }

    fn report(&self, now: Instant) -> PathReport {
        PathReport {
            peer: self.client,
            transport: self.transport.to_string(),
            host_key: self.host_key.to_string(),
            bytes_up: self.up.load(Relaxed),
            bytes_down: self.down.load(Relaxed),
            age_ms: milliseconds(now.saturating_duration_since(self.since)),
        }
    }
}

impl ActiveSplice<'_> {
    pub(super) fn splice(&self) -> &Splice {
        &self.splice
    }
}

impl Drop for ActiveSplice<'_> {
    fn drop(&mut self) {
        self.splices.table().active.remove(&self.number);
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
    fn active_splice_is_reported_with_its_own_byte_counts() {
        let (splices, now) = (Splices::default(), clock::now());
        let first = splices.add(client(1), RelayTransport::Quic, KEY, None, now);
        let second = splices.add(client(2), RelayTransport::Tls, KEY, None, now + Duration::from_secs(1));
        first.splice().up.store(5, Relaxed);
        first.splice().down.store(6, Relaxed);
        let reported = splices.report(now + Duration::from_secs(3));
        let expected = PathReport {
            peer: client(1),
            transport: "quic".to_owned(),
            host_key: KEY.to_string(),
            bytes_up: 5,
            bytes_down: 6,
            age_ms: 3000,
        };
        assert_eq!(reported[1], expected);
        assert_eq!(
            (reported[0].peer, reported[0].bytes_up, reported[0].age_ms),
            (client(2), 0, 2000)
        );
        drop(second);
        assert_eq!(splices.report(now), [PathReport { age_ms: 0, ..expected }]);
        drop(first);
        assert_eq!(splices.report(now), []);
    }

    #[test]
    fn report_is_limited_to_the_newest_splices() {
        let (splices, now) = (Splices::default(), clock::now());
        let add = |port| splices.add(client(port), RelayTransport::Quic, KEY, None, now);
        let _all: Vec<_> = (0..2500).map(add).collect();
        let reported = splices.report(now);
        assert_eq!(reported.len(), MAX_REPORTED);
        assert_eq!(
            (reported[0].peer, reported[MAX_REPORTED - 1].peer),
            (client(2499), client(1500))
        );
    }
}
