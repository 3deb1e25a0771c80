//! What a session says of itself when it is asked: how its lead does, and how far it got.
//!
//! Only the pump knows, and only at the moment: whoever wants to know wakes it.

use super::Pump;
use crate::carrier::{Carrier, Kind};
use crate::wire::Epoch;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Questions that may wait for a pump.
pub(super) const LOOKS: usize = 4;

/// QUIC gives a connection up after so long without a packet (`carrier/quic/config.rs`): one that lives was heard since.
const QUIC_SILENCE: Duration = Duration::from_secs(45);

/// Where the answer goes.
pub(super) type Look = oneshot::Sender<Vitals>;

/// A session at one moment.
#[derive(Clone, Debug)]
pub struct Vitals {
    /// The lead; `None` while there is none.
    pub lead: Option<LeadVitals>,
    /// Whether the lead is under suspicion, and a race is on. Never on the half that does not dial.
    pub is_suspect: bool,
    /// The latest epoch.
    pub epoch: Epoch,
    /// Bytes sent and not acknowledged yet, and bytes received and not delivered yet.
    pub buffered: u64,
}

/// How a lead does.
#[derive(Clone, Debug)]
pub struct LeadVitals {
    /// Smoothed round trip, where it is known.
    pub rtt: Option<Duration>,
    /// Counts of packets sent, and of those that were lost, where they are known.
    pub losses: Option<(u64, u64)>,
    /// How long ago the peer was heard on it, at most.
    pub heard_for: Duration,
}

/// When the lead was heard last, as far as anybody looked.
#[derive(Debug)]
pub(super) struct Hearing {
    /// Heard then, or later.
    at: Instant,
    /// Packets that had arrived when that was looked at last, and when that was.
    seen: (u64, Instant),
}

impl Hearing {
    pub(super) fn new(now: Instant) -> Hearing {
        Hearing {
            at: now,
            seen: (0, now),
        }
    }

    /// A carrier leads. By itself that is no word of the peer.
    pub(super) fn handle_lead(&mut self, lead: &Carrier, now: Instant) {
        self.seen = (lead.packets_received(), now);
    }

    /// The peer said something on the lead.
    pub(super) fn handle_word(&mut self, now: Instant) {
        self.at = now;
    }

    /// For how long nothing has been heard, at most: packets that bring no frame are only counted, and came at some time
    /// since they were counted last.
    fn silence(&mut self, lead: &Carrier, now: Instant) -> Duration {
        let (count, looked) = std::mem::replace(&mut self.seen, (lead.packets_received(), now));
        if self.seen.0 != count {
            let last_chance = match lead.info().kind {
                Kind::Quic => now.checked_sub(QUIC_SILENCE).unwrap_or(looked),
                Kind::Tls | Kind::Memory => looked,
            };
            self.at = self.at.max(looked).max(last_chance);
        }
        now.saturating_duration_since(self.at)
    }
}

impl<R, W> Pump<R, W> {
    /// Tells whoever asked.
    pub(super) fn answer_looks(&mut self, cx: &mut Context<'_>, now: Instant) {
        while let Poll::Ready(Some(look)) = self.looks.poll_recv(cx) {
            // Whoever asked may have gone.
            let _ = look.send(self.vitals(now));
        }
    }

    fn vitals(&mut self, now: Instant) -> Vitals {
        let is_suspect = self
            .vigil
            .as_ref()
            .is_some_and(|vigil| vigil.suspected_since().is_some());
        let hearing = &mut self.hearing;
        let lead = self.carriers.lead().map(|lead| LeadVitals {
            rtt: lead.rtt(),
            losses: lead.losses(),
            heard_for: hearing.silence(lead, now),
        });
        Vitals {
            lead,
            is_suspect,
            epoch: self.session.epoch(),
            buffered: self.session.buffered() as u64,
        }
    }
}
