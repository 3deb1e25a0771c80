//! A session's memory: the header that its latest record stands in, and the replay ring behind it.
//!
//! The pump and the read half write into one record, each its own part.

use super::header::{Fixed, HEADER_LEN, HeaderError, Progress, USED};
use crate::clock;
use crate::memory::{Mapping, memory_file};
use crate::pump::Record;
use rustix::fs::fstat;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// The record of one session, where it outlives the process.
pub(super) struct Book(Mutex<Page>);

struct Page {
    header: Mapping,
    latest: Progress,
    number: u64,
}

/// A session's memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// It is not as a worker left it.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It cannot be made or mapped.
    #[error("cannot map a session's memory")]
    Map(#[from] io::Error),
}

/// A new session's memory: the file, its ring, and its book with a first record.
pub(super) fn create(fixed: &Fixed, first: Progress) -> Result<(OwnedFd, Mapping, Book), MemoryError> {
    let file = memory_file("bowline-session", HEADER_LEN as u64 + fixed.replay)?;
    let mut header = Mapping::of_file(&file, 0, USED)?;
    fixed.write(&mut header)?;
    first.publish(&mut header, 1);
    let ring = ring(&file, fixed)?;
    let page = Page {
        header,
        latest: first,
        number: 1,
    };
    Ok((file, ring, Book(Mutex::new(page))))
}

/// The header of a predecessor's session, with what never changes.
pub(super) fn open(file: impl AsFd) -> Result<(Mapping, Fixed), MemoryError> {
    let header = Mapping::of_file(&file, 0, USED)?;
    let fixed = Fixed::read(&header)?;
    Ok((header, fixed))
}

/// The rest of it: the ring as it was left, and the book with the latest record.
pub(super) fn adopt(
    file: impl AsFd,
    mut header: Mapping,
    fixed: &Fixed,
) -> Result<(Mapping, Book, Progress), MemoryError> {
    let (latest, number) = Progress::read(&mut header)?;
    let ring = ring(file, fixed)?;
    let page = Page { header, latest, number };
    Ok((ring, Book(Mutex::new(page)), latest))
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

impl Book {
    /// Bytes from sshd are going to be read up to here.
    pub(super) fn intend(&self, up_to: u64) {
        self.change(|latest| latest.intent = up_to);
    }

    /// What the pump has to say.
    pub(super) fn record(&self, record: &Record) {
        self.change(|latest| {
            latest.session = record.session;
            latest.confirmed = record.confirmed;
            latest.detached_since = record.detached_since.map(clock::to_boot_millis);
        });
    }

    /// Nothing is left for a successor to do.
    pub(super) fn end(&self) {
        self.change(|latest| latest.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        // A panic elsewhere cannot have left it half changed: a record is published as a whole.
        let mut page = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let page = &mut *page;
        let mut next = page.latest;
        change(&mut next);
        if next != page.latest {
            // Only its parity and order beside the one before count; a predecessor may have left any.
            page.number = page.number.wrapping_add(1);
            page.latest = next;
            next.publish(&mut page.header, page.number);
        }
    }
}
