//! The paths of one connection: the lead, former leads that may still deliver, and standby carriers. Leads are numbered by
//! [`Epochs`].

use super::path::{PathClose, PathState, PathTransport};
use super::standby::StandbyAction;
use crate::wire::{Epoch, Offset};
use bytes::Bytes;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Limit for a peer that resumes repeatedly without sending frames in between.
const MAX_PATHS: usize = 8;
/// Most standby carriers: one on a path of its own, the former lead, and one that is about to be closed.
const MAX_STANDBYS: usize = 3;

/// If a replaced lead answers within this time, the suspicion was wrong.
const FALSE_ALARM_WINDOW: Duration = Duration::from_secs(1);

/// Which path. Valid until a path is added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathIndex {
    /// The lead.
    Lead,
    /// A former lead or a standby carrier.
    Other(usize),
}

/// The paths of one connection.
pub struct Paths<T> {
    lead: Option<PathState<T>>,
    /// Former leads and standby carriers, the oldest first.
    others: Vec<PathState<T>>,
    /// The lead or the standby carriers changed.
    is_changed: bool,
    pings: u64,
}

impl<T> Default for Paths<T> {
    fn default() -> Paths<T> {
        Paths {
            lead: None,
            others: Vec::new(),
            is_changed: false,
            pings: 0,
        }
    }
}

impl<T: PathTransport> Paths<T> {
    /// The lead.
    pub fn lead(&self) -> Option<&T> {
        self.lead.as_ref().map(|lead| &lead.transport)
    }

    /// The lead.
    pub fn lead_mut(&mut self) -> Option<&mut T> {
        self.lead.as_mut().map(|lead| &mut lead.transport)
    }

    /// The lead first, then the others from the newest to the oldest, so that removing one only shifts those already visited.
    pub fn indices(&self) -> impl Iterator<Item = PathIndex> + use<T> {
        std::iter::once(PathIndex::Lead).chain((0..self.others.len()).rev().map(PathIndex::Other))
    }

    /// The path's transport; `None` if it is gone.
    pub fn get_mut(&mut self, index: PathIndex) -> Option<&mut T> {
        self.at(index).map(|path| &mut path.transport)
    }

    /// All paths, the lead first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let all = self.lead.iter_mut().chain(&mut self.others);
        all.map(|path| &mut path.transport)
    }

    /// Standby carriers, the oldest first.
    pub fn standbys(&self) -> impl Iterator<Item = &T> {
        let standbys = self.others.iter().filter(|other| other.is_standby);
        standbys.map(|other| &other.transport)
    }

    /// Paths beside the lead.
    pub fn others(&self) -> impl Iterator<Item = &T> {
        self.others.iter().map(|other| &other.transport)
    }

    /// Whether the lead or the standby carriers changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// The lead and the others.
    pub fn into_parts(self) -> (Option<T>, Vec<T>) {
        let others = self.others.into_iter().map(|other| other.transport);
        (self.lead.map(|lead| lead.transport), others.collect())
    }

    /// A path with a new highest epoch becomes the lead.
    pub(super) fn add(&mut self, transport: T, epoch: Epoch, reached: Offset, now: Instant) {
        self.retire_lead();
        self.lead = Some(PathState {
            epoch: Some(epoch),
            reached,
            ..PathState::new(transport, now)
        });
        self.is_changed = true;
        if self.others.len() >= MAX_PATHS {
            self.others.remove(0).transport.close(PathClose::Replaced);
        }
    }

    /// Adds a standby carrier. It is probed at once if its round-trip time is unknown: that must be known before it leads.
    pub(super) fn add_standby(&mut self, transport: T, now: Instant) {
        let mut standby = PathState {
            is_standby: true,
            ..PathState::new(transport, now)
        };
        if standby.transport.rtt().is_none() {
            standby.standby_monitor.handle_doubt(now);
        }
        self.others.push(standby);
        self.limit_standbys();
    }

    /// Makes another path the lead; the previous lead becomes a standby carrier. `suspected`: the previous lead is replaced
    /// because of a suspicion.
    pub(super) fn promote(&mut self, place: usize, epoch: Epoch, suspected: bool, now: Instant) {
        let mut promoted = self.others.remove(place);
        promoted.epoch = Some(epoch);
        promoted.delivered = false;
        promoted.is_standby = false;
        promoted.suspected_at = None;
        if let Some(lead) = &mut self.lead {
            lead.become_standby(suspected, now);
        }
        self.retire_lead();
        self.lead = Some(promoted);
        self.limit_standbys();
    }

    /// The lead stays the lead with a new epoch.
    pub(super) fn renew_lead(&mut self, epoch: Epoch) {
        if let Some(lead) = &mut self.lead {
            lead.epoch = Some(epoch);
        }
    }

    /// The best standby carrier: not suspected, then the shortest round trip.
    pub(super) fn best_standby(&self) -> Option<usize> {
        let standbys = self.others.iter().enumerate().filter(|(_, other)| other.is_standby);
        let best = standbys.min_by_key(|(_, other)| (other.suspected_at.is_some(), other.rtt()));
        best.map(|(place, _)| place)
    }

    /// Whether there is a standby carrier that is not suspected.
    pub(super) fn has_healthy_standby(&self) -> bool {
        self.others
            .iter()
            .any(|other| other.is_standby && other.suspected_at.is_none())
    }

    /// Whether there is any standby carrier.
    pub(super) fn has_any_standby(&self) -> bool {
        self.others.iter().any(|other| other.is_standby)
    }

    /// Remembers how far the lead got, in case it becomes the lead again.
    pub(super) fn set_reached(&mut self, reached: Offset) {
        if let Some(lead) = &mut self.lead {
            lead.reached = reached;
        }
    }

    /// Makes the latest former lead the lead again. Returns its epoch and how far it got.
    pub(super) fn fall_back(&mut self) -> Option<(Epoch, Offset)> {
        let former = self.others.iter().enumerate();
        let latest = former.filter_map(|(place, other)| Some((other.epoch?, place)));
        let (epoch, place) = latest.max_by_key(|(epoch, _)| *epoch)?;
        let lead = self.others.remove(place);
        let reached = lead.reached;
        self.lead = Some(lead);
        self.is_changed = true;
        Some((epoch, reached))
    }

    /// A frame other than a probe arrived on the lead. It delivers, so former leads that are not standby carriers are closed.
    pub(super) fn handle_delivered(&mut self) {
        let Some(lead) = &mut self.lead else { return };
        if std::mem::replace(&mut lead.delivered, true) {
            return;
        }
        self.others.retain_mut(|other| {
            if !other.is_standby {
                other.transport.close(PathClose::Replaced);
            }
            other.is_standby
        });
    }

    /// Closes a path and forgets it.
    pub(super) fn remove(&mut self, index: PathIndex, reason: PathClose) {
        let removed = match index {
            PathIndex::Lead => self.lead.take(),
            PathIndex::Other(place) => (place < self.others.len()).then(|| self.others.remove(place)),
        };
        if let Some(mut removed) = removed {
            removed.transport.close(reason);
            self.is_changed = true;
        }
    }

    /// Probes standby carriers and closes those that do not answer. Returns whether the previous lead was suspected wrongly.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let mut false_alarm = false;
        for place in (0..self.others.len()).rev() {
            let other = &mut self.others[place];
            if !other.is_standby || (other.standby_monitor.poll_timeout() > now && other.suspected_at.is_none()) {
                continue;
            }
            let refuted = other.check_answer(now);
            false_alarm |= refuted.is_some_and(|at| now.saturating_duration_since(at) < FALSE_ALARM_WINDOW);
            match other.standby_monitor.poll(now, other.rtt()) {
                StandbyAction::Wait => {}
                StandbyAction::Probe => {
                    self.pings += 1;
                    other.transport.send_keepalive(self.pings);
                }
                StandbyAction::Dead => self.remove(PathIndex::Other(place), PathClose::Unresponsive),
            }
        }
        false_alarm
    }

    /// When [`Paths::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let standbys = self.others.iter().filter(|other| other.is_standby);
        standbys.map(|other| other.standby_monitor.poll_timeout()).min()
    }

    /// The network changed: probe all standby carriers at once.
    pub(super) fn probe_standbys(&mut self, now: Instant) {
        let standbys = self.others.iter_mut().filter(|other| other.is_standby);
        standbys.for_each(|other| other.standby_monitor.handle_doubt(now));
    }

    /// How many copies of the same bytes to send, by the lead's loss rate.
    pub(super) fn lead_copies(&mut self, now: Instant) -> u32 {
        let Some(lead) = &mut self.lead else { return 0 };
        let Some((sent, lost)) = lead.transport.losses() else {
            return 0;
        };
        lead.loss.observe(sent, lost, now);
        lead.loss.copies()
    }

    /// Sends a copy on every standby carrier.
    pub(super) fn copy_to_standbys(&mut self, copy: &Bytes) {
        let standbys = self.others.iter_mut().filter(|other| other.is_standby);
        standbys.for_each(|other| other.transport.send_copy(copy.clone()));
    }

    fn at(&mut self, index: PathIndex) -> Option<&mut PathState<T>> {
        match index {
            PathIndex::Lead => self.lead.as_mut(),
            PathIndex::Other(place) => self.others.get_mut(place),
        }
    }

    /// Turns the lead into a former lead.
    fn retire_lead(&mut self) {
        self.others.extend(self.lead.take());
        self.is_changed = true;
    }

    fn limit_standbys(&mut self) {
        self.is_changed = true;
        let standbys = self.others.iter().filter(|other| other.is_standby).count();
        if standbys > MAX_STANDBYS
            && let Some(oldest) = self.others.iter().position(|other| other.is_standby)
        {
            self.others.remove(oldest).transport.close(PathClose::Replaced);
        }
    }
}

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
