//! The dialing half's watch over the lead: it turns what the pump sees into a need for a fresh carrier.

use super::attached::UNKNOWN_RTT;
use crate::carrier::Carrier;
use crate::session::{Liveness, Verdict};
use crate::wire::Frame;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info};

/// Output that flowed this recently before the silence means that someone waits for more.
const FLOWING: Duration = Duration::from_secs(5);

/// What the dialer should do about the session's carriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: the lead is well.
    Nothing,
    /// A fresh carrier.
    Carrier {
        /// Whether the peer's host itself ended the lead: it can be reached, and is busy at worst.
        by_peer: bool,
        /// Whether somebody waits for output or has pressed a key.
        waited_for: bool,
        /// Counts signs of impatience; a new one starts the redial cadence over.
        signs: u32,
    },
}

impl Need {
    pub(crate) fn is_waited_for(&self) -> bool {
        matches!(self, Need::Carrier { waited_for: true, .. })
    }

    pub(crate) fn signs(&self) -> u32 {
        match self {
            Need::Carrier { signs, .. } => *signs,
            Need::Nothing => 0,
        }
    }
}

/// What the pump should do about the lead.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Nothing.
    Keep,
    /// Let a carrier lead that stands by.
    Promote,
}

/// Watches the lead, and tells the dialer what is needed.
pub struct Vigil {
    liveness: Liveness,
    need: watch::Sender<Need>,
    hints: mpsc::Receiver<()>,
    heard: u64,
    /// [`Carrier::ack_mark`] when an acknowledgement began to be due.
    ack_mark: Option<u64>,
    /// [`Carrier::rebindings`] when that was looked at last.
    rebindings: u64,
    pings: u64,
    lost: bool,
    drained: bool,
    waiting_input: usize,
}

impl Vigil {
    /// A watch that tells `need`, and takes hints that the network may have changed.
    pub fn new(need: watch::Sender<Need>, hints: mpsc::Receiver<()>, now: Instant) -> Vigil {
        Vigil {
            liveness: Liveness::new(now),
            need,
            hints,
            heard: 0,
            ack_mark: None,
            rebindings: 0,
            pings: 0,
            lost: false,
            drained: false,
            waiting_input: 0,
        }
    }

    pub(super) fn handle_attached(&mut self, now: Instant) {
        self.liveness.handle_attached(now);
        self.heard = 0;
        self.ack_mark = None;
        self.rebindings = 0;
        self.lost = false;
        self.drained = false;
        self.need.send_replace(Need::Nothing);
    }

    /// A carrier that stood by leads. What the dialer was asked for stands until that delivers.
    pub(super) fn handle_promoted(&mut self, lead: &Carrier, now: Instant) {
        self.liveness.handle_promoted(now);
        self.heard = lead.packets_received();
        self.ack_mark = None;
        self.rebindings = lead.rebindings();
        self.lost = false;
    }

    /// The lead that a carrier was promoted over had not been lost.
    pub(super) fn handle_false_alarm(&mut self, now: Instant) {
        debug!("the former lead lives: it was suspected for nothing");
        self.liveness.handle_false_alarm(now);
    }

    pub(super) fn handle_lost(&mut self, by_peer: bool, now: Instant, outstanding: bool) {
        self.lost = true;
        self.want_carrier(by_peer, now, outstanding);
    }

    pub(super) fn handle_frame(&mut self, frame: &Frame, now: Instant) {
        match frame {
            Frame::Data { .. } | Frame::Fin { .. } | Frame::Close { .. } => self.liveness.handle_output(now),
            Frame::Pong { .. } => self.liveness.handle_answer(now),
            Frame::Ack { .. } | Frame::Resume { .. } => self.liveness.handle_heard(now),
            Frame::Ping { .. } => {
                self.liveness.handle_heard(now);
                // What it said before had to wait for us.
                self.liveness.handle_late(now);
            }
            Frame::Drain => {
                self.drained = true;
                self.want_carrier(true, now, false);
            }
        }
        self.call_off();
    }

    /// `outstanding`: the session has something that the peer must acknowledge.
    pub(super) fn handle_sent(&mut self, lead: &Carrier, now: Instant, outstanding: bool) {
        // What arrived before is no answer.
        if self
            .liveness
            .handle_input(now, outstanding || lead.sees_transport_acks())
        {
            self.heard = lead.packets_received();
        }
        if let Some(mark) = lead.ack_mark().filter(|_| self.liveness.handle_owed(now)) {
            self.ack_mark = Some(mark);
        }
    }

    /// Bytes wait for the peer. While there is no lead to trust, more of them are a key pressed: somebody is impatient.
    pub(super) fn handle_waiting_input(&mut self, waiting: usize, now: Instant) {
        if (self.lost || self.liveness.is_suspect()) && waiting > self.waiting_input {
            self.want_carrier(false, now, true);
        }
        self.waiting_input = waiting;
    }

    /// Whether the network changed, or the machine woke.
    pub(super) fn poll_hints(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut hinted = false;
        while let Poll::Ready(Some(())) = self.hints.poll_recv(cx) {
            self.liveness.handle_sign(now);
            self.repeat_need();
            hinted = true;
        }
        hinted
    }

    /// `has_standby`: a carrier stands by that may lead at once.
    pub(super) fn poll(
        &mut self,
        lead: Option<&mut Carrier>,
        has_standby: bool,
        now: Instant,
        outstanding: bool,
    ) -> Advice {
        self.liveness.set_standby(has_standby);
        let Some(lead) = lead else { return Advice::Keep };
        self.liveness.set_hears_acks(lead.ack_mark().is_some());
        let rtt = lead.rtt().unwrap_or(UNKNOWN_RTT);
        if self.liveness.poll_timeout(now, rtt) > now {
            return Advice::Keep;
        }
        let heard = lead.packets_received();
        if heard != self.heard {
            self.heard = heard;
            self.liveness.handle_heard(now);
            let rebindings = lead.rebindings();
            if std::mem::replace(&mut self.rebindings, rebindings) != rebindings {
                self.liveness.handle_late(now);
            }
            self.call_off();
        }
        if self.ack_mark.is_some() && lead.ack_mark() != self.ack_mark {
            self.liveness.handle_ack(now, outstanding);
            self.ack_mark = lead.ack_mark().filter(|_| outstanding);
            self.call_off();
        }
        match self.liveness.poll(now, rtt) {
            Verdict::Wait => {}
            Verdict::Probe => {
                self.heard = lead.packets_received();
                lead.send_now(&Frame::Ping { token: self.token() });
            }
            Verdict::Touch => {
                self.heard = lead.packets_received();
                lead.solicit_ack(self.token());
            }
            Verdict::Suspect if has_standby => {
                info!(
                    event = "suspected",
                    rtt_ms = rtt.as_millis(),
                    "no sign of life: a standing carrier leads"
                );
                return Advice::Promote;
            }
            Verdict::Suspect => {
                info!(
                    event = "suspected",
                    rtt_ms = rtt.as_millis(),
                    "no sign of life: racing a fresh carrier"
                );
                self.want_carrier(false, now, outstanding);
            }
        }
        Advice::Keep
    }

    pub(super) fn poll_timeout(&self, lead: Option<&Carrier>, now: Instant) -> Option<Instant> {
        let rtt = lead?.rtt().unwrap_or(UNKNOWN_RTT);
        Some(self.liveness.poll_timeout(now, rtt))
    }

    /// Since when nothing was heard from a lead under suspicion.
    pub(super) fn suspected_since(&self) -> Option<Instant> {
        self.liveness.is_suspect().then(|| self.liveness.heard())
    }

    fn token(&mut self) -> u64 {
        self.pings += 1;
        self.pings
    }

    fn want_carrier(&mut self, by_peer: bool, now: Instant, outstanding: bool) {
        let flowed = now.saturating_duration_since(self.liveness.active()) < FLOWING;
        self.need.send_modify(|need| {
            let (spoke, before, signs) = match *need {
                Need::Carrier {
                    by_peer,
                    waited_for,
                    signs,
                } => (by_peer, waited_for, signs),
                Need::Nothing => (false, false, 0),
            };
            *need = Need::Carrier {
                by_peer: spoke || by_peer,
                waited_for: before || outstanding || flowed,
                signs: signs.wrapping_add(1),
            };
        });
    }

    /// The old carrier moves again: the race is off.
    fn call_off(&mut self) {
        if !self.lost && !self.drained && !self.liveness.is_suspect() && *self.need.borrow() != Need::Nothing {
            debug!("the lead moves again: race called off");
            self.need.send_replace(Need::Nothing);
        }
    }

    fn repeat_need(&mut self) {
        self.need.send_if_modified(|need| match need {
            Need::Carrier {
                by_peer,
                waited_for,
                signs,
            } => {
                // Of another path nothing is known.
                *by_peer = false;
                *waited_for = true;
                *signs = signs.wrapping_add(1);
                true
            }
            Need::Nothing => false,
        });
    }
}
