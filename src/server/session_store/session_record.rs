//! A session's memory: the header with its latest record, and the replay ring.
//!
//! The pump and the reading half both write to the record, each its own fields.

use super::header::{Fixed, HEADER_LEN, HeaderError, Progress, USED};
use crate::clock;
use crate::memory::{Mapping, memory_file};
use crate::pump::Checkpoint;
use parking_lot::Mutex;
use rustix::fs::fstat;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The record of one session, in memory that outlives the process.
pub(super) struct SessionRecord(Mutex<Latest>);

struct Latest {
    header: Mapping,
    latest: Progress,
    number: u64,
}

/// A session's memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// Its header cannot be used.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It cannot be created or mapped.
    #[error("cannot map a session's memory")]
    Map(#[from] io::Error),
}

/// Creates a session's memory: the file, its ring, and its first record.
pub(super) fn create(fixed: &Fixed, first: Progress) -> Result<(OwnedFd, Mapping, SessionRecord), MemoryError> {
    let file = memory_file("bowline-session", HEADER_LEN as u64 + fixed.replay)?;
    let mut header = Mapping::of_file(&file, 0, USED)?;
    fixed.write(&mut header)?;
    first.publish(&mut header, 1);
    let ring = ring(&file, fixed)?;
    let latest_record = Latest {
        header,
        latest: first,
        number: 1,
    };
    Ok((file, ring, SessionRecord(Mutex::new(latest_record))))
}

/// Opens a previous worker's session: its header and its fixed part.
pub(super) fn open(file: impl AsFd) -> Result<(Mapping, Fixed), MemoryError> {
    let header = Mapping::of_file(&file, 0, USED)?;
    let fixed = Fixed::read(&header)?;
    Ok((header, fixed))
}

/// Opens the rest of it: the ring as it was left, and the latest record.
pub(super) fn adopt(
    file: impl AsFd,
    mut header: Mapping,
    fixed: &Fixed,
) -> Result<(Mapping, SessionRecord, Progress), MemoryError> {
    let (latest, number) = Progress::read(&mut header)?;
    let ring = ring(file, fixed)?;
    let latest_record = Latest { header, latest, number };
    Ok((ring, SessionRecord(Mutex::new(latest_record)), latest))
}

fn ring(file: impl AsFd, fixed: &Fixed) -> Result<Mapping, MemoryError> {
    let found = fstat(&file).map_err(io::Error::from)?.st_size as u64;
    let expected = fixed.replay.saturating_add(HEADER_LEN as u64);
    let len = usize::try_from(fixed.replay).unwrap_or(usize::MAX);
    if found != expected {
        return Err(HeaderError::Size { found, expected }.into());
    }
    Ok(Mapping::of_file(file, HEADER_LEN as u64, len)?)
}

impl SessionRecord {
    /// Announces that bytes from sshd are about to be read up to this offset.
    pub(super) fn intend(&self, up_to: u64) {
        self.change(|latest| latest.intent = up_to);
    }

    /// Records the pump's progress.
    pub(super) fn record(&self, record: &Checkpoint) {
        self.change(|latest| {
            latest.session = record.session;
            latest.confirmed = record.confirmed;
            latest.detached_since = record.detached_since.map(clock::to_boot_millis);
        });
    }

    /// Records that the session is over.
    pub(super) fn end(&self) {
        self.change(|latest| latest.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        let mut latest_record = self.0.lock();
        let latest_record = &mut *latest_record;
        let mut next = latest_record.latest;
        change(&mut next);
        if next != latest_record.latest {
            // Only parity and order of the number matter, so it may wrap: the previous worker may have left any
            // number.
            latest_record.number = latest_record.number.wrapping_add(1);
            latest_record.latest = next;
            next.publish(&mut latest_record.header, latest_record.number);
        }
    }
}
