//! The carriers of one session: the lead, and older ones that may still deliver.

use super::Arrival;
use crate::carrier::{Carrier, CarrierError, CloseReason};
use crate::wire::{Epoch, Frame, Offset};
use std::task::{Context, Poll};
use std::time::Instant;
use tracing::debug;

/// A peer that resumes again and again without a word in between holds no more than these.
const MOST_CARRIERS: usize = 8;

#[derive(Default)]
pub(super) struct Carriers {
    /// By epoch; the last leads while `has_lead`.
    attached: Vec<Attached>,
    has_lead: bool,
    /// The peer closed a carrier because it was done with the session: it waits for nothing more.
    is_peer_done: bool,
}

struct Attached {
    carrier: Carrier,
    epoch: Epoch,
    delivered: bool,
    /// Everything before was sent on it, or had been received when it came.
    reached: Offset,
    #[cfg(debug_assertions)]
    cut_at: Option<Instant>,
}

/// What a carrier brought.
pub(super) enum News {
    Frame { frame: Frame, from_lead: bool },
    LeadLost,
    OtherLost,
}

#[derive(PartialEq, Eq)]
pub(super) enum Flushed {
    LeadLost,
    Otherwise,
}

impl Carriers {
    /// A carrier with an epoch above all before it leads from now on.
    pub(super) fn add(&mut self, arrival: Arrival, now: Instant) {
        let epoch = arrival.epoch;
        let attached = Attached {
            carrier: arrival.carrier,
            epoch,
            delivered: false,
            reached: arrival.peer_received,
            #[cfg(debug_assertions)]
            cut_at: crate::fault::carrier_lifetime().map(|lifetime| now + lifetime),
        };
        let _ = now;
        self.has_lead = true;
        self.attached.push(attached);
        if self.attached.len() > MOST_CARRIERS {
            self.attached.remove(0).carrier.close(CloseReason::Replaced);
        }
    }

    pub(super) fn lead(&mut self) -> Option<&mut Carrier> {
        let lead = self.attached.last_mut().filter(|_| self.has_lead)?;
        Some(&mut lead.carrier)
    }

    /// How far the lead got, in case that it is to lead again.
    pub(super) fn note_reached(&mut self, reached: Offset) {
        if let Some(lead) = self.attached.last_mut().filter(|_| self.has_lead) {
            lead.reached = reached;
        }
    }

    /// Lets the latest carrier that lives lead, and says of it what the session has to know.
    pub(super) fn fall_back(&mut self) -> Option<(Epoch, Offset)> {
        let latest = self.attached.last()?;
        self.has_lead = true;
        Some((latest.epoch, latest.reached))
    }

    pub(super) fn is_lead_flushed(&self) -> bool {
        !self.has_lead || self.attached.last().is_none_or(|lead| lead.carrier.is_flushed())
    }

    /// The next frame of any carrier; the lead is asked first.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<News> {
        self.inject_cuts(now);
        for place in (0..self.attached.len()).rev() {
            let is_lead = self.has_lead && place + 1 == self.attached.len();
            let attached = &mut self.attached[place];
            match attached.carrier.poll_frame(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(Frame::Ping { token })) => {
                    attached.carrier.send_now(&Frame::Pong { token });
                    return Poll::Ready(News::Frame {
                        frame: Frame::Ping { token },
                        from_lead: is_lead,
                    });
                }
                Poll::Ready(Ok(frame)) => {
                    if is_lead && !std::mem::replace(&mut attached.delivered, true) {
                        self.close_others();
                    }
                    return Poll::Ready(News::Frame {
                        frame,
                        from_lead: is_lead,
                    });
                }
                Poll::Ready(Err(error)) => {
                    debug!(%error, epoch = %attached.epoch, is_lead, "carrier lost");
                    return Poll::Ready(self.remove(place, &error));
                }
            }
        }
        Poll::Pending
    }

    /// Moves what is queued on every carrier.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Flushed {
        let mut flushed = Flushed::Otherwise;
        for place in (0..self.attached.len()).rev() {
            if let Poll::Ready(Err(error)) = self.attached[place].carrier.poll_flush(cx) {
                debug!(%error, "carrier lost");
                if matches!(self.remove(place, &error), News::LeadLost) {
                    flushed = Flushed::LeadLost;
                }
            }
        }
        flushed
    }

    /// Closes all at once.
    pub(super) fn close(mut self, reason: CloseReason) {
        self.attached
            .iter_mut()
            .for_each(|attached| attached.carrier.close(reason));
    }

    /// Gives the last words of the lead a chance, and closes all. Whether the peer has them.
    pub(super) async fn finish(mut self, reason: CloseReason) -> bool {
        let lead = self.attached.pop().filter(|_| self.has_lead);
        self.attached.iter_mut().for_each(|other| other.carrier.close(reason));
        match lead {
            Some(lead) => lead.carrier.finish(reason).await,
            None => self.is_peer_done,
        }
    }

    #[cfg(debug_assertions)]
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.attached.iter().filter_map(|attached| attached.cut_at).min()
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    #[cfg(debug_assertions)]
    fn inject_cuts(&mut self, now: Instant) {
        for attached in &mut self.attached {
            if attached.cut_at.is_some_and(|cut_at| cut_at <= now) {
                attached.cut_at = None;
                attached.carrier.close(CloseReason::ShuttingDown);
            }
        }
    }

    #[cfg(not(debug_assertions))]
    fn inject_cuts(&mut self, _now: Instant) {}

    /// The lead delivers: nothing more is hoped for from those before it.
    fn close_others(&mut self) {
        let older = self.attached.len() - 1;
        for mut other in self.attached.drain(..older) {
            other.carrier.close(CloseReason::Replaced);
        }
    }

    fn remove(&mut self, place: usize, error: &CarrierError) -> News {
        self.is_peer_done |= error.is_peer_done();
        let was_lead = self.has_lead && place + 1 == self.attached.len();
        let mut lost = self.attached.remove(place);
        lost.carrier.close(CloseReason::Protocol);
        if was_lead {
            // Whether an older carrier may lead again is for the driver to say.
            self.has_lead = false;
            News::LeadLost
        } else {
            News::OtherLost
        }
    }
}
