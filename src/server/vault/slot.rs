//! One session's place in the vault: a name for its two descriptors, as short as can be.

use super::book::Book;
use crate::fault;
use crate::pump::{Ledger, Outcome, Record};
use rustix::net::Shutdown;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Above this names would run into those of other things in the vault (`lock` is about a million).
const MOST: u32 = 1_000_000;

/// Where one session is kept.
pub(crate) struct Slot {
    pub(super) number: u32,
    pub(super) socket: Arc<OwnedFd>,
    pub(super) book: Arc<Book>,
}

impl Slot {
    /// The name in the store of both descriptors.
    pub(crate) fn name(&self) -> String {
        name(self.number)
    }

    /// Our end of the connection to sshd: what that takes for the client's address.
    pub(crate) fn upstream_from(&self) -> Option<SocketAddr> {
        rustix::net::getsockname(&self.socket).ok()?.try_into().ok()
    }

    /// What the session's pump is to write to.
    pub(super) fn ledger(&self) -> Box<dyn Ledger> {
        Box::new(Keeping {
            socket: Arc::clone(&self.socket),
            book: Arc::clone(&self.book),
            latest: None,
        })
    }

    /// The session is over; so says its record first, as nobody would understand the counters afterwards.
    pub(super) fn end(&self) {
        end(&self.book, &self.socket);
    }
}

struct Keeping {
    socket: Arc<OwnedFd>,
    book: Arc<Book>,
    latest: Option<Record>,
}

impl Ledger for Keeping {
    fn record(&mut self, record: &Record) {
        if self.latest.as_ref() != Some(record) {
            self.book.record(record);
            self.latest = Some(*record);
        }
    }

    fn handle_end(&mut self, _outcome: &Outcome) {
        end(&self.book, &self.socket);
    }
}

fn end(book: &Book, socket: &OwnedFd) {
    book.end();
    // Others hold the socket open for a moment longer. It fails where sshd has gone already.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
    fault::pass("end-after");
}

/// Which slots are in use.
#[derive(Debug, Default)]
pub(super) struct Numbers(BTreeSet<u32>);

impl Numbers {
    /// The lowest that is free, in use from now on; `None` if there is none.
    pub(super) fn take(&mut self) -> Option<u32> {
        let free = (0..MOST).find(|number| !self.0.contains(number))?;
        self.0.insert(free);
        Some(free)
    }

    pub(super) fn insert(&mut self, number: u32) {
        self.0.insert(number);
    }

    pub(super) fn free(&mut self, number: u32) {
        self.0.remove(&number);
    }
}

/// A number in base 36.
pub(super) fn name(number: u32) -> String {
    let mut digits = Vec::new();
    let mut rest = number;
    loop {
        digits.extend(char::from_digit(rest % 36, 36));
        rest /= 36;
        if rest == 0 {
            return digits.iter().rev().collect();
        }
    }
}

/// The slot of this name; `None` if none has it.
pub(super) fn number(text: &str) -> Option<u32> {
    let found = u32::from_str_radix(text, 36).ok()?;
    (found < MOST && name(found) == text).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_lead_back() {
        for (slot, text) in [(0, "0"), (35, "z"), (36, "10"), (999, "rr"), (MOST - 1, "lflr")] {
            assert_eq!((name(slot).len(), number(&name(slot))), (text.len(), Some(slot)));
        }
        assert_eq!([name(35), name(36), name(999)], ["z", "10", "rr"]);
        for text in ["", "lock", "tombs", "Z", "00", "01", "+1", "-1", "zzzzzzzz", "é"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn the_lowest_free_slot_is_taken() {
        let mut numbers = Numbers::default();
        numbers.insert(1);
        assert_eq!(
            [numbers.take(), numbers.take(), numbers.take()],
            [Some(0), Some(2), Some(3)]
        );
        numbers.free(1);
        assert_eq!(numbers.take(), Some(1));
    }
}
