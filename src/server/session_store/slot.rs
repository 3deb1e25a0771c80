//! A session's slot in the session store: a name for its two descriptors, as short as possible.

use super::session_record::SessionRecord;
use crate::fault;
use crate::pump::{Checkpoint, CheckpointStore, Outcome};
use rustix::net::Shutdown;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Higher numbers would have names that are used for other things in the session store (`lock` is about a million).
pub(super) const MAX_SLOTS: u32 = 1_000_000;

/// A session's slot.
pub(crate) struct Slot {
    pub(super) number: u32,
    pub(super) socket: Arc<OwnedFd>,
    pub(super) session_record: Arc<SessionRecord>,
}

impl Slot {
    /// The name of both descriptors in the descriptor store.
    pub(crate) fn name(&self) -> String {
        name(self.number)
    }

    /// Our end of the connection to sshd: the address that sshd sees.
    pub(crate) fn upstream_from(&self) -> Option<SocketAddr> {
        rustix::net::getsockname(&self.socket).ok()?.try_into().ok()
    }

    /// Where the session's pump records its progress.
    pub(super) fn checkpoints(&self) -> Box<dyn CheckpointStore> {
        Box::new(RecordWriter {
            socket: Arc::clone(&self.socket),
            session_record: Arc::clone(&self.session_record),
            latest: None,
        })
    }

    /// Ends the session. Its record says so first: after the shutdown the counters would mean nothing to the next
    /// worker.
    pub(super) fn end(&self) {
        end(&self.session_record, &self.socket);
    }
}

struct RecordWriter {
    socket: Arc<OwnedFd>,
    session_record: Arc<SessionRecord>,
    latest: Option<Checkpoint>,
}

impl CheckpointStore for RecordWriter {
    fn save(&mut self, checkpoint: &Checkpoint) {
        if self.latest.as_ref() != Some(checkpoint) {
            self.session_record.record(checkpoint);
            self.latest = Some(*checkpoint);
        }
    }

    fn handle_end(&mut self, _outcome: &Outcome) {
        end(&self.session_record, &self.socket);
    }
}

fn end(session_record: &SessionRecord, socket: &OwnedFd) {
    session_record.end();
    // Other processes have the socket open for a moment longer. This fails if sshd has already closed it.
    let _ = rustix::net::shutdown(socket, Shutdown::Both);
    fault::pass("end-after");
}

/// Which slots are in use.
#[derive(Debug, Default)]
pub(super) struct UsedSlots(BTreeSet<u32>);

impl UsedSlots {
    /// Takes the lowest free slot; `None` if there is none.
    pub(super) fn take(&mut self) -> Option<u32> {
        let free = (0..MAX_SLOTS).find(|number| !self.0.contains(number))?;
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

/// A slot's name: its number in base 36.
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

/// The number of the slot with this name; `None` if it is not a slot's name.
pub(super) fn number(text: &str) -> Option<u32> {
    let found = u32::from_str_radix(text, 36).ok()?;
    (found < MAX_SLOTS && name(found) == text).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_lead_back() {
        for (slot, text) in [(0, "0"), (35, "z"), (36, "10"), (999, "rr"), (MAX_SLOTS - 1, "lflr")] {
            assert_eq!((name(slot).len(), number(&name(slot))), (text.len(), Some(slot)));
        }
        assert_eq!([name(35), name(36), name(999)], ["z", "10", "rr"]);
        for text in ["", "lock", "closed", "Z", "00", "01", "+1", "-1", "zzzzzzzz", "é"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn the_lowest_free_slot_is_taken() {
        let mut numbers = UsedSlots::default();
        numbers.insert(1);
        assert_eq!(
            [numbers.take(), numbers.take(), numbers.take()],
            [Some(0), Some(2), Some(3)]
        );
        numbers.free(1);
        assert_eq!(numbers.take(), Some(1));
    }
}
