//! Why sessions have ended, in memory that outlives the process: a fixed number of entries, of which the oldest is
//! overwritten.

use super::fields::checksum;
use super::fields::{Reader, Writer};
use crate::clock;
use crate::memory::{Mapping, memory_file};
use crate::wire::SessionId;
use rustix::fs::fstat;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Its name in the descriptor store.
pub(super) const NAME: &str = "closed";
/// The most entries. Together 768 KiB, of which only the part in use costs memory.
pub(crate) const MAX_CLOSED_SESSIONS: usize = 4096;

const ENTRY_LEN: usize = 192;
const LEN: usize = MAX_CLOSED_SESSIONS * ENTRY_LEN;
/// The most bytes of a reason.
const MAX_REASON: usize = ENTRY_LEN - 8 - 8 - 8 - 16 - 32 - 2;

/// Why a session has ended, for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClosedSession {
    /// The session.
    pub(crate) session: SessionId,
    /// SHA-256 of the TLS key that opened it.
    pub(crate) owner: [u8; 32],
    /// The reason; cut after 118 bytes.
    pub(crate) reason: String,
    /// When it ended.
    pub(crate) at: Instant,
}

/// The closed sessions, in memory that is in the session store.
pub(crate) struct ClosedSessions {
    entries: Mapping,
    /// Number of the next entry; modulo the capacity it is the entry's position.
    next: u64,
}

impl ClosedSessions {
    /// Creates an empty list and its file.
    pub(super) fn create() -> io::Result<(ClosedSessions, OwnedFd)> {
        let file = memory_file("bowline-closed", LEN as u64)?;
        let entries = Mapping::of_file(&file, 0, LEN)?;
        Ok((ClosedSessions { entries, next: 0 }, file))
    }

    /// Opens the list of earlier workers; `None` if the file has another format.
    pub(super) fn adopt(file: impl AsFd) -> Option<ClosedSessions> {
        let size = fstat(&file).ok()?.st_size;
        let entries = Mapping::of_file(file, 0, LEN).ok().filter(|_| size == LEN as i64)?;
        let last = entries
            .chunks(ENTRY_LEN)
            .filter_map(read)
            .map(|(number, _)| number)
            .max();
        let next = last.map_or(0, |last| last.wrapping_add(1));
        Some(ClosedSessions { entries, next })
    }

    /// All entries with a valid checksum, the oldest first.
    pub(crate) fn all(&self) -> Vec<ClosedSession> {
        let mut all: Vec<_> = self.entries.chunks(ENTRY_LEN).filter_map(read).collect();
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, closed)| closed).collect()
    }

    /// Adds an entry in place of the oldest. An entry that a crash interrupts has no valid checksum.
    pub(crate) fn add(&mut self, closed: &ClosedSession) {
        let start = (self.next % MAX_CLOSED_SESSIONS as u64) as usize * ENTRY_LEN;
        let (sum, body) = self.entries[start..start + ENTRY_LEN].split_at_mut(8);
        let mut writer = Writer::new(body);
        writer.u64(self.next);
        writer.u64(clock::to_boot_millis(closed.at));
        writer.raw(closed.session.as_bytes());
        writer.raw(&closed.owner);
        let end = closed.reason.floor_char_boundary(MAX_REASON);
        writer.bytes(&closed.reason.as_bytes()[..end]);
        sum.copy_from_slice(&checksum(body).to_le_bytes());
        self.next = self.next.wrapping_add(1);
    }
}

/// Reads an entry and its number. An empty entry has no valid checksum.
fn read(entry: &[u8]) -> Option<(u64, ClosedSession)> {
    let (sum, body) = entry.split_at_checked(8)?;
    if sum != checksum(body).to_le_bytes() {
        return None;
    }
    let mut reader = Reader::new(body);
    let [number, at] = [reader.u64()?, reader.u64()?];
    let closed = ClosedSession {
        session: SessionId::new(reader.array()?),
        owner: reader.array()?,
        reason: reader.text()?.to_owned(),
        at: clock::from_boot_millis(at),
    };
    Some((number, closed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(number: usize, reason: &str) -> ClosedSession {
        ClosedSession {
            session: SessionId::new((number as u128).to_be_bytes()),
            owner: [7; 32],
            reason: reason.to_owned(),
            at: clock::now(),
        }
    }

    fn told(closed_sessions: &ClosedSessions) -> Vec<(SessionId, String)> {
        closed_sessions
            .all()
            .into_iter()
            .map(|closed| (closed.session, closed.reason))
            .collect()
    }

    #[test]
    fn closed_sessions_outlive_their_process() {
        let (mut closed_sessions, file) = ClosedSessions::create().unwrap();
        assert!(closed_sessions.all().is_empty());
        let before = clock::now();
        closed_sessions.add(&closed(1, "ended"));
        closed_sessions.add(&closed(2, &"ü".repeat(100)));
        let expected = told(&closed_sessions);
        assert_eq!(expected[1].1, "ü".repeat(MAX_REASON / 2));
        drop(closed_sessions);
        let mut closed_sessions = ClosedSessions::adopt(&file).unwrap();
        assert_eq!(told(&closed_sessions), expected);
        let age = clock::now().saturating_duration_since(closed_sessions.all()[0].at);
        assert!(age <= clock::now().saturating_duration_since(before) + std::time::Duration::from_millis(2));
        closed_sessions.add(&closed(3, ""));
        assert_eq!(told(&ClosedSessions::adopt(&file).unwrap()).len(), 3);
    }

    #[test]
    fn the_oldest_gives_way() {
        let (mut closed_sessions, file) = ClosedSessions::create().unwrap();
        for number in 0..MAX_CLOSED_SESSIONS + 2 {
            closed_sessions.add(&closed(number, "ended"));
        }
        drop(closed_sessions);
        let all = told(&ClosedSessions::adopt(&file).unwrap());
        assert_eq!((all.len(), all[0].0), (MAX_CLOSED_SESSIONS, closed(2, "").session));
    }

    #[test]
    fn a_number_at_the_end_of_all_numbers_stops_nobody() {
        let (mut closed_sessions, file) = ClosedSessions::create().unwrap();
        closed_sessions.next = u64::MAX - 1;
        closed_sessions.add(&closed(1, "ended"));
        let mut closed_sessions = ClosedSessions::adopt(&file).unwrap();
        (2..5).for_each(|number| closed_sessions.add(&closed(number, "ended")));
        assert_eq!(closed_sessions.all().len(), 4);
    }

    #[test]
    fn damaged_entries_are_skipped() {
        let (mut closed_sessions, file) = ClosedSessions::create().unwrap();
        (0..3).for_each(|number| closed_sessions.add(&closed(number, "ended")));
        for bit in ENTRY_LEN * 8..2 * ENTRY_LEN * 8 {
            closed_sessions.entries[bit / 8] ^= 1 << (bit % 8);
            let left: Vec<_> = closed_sessions.all().into_iter().map(|closed| closed.session).collect();
            assert_eq!(left, [closed(0, "").session, closed(2, "").session], "bit {bit}");
            closed_sessions.entries[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(ClosedSessions::adopt(&file).is_some());
        assert!(ClosedSessions::adopt(memory_file("short", 4096).unwrap()).is_none());
    }
}
