//! One carrier of a session, and what the pump knows of it.

use crate::carrier::Carrier;
use crate::session::{LossGauge, StandingWatch};
use crate::wire::{Epoch, Offset};
use std::time::{Duration, Instant};

/// Round trip of a carrier that cannot tell.
pub(super) const UNKNOWN_RTT: Duration = Duration::from_millis(100);

/// A carrier that frames are read from.
pub(super) struct Attached {
    pub(super) carrier: Carrier,
    /// As a lead, now or last; `None` if it only ever stood by.
    pub(super) epoch: Option<Epoch>,
    pub(super) delivered: bool,
    /// Everything before was sent on it, or had been received when it came.
    pub(super) reached: Offset,
    pub(super) loss: LossGauge,
    /// It is kept beside another lead.
    pub(super) stands: bool,
    pub(super) watch: StandingWatch,
    /// [`Carrier::answer_mark`] when that was looked at last.
    pub(super) answer_mark: u64,
    /// It lost the lead to suspicion then, and has not answered since.
    pub(super) doubted: Option<Instant>,
    #[cfg(debug_assertions)]
    pub(super) cut_at: Option<Instant>,
}

impl Attached {
    pub(super) fn new(carrier: Carrier, now: Instant) -> Attached {
        Attached {
            answer_mark: carrier.answer_mark(),
            carrier,
            epoch: None,
            delivered: false,
            reached: Offset::ZERO,
            loss: LossGauge::default(),
            stands: false,
            watch: StandingWatch::new(now),
            doubted: None,
            #[cfg(debug_assertions)]
            cut_at: crate::fault::carrier_lifetime().map(|lifetime| now + lifetime),
        }
    }

    pub(super) fn rtt(&self) -> Duration {
        self.carrier.rtt().unwrap_or(UNKNOWN_RTT)
    }

    /// Looks whether the peer has answered. Gives when it lost the lead to a suspicion that this refutes.
    pub(super) fn listen(&mut self, now: Instant) -> Option<Instant> {
        let mark = self.carrier.answer_mark();
        if mark == self.answer_mark {
            return None;
        }
        self.answer_mark = mark;
        self.watch.handle_heard(now);
        self.doubted.take()
    }
}
