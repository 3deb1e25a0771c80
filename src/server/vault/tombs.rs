//! What became of sessions that ended, where it outlives the process: a fixed number of places, the oldest overwritten.

use super::checksum::checksum;
use super::fields::{Reader, Writer};
use crate::clock;
use crate::memory::{Mapping, memory_file};
use crate::wire::SessionId;
use rustix::fs::fstat;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Its name in the store.
pub(super) const NAME: &str = "tombs";
/// Places: most that are remembered. Together 768 KiB, of which only what is written costs memory.
pub(crate) const PLACES: usize = 4096;

const PLACE_LEN: usize = 192;
const LEN: usize = PLACES * PLACE_LEN;
/// What is left of a place for the reason.
const MOST_WHY: usize = PLACE_LEN - 8 - 8 - 8 - 16 - 32 - 2;

/// Why a session is no more, for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    /// The session.
    pub(crate) session: SessionId,
    /// SHA-256 of the TLS key that opened it.
    pub(crate) owner: [u8; 32],
    /// What to say; cut after 118 bytes.
    pub(crate) why: String,
    /// When it ended.
    pub(crate) at: Instant,
}

/// Tombstones, in memory that is kept in the vault.
pub(crate) struct Tombs {
    places: Mapping,
    /// Counts all that were ever written; its rest is the next place.
    next: u64,
}

impl Tombs {
    /// Empty ones, and the file they stand in.
    pub(super) fn create() -> io::Result<(Tombs, OwnedFd)> {
        let file = memory_file("bowline-tombs", LEN as u64)?;
        let places = Mapping::of_file(&file, 0, LEN)?;
        Ok((Tombs { places, next: 0 }, file))
    }

    /// Those of predecessors; `None` if the file is none of theirs.
    pub(super) fn adopt(file: impl AsFd) -> Option<Tombs> {
        let size = fstat(&file).ok()?.st_size;
        let places = Mapping::of_file(file, 0, LEN).ok().filter(|_| size == LEN as i64)?;
        let last = places
            .chunks(PLACE_LEN)
            .filter_map(read)
            .map(|(number, _)| number)
            .max();
        let next = last.map_or(0, |last| last.wrapping_add(1));
        Some(Tombs { places, next })
    }

    /// Everything that is legible, the oldest first.
    pub(crate) fn all(&self) -> Vec<Tombstone> {
        let mut all: Vec<_> = self.places.chunks(PLACE_LEN).filter_map(read).collect();
        all.sort_by_key(|(number, _)| *number);
        all.into_iter().map(|(_, stone)| stone).collect()
    }

    /// Adds one in place of the oldest. One that a crash interrupts never was.
    pub(crate) fn add(&mut self, stone: &Tombstone) {
        let start = (self.next % PLACES as u64) as usize * PLACE_LEN;
        let (sum, body) = self.places[start..start + PLACE_LEN].split_at_mut(8);
        let mut writer = Writer::new(body);
        writer.u64(self.next);
        writer.u64(clock::to_boot_millis(stone.at));
        writer.raw(stone.session.as_bytes());
        writer.raw(&stone.owner);
        let end = stone.why.floor_char_boundary(MOST_WHY);
        writer.bytes(&stone.why.as_bytes()[..end]);
        sum.copy_from_slice(&checksum(body).to_le_bytes());
        self.next = self.next.wrapping_add(1);
    }
}

/// What stands at a place, and its number. An empty place has no right checksum.
fn read(place: &[u8]) -> Option<(u64, Tombstone)> {
    let (sum, body) = place.split_at_checked(8)?;
    if sum != checksum(body).to_le_bytes() {
        return None;
    }
    let mut reader = Reader::new(body);
    let [number, at] = [reader.u64()?, reader.u64()?];
    let stone = Tombstone {
        session: SessionId::new(reader.array()?),
        owner: reader.array()?,
        why: reader.text()?.to_owned(),
        at: clock::from_boot_millis(at),
    };
    Some((number, stone))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stone(number: usize, why: &str) -> Tombstone {
        Tombstone {
            session: SessionId::new((number as u128).to_be_bytes()),
            owner: [7; 32],
            why: why.to_owned(),
            at: clock::now(),
        }
    }

    fn told(tombs: &Tombs) -> Vec<(SessionId, String)> {
        tombs
            .all()
            .into_iter()
            .map(|stone| (stone.session, stone.why))
            .collect()
    }

    #[test]
    fn tombstones_outlive_their_process() {
        let (mut tombs, file) = Tombs::create().unwrap();
        assert!(tombs.all().is_empty());
        let before = clock::now();
        tombs.add(&stone(1, "ended"));
        tombs.add(&stone(2, &"ü".repeat(100)));
        let expected = told(&tombs);
        assert_eq!(expected[1].1, "ü".repeat(MOST_WHY / 2));
        drop(tombs);
        let mut tombs = Tombs::adopt(&file).unwrap();
        assert_eq!(told(&tombs), expected);
        let age = clock::now().saturating_duration_since(tombs.all()[0].at);
        assert!(age <= clock::now().saturating_duration_since(before) + std::time::Duration::from_millis(2));
        tombs.add(&stone(3, ""));
        assert_eq!(told(&Tombs::adopt(&file).unwrap()).len(), 3);
    }

    #[test]
    fn the_oldest_gives_way() {
        let (mut tombs, file) = Tombs::create().unwrap();
        for number in 0..PLACES + 2 {
            tombs.add(&stone(number, "ended"));
        }
        drop(tombs);
        let all = told(&Tombs::adopt(&file).unwrap());
        assert_eq!((all.len(), all[0].0), (PLACES, stone(2, "").session));
    }

    #[test]
    fn a_number_at_the_end_of_all_numbers_stops_nobody() {
        let (mut tombs, file) = Tombs::create().unwrap();
        tombs.next = u64::MAX - 1;
        tombs.add(&stone(1, "ended"));
        let mut tombs = Tombs::adopt(&file).unwrap();
        (2..5).for_each(|number| tombs.add(&stone(number, "ended")));
        assert_eq!(tombs.all().len(), 4);
    }

    #[test]
    fn damaged_tombstones_are_passed_over() {
        let (mut tombs, file) = Tombs::create().unwrap();
        (0..3).for_each(|number| tombs.add(&stone(number, "ended")));
        for bit in PLACE_LEN * 8..2 * PLACE_LEN * 8 {
            tombs.places[bit / 8] ^= 1 << (bit % 8);
            let left: Vec<_> = tombs.all().into_iter().map(|stone| stone.session).collect();
            assert_eq!(left, [stone(0, "").session, stone(2, "").session], "bit {bit}");
            tombs.places[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(Tombs::adopt(&file).is_some());
        assert!(Tombs::adopt(memory_file("short", 4096).unwrap()).is_none());
    }
}
