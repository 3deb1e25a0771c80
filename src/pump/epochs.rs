//! The numbers that leads of one session are told apart by.

use crate::wire::Epoch;
use std::sync::atomic::{AtomicU32, Ordering};

/// The highest epoch of a session so far, shared by all that make leads of it: no epoch is ever used twice.
#[derive(Debug, Default)]
pub struct Epochs(AtomicU32);

impl Epochs {
    /// All up to `highest` are used.
    pub fn after(highest: Epoch) -> Epochs {
        Epochs(AtomicU32::new(highest.get()))
    }

    /// An epoch above every one before. For the half that dials.
    pub fn next(&self) -> Epoch {
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |highest| {
            Some(Epoch::new(highest).next().get())
        });
        Epoch::new(before.unwrap_or_else(|highest| highest)).next()
    }

    /// Whether `epoch` is above every one before; if so it is the highest from now on. For the half that is dialed.
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
