//! The carriers of one session: the lead, older leads that may still deliver, and those that stand by.

use super::Arrival;
use super::attached::Attached;
use super::facts::Roster;
use crate::carrier::{Carrier, CarrierError, CloseReason, ReceivedFrame};
use crate::session::{Standing, StandingWatch};
use crate::wire::{Epoch, Frame, Offset};
use bytes::Bytes;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tracing::{debug, field, info};

/// A peer that resumes again and again without a word in between holds no more than these.
const MOST_CARRIERS: usize = 8;
/// Of these so many may stand by: a path of its own, the former lead, and one that is about to be given up.
const MOST_STANDING: usize = 3;

/// A lead that is heard so soon after it lost the lead was not lost.
const FALSE_ALARM: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Carriers {
    lead: Option<Attached>,
    /// Former leads and those that stand by, in the order in which they came to that.
    others: Vec<Attached>,
    /// The peer closed a carrier because it was done with the session: it waits for nothing more.
    is_peer_done: bool,
    /// Who leads or stands by has changed.
    is_roster_new: bool,
    pings: u64,
}

/// What a carrier brought.
pub(super) enum News {
    Frame { heard: ReceivedFrame, from: Source },
    LeadLost { by_peer: bool },
    OtherLost,
}

/// Where a frame came from. Holds until a carrier comes or goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Lead,
    Other(usize),
}

#[derive(PartialEq, Eq)]
pub(super) enum Flushed {
    /// `by_peer`: the peer's host itself said so.
    LeadLost {
        by_peer: bool,
    },
    Otherwise,
}

impl Carriers {
    /// A carrier with an epoch above all before it leads from now on.
    pub(super) fn add(&mut self, arrival: Arrival, now: Instant) {
        self.retire_lead();
        self.lead = Some(Attached {
            epoch: Some(arrival.epoch),
            reached: arrival.peer_received,
            ..Attached::new(arrival.carrier, now)
        });
        self.is_roster_new = true;
        if self.others.len() >= MOST_CARRIERS {
            self.others.remove(0).carrier.close(CloseReason::Replaced);
        }
    }

    /// A carrier stands by from now on. What its round trip is must be known by the time it leads.
    pub(super) fn add_standing(&mut self, carrier: Carrier, now: Instant) {
        let mut standing = Attached {
            stands: true,
            ..Attached::new(carrier, now)
        };
        if standing.carrier.rtt().is_none() {
            standing.watch.handle_doubt(now);
        }
        self.others.push(standing);
        self.limit_standing();
    }

    /// A carrier that is not the lead becomes it; the lead before stands by, if there is one. `doubted`: the driver has
    /// not heard from that lately.
    pub(super) fn promote(&mut self, place: usize, epoch: Epoch, doubted: bool, now: Instant) {
        let mut promoted = self.others.remove(place);
        promoted.epoch = Some(epoch);
        promoted.delivered = false;
        promoted.stands = false;
        promoted.doubted = None;
        if let Some(lead) = &mut self.lead {
            lead.stands = true;
            lead.answer_mark = lead.carrier.answer_mark();
            lead.doubted = doubted.then_some(now);
            lead.watch = StandingWatch::new(now);
            lead.watch.handle_doubt(now);
        }
        self.retire_lead();
        self.lead = Some(promoted);
        self.limit_standing();
    }

    /// The lead leads again, under another epoch.
    pub(super) fn renew_lead(&mut self, epoch: Epoch) {
        if let Some(lead) = &mut self.lead {
            lead.epoch = Some(epoch);
        }
    }

    /// The best of those that stand by: one that is not in doubt, the nearest of these.
    pub(super) fn best_standby(&self) -> Option<usize> {
        let standing = self.others.iter().enumerate().filter(|(_, other)| other.stands);
        let best = standing.min_by_key(|(_, other)| (other.doubted.is_some(), other.rtt()));
        best.map(|(place, _)| place)
    }

    /// Whether one stands by that is not in doubt.
    pub(super) fn has_standby(&self) -> bool {
        self.others.iter().any(|other| other.stands && other.doubted.is_none())
    }

    pub(super) fn lead(&mut self) -> Option<&mut Carrier> {
        self.lead.as_mut().map(|lead| &mut lead.carrier)
    }

    /// Closes the lead for want of delivery.
    pub(super) fn leave_lead(&mut self, reason: CloseReason) {
        if let Some(mut lead) = self.lead.take() {
            lead.carrier.close(reason);
            self.is_roster_new = true;
        }
    }

    /// How far the lead got, in case that it is to lead again.
    pub(super) fn note_reached(&mut self, reached: Offset) {
        if let Some(lead) = &mut self.lead {
            lead.reached = reached;
        }
    }

    /// Lets the latest former lead that lives lead, and says of it what the session has to know.
    pub(super) fn fall_back(&mut self) -> Option<(Epoch, Offset)> {
        let former = self.others.iter().enumerate();
        let latest = former.filter_map(|(place, other)| Some((other.epoch?, place)));
        let (epoch, place) = latest.max_by_key(|(epoch, _)| *epoch)?;
        let lead = self.others.remove(place);
        let reached = lead.reached;
        self.lead = Some(lead);
        self.is_roster_new = true;
        Some((epoch, reached))
    }

    pub(super) fn is_lead_flushed(&self) -> bool {
        self.lead.as_ref().is_none_or(|lead| lead.carrier.is_flushed())
    }

    /// The next frame of any carrier; the lead is asked first.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<News> {
        self.inject_cuts(now);
        for source in self.sources() {
            let Some(attached) = self.at(source) else { continue };
            let heard = match attached.carrier.poll_frame(cx) {
                Poll::Pending => continue,
                Poll::Ready(Ok(heard)) => heard,
                Poll::Ready(Err(error)) => {
                    debug!(%error, epoch = ?attached.epoch, is_lead = source == Source::Lead, "carrier lost");
                    return Poll::Ready(self.remove(source, &error));
                }
            };
            if let Frame::Ping { token } = heard.frame {
                attached.carrier.send_now(&Frame::Pong { token });
            } else if source == Source::Lead && !std::mem::replace(&mut attached.delivered, true) {
                self.close_others();
            }
            return Poll::Ready(News::Frame { heard, from: source });
        }
        Poll::Pending
    }

    /// Moves what is queued on every carrier.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Flushed {
        let mut flushed = Flushed::Otherwise;
        for source in self.sources() {
            let Some(attached) = self.at(source) else { continue };
            if let Poll::Ready(Err(error)) = attached.carrier.poll_flush(cx) {
                debug!(%error, "carrier lost");
                if let News::LeadLost { by_peer } = self.remove(source, &error) {
                    flushed = Flushed::LeadLost { by_peer };
                }
            }
        }
        flushed
    }

    /// Asks those that stand by whether they live, and lets go of those that do not answer. For the half that dials.
    /// Gives whether the lead before this one was suspected for nothing.
    pub(super) fn keep_warm(&mut self, now: Instant) -> bool {
        let mut false_alarm = false;
        for place in (0..self.others.len()).rev() {
            let other = &mut self.others[place];
            if !other.stands || (other.watch.poll_timeout() > now && other.doubted.is_none()) {
                continue;
            }
            let refuted = other.listen(now);
            false_alarm |= refuted.is_some_and(|doubted| now.saturating_duration_since(doubted) < FALSE_ALARM);
            match other.watch.poll(now, other.rtt()) {
                Standing::Wait => {}
                Standing::Probe => {
                    self.pings += 1;
                    other.carrier.solicit_ack(self.pings);
                }
                Standing::Dead => {
                    info!(
                        remote = other.carrier.info().remote.map(field::display),
                        "a standing carrier does not answer"
                    );
                    other.carrier.close(CloseReason::Replaced);
                    self.others.remove(place);
                    self.is_roster_new = true;
                }
            }
        }
        false_alarm
    }

    /// Whatever was known of the paths is old: ask at once.
    pub(super) fn doubt_standing(&mut self, now: Instant) {
        let standing = self.others.iter_mut().filter(|other| other.stands);
        standing.for_each(|other| other.watch.handle_doubt(now));
    }

    /// When [`Carriers::keep_warm`] is due.
    pub(super) fn warm_timeout(&self) -> Option<Instant> {
        let standing = self.others.iter().filter(|other| other.stands);
        standing.map(|other| other.watch.poll_timeout()).min()
    }

    /// Copies of the same bytes that the lead's losses demand.
    pub(super) fn lead_copies(&mut self, now: Instant) -> u32 {
        let Some(lead) = &mut self.lead else { return 0 };
        let Some((sent, lost)) = lead.carrier.losses() else {
            return 0;
        };
        lead.loss.observe(sent, lost, now);
        lead.loss.copies()
    }

    /// Whether any carrier stands by.
    pub(super) fn is_any_standing(&self) -> bool {
        self.others.iter().any(|other| other.stands)
    }

    /// Sends a copy on every carrier that stands by.
    pub(super) fn copy_to_standing(&mut self, copy: &Bytes) {
        let standing = self.others.iter_mut().filter(|other| other.stands);
        standing.for_each(|other| other.carrier.send_copy(copy.clone()));
    }

    /// Who leads and who stands by, if that has changed.
    pub(super) fn new_roster(&mut self) -> Option<Roster> {
        std::mem::take(&mut self.is_roster_new).then(|| Roster {
            lead: self.lead.as_ref().map(|lead| lead.carrier.info().clone()),
            standing: {
                let standing = self.others.iter().filter(|other| other.stands);
                standing.map(|other| other.carrier.info().clone()).collect()
            },
        })
    }

    /// Closes all at once.
    pub(super) fn close(mut self, reason: CloseReason) {
        let all = self.lead.iter_mut().chain(&mut self.others);
        all.for_each(|attached| attached.carrier.close(reason));
    }

    /// Gives the last words of the lead a chance, and closes all. Whether the peer has them.
    pub(super) async fn finish(mut self, reason: CloseReason) -> bool {
        self.others.iter_mut().for_each(|other| other.carrier.close(reason));
        match self.lead {
            Some(lead) => lead.carrier.finish(reason).await,
            None => self.is_peer_done,
        }
    }

    #[cfg(debug_assertions)]
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let all = self.lead.iter().chain(&self.others);
        all.filter_map(|attached| attached.cut_at).min()
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    #[cfg(debug_assertions)]
    fn inject_cuts(&mut self, now: Instant) {
        for attached in self.lead.iter_mut().chain(&mut self.others) {
            if attached.cut_at.is_some_and(|cut_at| cut_at <= now) {
                attached.cut_at = None;
                attached.carrier.close(CloseReason::ShuttingDown);
            }
        }
    }

    #[cfg(not(debug_assertions))]
    fn inject_cuts(&mut self, _now: Instant) {}

    /// The lead first, then the others from the latest on: removing one moves only those that had their turn.
    fn sources(&self) -> impl Iterator<Item = Source> + use<> {
        std::iter::once(Source::Lead).chain((0..self.others.len()).rev().map(Source::Other))
    }

    fn at(&mut self, source: Source) -> Option<&mut Attached> {
        match source {
            Source::Lead => self.lead.as_mut(),
            Source::Other(place) => self.others.get_mut(place),
        }
    }

    /// The lead is no longer it.
    fn retire_lead(&mut self) {
        self.others.extend(self.lead.take());
        self.is_roster_new = true;
    }

    fn limit_standing(&mut self) {
        self.is_roster_new = true;
        let standing = self.others.iter().filter(|other| other.stands).count();
        if standing > MOST_STANDING
            && let Some(oldest) = self.others.iter().position(|other| other.stands)
        {
            self.others.remove(oldest).carrier.close(CloseReason::Replaced);
        }
    }

    /// The lead delivers: nothing more is hoped for from those before it that do not stand by.
    fn close_others(&mut self) {
        self.others.retain_mut(|other| {
            if !other.stands {
                other.carrier.close(CloseReason::Replaced);
            }
            other.stands
        });
    }

    fn remove(&mut self, source: Source, error: &CarrierError) -> News {
        self.is_peer_done |= error.is_peer_done();
        self.is_roster_new = true;
        let (lost, news) = match source {
            // Whether an older carrier may lead again is for the driver to say.
            Source::Lead => (
                self.lead.take(),
                News::LeadLost {
                    by_peer: error.is_from_peer(),
                },
            ),
            Source::Other(place) => (Some(self.others.remove(place)), News::OtherLost),
        };
        if let Some(mut lost) = lost {
            lost.carrier.close(CloseReason::Protocol);
        }
        news
    }
}
