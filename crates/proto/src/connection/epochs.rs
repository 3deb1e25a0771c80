//! Numbers the leads of one session.

use crate::wire::Epoch;
use std::sync::atomic::{AtomicU32, Ordering};

/// The highest epoch of a session so far. Shared by everything that makes carriers the lead, so no epoch is used twice.
#[derive(Debug, Default)]
pub struct Epochs(AtomicU32);

impl Epochs {
    /// All up to `highest` are used.
    pub fn after(highest: Epoch) -> Epochs {
        Epochs(AtomicU32::new(highest.get()))
    }

    /// Allocates the next epoch. For the client half.
    pub fn next(&self) -> Epoch {
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |highest| {
            Some(Epoch::new(highest).next().get())
        });
        Epoch::new(before.unwrap_or_else(|highest| highest)).next()
    }

    /// Accepts `epoch` if it is above all previous ones, and returns whether it was. For the server half.
    pub fn take(&self, epoch: Epoch) -> bool {
        self.0.fetch_max(epoch.get(), Ordering::AcqRel) < epoch.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_given_and_taken_once() {
        let epochs = Epochs::after(Epoch::new(3));
        assert_eq!([epochs.next(), epochs.next()], [Epoch::new(4), Epoch::new(5)]);
        assert!(!epochs.take(Epoch::new(5)) && epochs.take(Epoch::new(7)) && !epochs.take(Epoch::new(6)));
    }
}
