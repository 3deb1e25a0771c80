//! Carriers as the paths of a connection: reading frames, flushing, and acting on what the connection decides.

use super::session_stats::ActivePaths;
use super::{FRAMES, Moved, NewLead, Outcome, PathEvent, Pump};
use crate::carrier::{Carrier, CarrierError, CloseReason, ReceivedFrame};
use crate::connection::{Event, PathClose, PathIndex, PathTransport, Paths};
use crate::wire::{Epoch, Frame};
use bytes::{Bytes, BytesMut};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tracing::{debug, field, info, warn};

/// A carrier as a path.
pub(super) struct CarrierPath {
    pub(super) carrier: Carrier,
    #[cfg(debug_assertions)]
    cut_at: Option<Instant>,
}

impl CarrierPath {
    pub(super) fn new(carrier: Carrier, _now: Instant) -> CarrierPath {
        CarrierPath {
            carrier,
            #[cfg(debug_assertions)]
            cut_at: crate::fault::carrier_lifetime().map(|lifetime| _now + lifetime),
        }
    }
}

impl PathTransport for CarrierPath {
    fn rtt(&self) -> Option<Duration> {
        self.carrier.rtt()
    }

    fn received(&self) -> u64 {
        self.carrier.packets_received()
    }

    fn counts_acks(&self) -> bool {
        self.carrier.sees_transport_acks()
    }

    fn ack_mark(&self) -> Option<u64> {
        self.carrier.ack_mark()
    }

    fn rebindings(&self) -> u64 {
        self.carrier.rebindings()
    }

    fn losses(&self) -> Option<(u64, u64)> {
        self.carrier.losses()
    }

    fn is_black_hole(&self) -> bool {
        self.carrier.is_black_hole()
    }

    fn outbox(&mut self) -> &mut BytesMut {
        self.carrier.outbox()
    }

    fn send_now(&mut self, frame: &Frame) {
        self.carrier.send_now(frame);
    }

    fn send_keepalive(&mut self, token: u64) {
        self.carrier.solicit_ack(token);
    }

    fn send_copy(&mut self, copy: Bytes) {
        self.carrier.send_copy(copy);
    }

    fn close(&mut self, reason: PathClose) {
        let info = self.carrier.info();
        let remote = info.remote.map(field::display);
        let reason = match reason {
            PathClose::Replaced => CloseReason::Replaced,
            PathClose::Unresponsive => {
                info!(remote, "a standby carrier does not answer");
                CloseReason::Replaced
            }
            PathClose::Undelivered => {
                warn!(
                    event = "undelivered",
                    carrier = %info.kind,
                    remote,
                    "packets from the peer arrive, but nothing sent to it is delivered: closing this path"
                );
                CloseReason::Undelivered
            }
            PathClose::Lost => CloseReason::Protocol,
        };
        self.carrier.close(reason);
    }
}

impl<R, W> Pump<R, W> {
    /// Takes a new carrier, or what else happened to the paths.
    pub(super) fn take_path_event(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        let Poll::Ready(Some(event)) = self.path_events.poll_recv(cx) else {
            return Ok(false);
        };
        match event {
            PathEvent::Lead(lead) => {
                let NewLead {
                    carrier,
                    accepted,
                    first,
                } = *lead;
                carrier.raise_receive_window();
                let handled = self
                    .connection
                    .handle_path(CarrierPath::new(carrier, now), accepted, first, now);
                handled.map_err(Outcome::Desync)?;
            }
            PathEvent::Standby(carrier) => {
                carrier.raise_receive_window();
                debug!(remote = carrier.info().remote.map(field::display), carrier = %carrier.info().kind, "a carrier stands by");
                let handled = self.connection.handle_standby(CarrierPath::new(*carrier, now), now);
                handled.map_err(Outcome::Desync)?;
            }
            PathEvent::NetworkChanged => self.connection.handle_network_change(now),
            PathEvent::Lost(why) if self.connection.session().is_output_done() => {
                // The peer had already ended the session and only missed our acknowledgement.
                debug!(why, "the peer no longer has a session that had ended");
                return Err(Outcome::Finished);
            }
            PathEvent::Lost(why) => return Err(Outcome::Lost(why)),
        }
        self.handle_events(now);
        Ok(true)
    }

    /// Reads frames from all carriers; the lead is polled first.
    pub(super) fn take_frames(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        self.inject_cuts(now);
        let mut moved = false;
        for _ in 0..FRAMES {
            match self.poll_frame(cx) {
                None => break,
                Some((from, Ok(heard))) => self.handle_heard(from, heard, now)?,
                Some((index, Err(error))) => self.handle_carrier_lost(index, &error, now)?,
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Flushes every carrier. Returns whether the lead was lost.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, Outcome> {
        let mut lead_error = None;
        for index in self.connection.paths().indices() {
            let Some(path) = self.connection.paths_mut().get_mut(index) else {
                continue;
            };
            let Poll::Ready(Err(error)) = path.carrier.poll_flush(cx) else {
                continue;
            };
            match index {
                // Handled last: another path may take its place, which changes the indices.
                PathIndex::Lead => lead_error = Some(error),
                PathIndex::Other(_) => self.handle_carrier_lost(index, &error, now)?,
            }
        }
        if let Some(error) = &lead_error {
            self.handle_carrier_lost(PathIndex::Lead, error, now)?;
        }
        Ok(lead_error.is_some())
    }

    pub(super) fn is_lead_flushed(&self) -> bool {
        let lead = self.connection.paths().lead();
        lead.is_none_or(|lead| lead.carrier.is_flushed())
    }

    /// Logs and counts what the connection has decided.
    pub(super) fn handle_events(&mut self, now: Instant) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::LeadChanged {
                    epoch,
                    replayed_bytes,
                    silent_since,
                    by_peer,
                } => {
                    if by_peer {
                        self.last_heard.handle_frame(now);
                    }
                    self.handle_lead_changed(epoch, replayed_bytes, silent_since, now);
                }
                Event::FellBack { epoch } => self.handle_fallen_back(epoch, now),
                Event::LeadLost => self.stats.handle_detached(now),
                Event::Suspected { rtt, has_standby } => {
                    let rtt_ms = rtt.as_millis();
                    match has_standby {
                        true => info!(
                            event = "suspected",
                            rtt_ms, "the path is silent: promoting a standby carrier"
                        ),
                        false => info!(event = "suspected", rtt_ms, "the path is silent: dialing a new carrier"),
                    }
                }
                Event::FalseAlarm => debug!("the previous lead answers: the suspicion was wrong"),
                Event::StaleEpoch { epoch } => debug!(%epoch, "a carrier or resume with an old epoch is ignored"),
            }
        }
    }

    /// Publishes the lead, the standby carriers and the dial request, if they changed.
    pub(super) fn publish_paths(&mut self) {
        let dial_request = self.connection.dial_request();
        let is_requested = dial_request != self.published;
        if is_requested {
            debug!(?dial_request, "dial request");
            self.published = dial_request;
        }
        if self.connection.paths_mut().take_changed() || is_requested {
            let paths = self.connection.paths();
            self.stats.handle_active_paths(ActivePaths {
                lead: paths.lead().map(|lead| lead.carrier.info().clone()),
                standing: paths.standbys().map(|standby| standby.carrier.info().clone()).collect(),
                dial_request,
            });
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Option<(PathIndex, Result<ReceivedFrame, CarrierError>)> {
        let paths = self.connection.paths_mut();
        for index in paths.indices() {
            let Some(path) = paths.get_mut(index) else { continue };
            if let Poll::Ready(polled) = path.carrier.poll_frame(cx) {
                return Some((index, polled));
            }
        }
        None
    }

    fn handle_heard(&mut self, from: PathIndex, heard: ReceivedFrame, now: Instant) -> Result<(), Outcome> {
        if from == PathIndex::Lead {
            self.last_heard.handle_frame(now);
        }
        let handled = self.connection.handle_frame(from, heard.frame, heard.is_copy, now);
        handled.map_err(Outcome::Desync)?;
        self.handle_events(now);
        Ok(())
    }

    fn handle_carrier_lost(&mut self, index: PathIndex, error: &CarrierError, now: Instant) -> Result<(), Outcome> {
        debug!(%error, is_lead = index == PathIndex::Lead, "carrier lost");
        self.is_peer_done |= error.is_peer_done();
        let handled = self.connection.handle_path_closed(index, error.is_from_peer(), now);
        handled.map_err(Outcome::Desync)?;
        self.handle_events(now);
        Ok(())
    }

    fn handle_lead_changed(&mut self, epoch: Epoch, replayed_bytes: u64, silent_since: Option<Instant>, now: Instant) {
        let Some(lead) = self.connection.paths().lead() else {
            return;
        };
        self.last_heard.handle_lead(&lead.carrier, now);
        let info = lead.carrier.info();
        if let Some(outage) = self.stats.handle_attached(info, now, silent_since) {
            info!(event = "resumed", replayed_bytes, outage_ms = outage.as_millis(), %epoch, carrier = %info.kind,
                remote = info.remote.map(field::display), via = info.via.as_deref(), "session resumed");
        }
    }

    fn handle_fallen_back(&mut self, epoch: Epoch, now: Instant) {
        if let Some(lead) = self.connection.paths().lead() {
            self.last_heard.handle_lead(&lead.carrier, now);
            self.stats.handle_attached(lead.carrier.info(), now, None);
        }
        debug!(%epoch, "an older carrier leads again");
    }

    #[cfg(debug_assertions)]
    pub(super) fn fault_timeout(&mut self) -> Option<Instant> {
        let paths = self.connection.paths_mut();
        paths.iter_mut().filter_map(|path| path.cut_at).min()
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn fault_timeout(&mut self) -> Option<Instant> {
        None
    }

    #[cfg(debug_assertions)]
    fn inject_cuts(&mut self, now: Instant) {
        for path in self.connection.paths_mut().iter_mut() {
            if path.cut_at.is_some_and(|cut_at| cut_at <= now) {
                path.cut_at = None;
                path.carrier.close(CloseReason::ShuttingDown);
            }
        }
    }

    #[cfg(not(debug_assertions))]
    fn inject_cuts(&mut self, _now: Instant) {}
}

/// Closes all carriers at once.
pub(super) fn close(mut paths: Paths<CarrierPath>, reason: CloseReason) {
    paths.iter_mut().for_each(|path| path.carrier.close(reason));
}

/// Flushes the lead and closes all carriers. Returns whether the peer has everything; `None` if there is no lead.
pub(super) async fn finish(paths: Paths<CarrierPath>, reason: CloseReason) -> Option<bool> {
    let (lead, mut others) = paths.into_parts();
    others.iter_mut().for_each(|path| path.carrier.close(reason));
    match lead {
        Some(lead) => Some(lead.carrier.finish(reason).await),
        None => None,
    }
}
