//! Who leads: carriers that arrive, that stand by, that are promoted, and that are lost.

use super::carriers::Source;
use super::{Moved, Outcome, Pump};
use crate::carrier::{CloseReason, ReceivedFrame};
use crate::wire::{Epoch, Frame, Offset};
use bytes::BytesMut;
use std::task::{Context, Poll};
use std::time::Instant;
use tracing::{debug, field, info};

impl<R, W> Pump<R, W> {
    /// A carrier whose hello made it the lead.
    pub(super) fn take_arrivals(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        let Poll::Ready(Some(mut arrival)) = self.arrivals.poll_recv(cx) else {
            return Ok(false);
        };
        self.carriers.note_reached(self.session.lead_position());
        let attached = self
            .session
            .attach(arrival.epoch, arrival.peer_received, arrival.peer_window);
        let Some(replayed) = attached.map_err(Outcome::Desync)? else {
            debug!(epoch = %arrival.epoch, "carrier arrived after a later one");
            arrival.carrier.close(CloseReason::Replaced);
            return Ok(true);
        };
        if !arrival.first.is_empty() {
            // Said before the carrier led: no sign that the peer knows of the session, or hears anything.
            let (offset, bytes) = (Offset::ZERO, std::mem::take(&mut arrival.first));
            let first = self.session.handle_frame(Frame::Data { offset, bytes });
            first.map_err(Outcome::Desync)?;
        }
        arrival.carrier.raise_receive_window();
        let epoch = arrival.epoch;
        self.carriers.add(*arrival, now);
        self.hearing.handle_word(now);
        self.tell_of_lead(epoch, replayed, now);
        if let Some(vigil) = &mut self.vigil {
            vigil.handle_attached(now);
        }
        Ok(true)
    }

    /// A carrier that is to stand by. Where nothing leads it has not long to stand.
    pub(super) fn take_standbys(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        let Poll::Ready(Some(carrier)) = self.standbys.poll_recv(cx) else {
            return Ok(false);
        };
        carrier.raise_receive_window();
        debug!(remote = carrier.info().remote.map(field::display), carrier = %carrier.info().kind, "a carrier stands by");
        self.carriers.add_standing(carrier, now);
        if self.vigil.is_some() && self.carriers.lead().is_none() {
            self.promote(now)?;
        }
        Ok(true)
    }

    pub(super) fn handle_heard(&mut self, heard: ReceivedFrame, from: Source, now: Instant) -> Result<(), Outcome> {
        self.confirmed = true;
        let ReceivedFrame { frame, is_copy } = heard;
        if from == Source::Lead {
            self.hearing.handle_word(now);
            self.ask_for_late_ack(now);
        }
        if let Some(vigil) = self.vigil.as_mut().filter(|_| from == Source::Lead) {
            vigil.handle_frame(&frame, now);
        }
        if let Frame::Resume {
            epoch,
            received,
            window,
        } = frame
        {
            return self.handle_resume(from, epoch, (received, window), now);
        }
        let handled = match is_copy {
            true => self.session.handle_copy(frame),
            false => self.session.handle_frame(frame),
        };
        handled.map_err(Outcome::Desync)
    }

    /// On the half that does not dial: what it sent may have met a NAT that had forgotten the peer. The answer to a question shows the
    /// transport at once what is lost; and the peer learns that it rested for too long.
    fn ask_for_late_ack(&mut self, now: Instant) {
        let is_dialing = self.vigil.is_some();
        let Some(lead) = self.carriers.lead().filter(|_| !is_dialing) else {
            return;
        };
        if self.late.handle_heard(lead, now) {
            lead.send_now(&Frame::Ping { token: 0 });
        }
    }

    /// The dialing half lets another carrier lead, and sends on it already.
    fn handle_resume(
        &mut self,
        from: Source,
        epoch: Epoch,
        (received, window): (Offset, u64),
        now: Instant,
    ) -> Result<(), Outcome> {
        if self.vigil.is_some() || !self.epochs.take(epoch) {
            debug!(%epoch, "a resume that changes nothing");
            return Ok(());
        }
        self.carriers.note_reached(self.session.lead_position());
        let attached = self.session.attach(epoch, received, window);
        let Some(replayed) = attached.map_err(Outcome::Desync)? else {
            return Ok(());
        };
        match from {
            Source::Lead => self.carriers.renew_lead(epoch),
            Source::Other(place) => self.carriers.promote(place, epoch, false, now),
        }
        self.hearing.handle_word(now);
        self.tell_of_lead(epoch, replayed, now);
        Ok(())
    }

    /// Lets the best carrier that stands by lead, and tells the peer on it: from its last ack on everything goes out
    /// again behind that. Whether there was one.
    pub(super) fn promote(&mut self, now: Instant) -> Result<bool, Outcome> {
        let Some(place) = self.carriers.best_standby() else {
            return Ok(false);
        };
        let epoch = self.epochs.next();
        self.carriers.note_reached(self.session.lead_position());
        // Nothing new is known of the peer.
        let attached = self.session.attach(epoch, Offset::ZERO, 0);
        let Some(replayed) = attached.map_err(Outcome::Desync)? else {
            return Ok(false);
        };
        let doubted = self.carriers.lead().is_some();
        self.carriers.promote(place, epoch, doubted, now);
        self.tell_of_lead(epoch, replayed, now);
        let resume = Frame::Resume {
            epoch,
            received: self.session.received(),
            window: self.session.window(),
        };
        if let Some(lead) = self.carriers.lead() {
            resume.encode(lead.outbox());
            // The same once more, which is not repaired but may be first.
            let mut copy = BytesMut::new();
            resume.encode(&mut copy);
            lead.send_copy(copy.freeze());
            if let Some(vigil) = &mut self.vigil {
                vigil.handle_promoted(lead, now);
            }
        }
        Ok(true)
    }

    pub(super) fn handle_lead_lost(&mut self, by_peer: bool, now: Instant) -> Result<(), Outcome> {
        self.session.detach();
        self.hole.handle_lead();
        self.late.handle_lead();
        if self.fall_back(now)? || (self.vigil.is_some() && self.promote(now)?) {
            return Ok(());
        }
        self.facts.handle_detached(now);
        self.alone_since = now;
        if let Some(vigil) = &mut self.vigil {
            vigil.handle_lost(by_peer, now, self.session.is_outstanding());
        }
        Ok(())
    }

    /// Goes on with an older carrier, on the half that does not dial: the dialing half may have called its race off
    /// after we took the newer carrier for the lead, and would never know that we wait. It redials itself instead.
    fn fall_back(&mut self, now: Instant) -> Result<bool, Outcome> {
        if self.vigil.is_some() {
            return Ok(false);
        }
        let Some((epoch, reached)) = self.carriers.fall_back() else {
            return Ok(false);
        };
        self.session.fall_back(reached).map_err(Outcome::Desync)?;
        if let Some(lead) = self.carriers.lead() {
            self.hearing.handle_lead(lead, now);
            self.facts.handle_attached(lead.info(), now, None);
        }
        debug!(%epoch, "an older carrier leads again");
        Ok(true)
    }

    fn tell_of_lead(&mut self, epoch: Epoch, replayed_bytes: u64, now: Instant) {
        let silent_since = self.vigil.as_ref().and_then(|vigil| vigil.suspected_since());
        self.hole.handle_lead();
        self.late.handle_lead();
        let Some(lead) = self.carriers.lead() else { return };
        self.hearing.handle_lead(lead, now);
        let info = lead.info().clone();
        if let Some(outage) = self.facts.handle_attached(&info, now, silent_since) {
            info!(event = "resumed", replayed_bytes, outage_ms = outage.as_millis(), %epoch, carrier = %info.kind,
                remote = info.remote.map(field::display), via = info.via.as_deref(), "session resumed");
        }
    }
}
