//! Which carrier the stream flows on: the one that arrived last, until it dies.

use super::{Moved, Outcome, Pump, Vigil};
use crate::carrier::CloseReason;
use std::task::{Context, Poll};
use std::time::Instant;
use tracing::{debug, info};

impl<R, W> Pump<R, W> {
    pub(super) fn take_arrivals(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        let Poll::Ready(Some(arrival)) = self.arrivals.poll_recv(cx) else {
            return Ok(false);
        };
        self.carriers.note_reached(self.session.lead_position());
        let attached = self
            .session
            .attach(arrival.epoch, arrival.peer_received, arrival.peer_window);
        let replayed = attached.map_err(Outcome::Desync)?;
        arrival.carrier.trust();
        let info = arrival.carrier.info();
        match replayed {
            Some(replayed_bytes) => {
                let silent_since = self.vigil.as_ref().and_then(Vigil::suspected_since);
                if let Some(outage) = self.facts.handle_attached(info, now, silent_since) {
                    info!(event = "resumed", replayed_bytes, outage_ms = outage.as_millis(), epoch = %arrival.epoch,
                        carrier = %info.kind, remote = %info.remote, "session resumed");
                }
                if let Some(vigil) = &mut self.vigil {
                    vigil.handle_attached(now);
                }
            }
            None => {
                debug!(epoch = %arrival.epoch, "carrier arrived after a later one");
                arrival.carrier.close(CloseReason::Replaced);
                return Ok(true);
            }
        }
        self.carriers.add(arrival, now);
        Ok(true)
    }

    pub(super) fn handle_lead_lost(&mut self, now: Instant) -> Result<(), Outcome> {
        self.session.detach();
        if self.fall_back(now)? {
            return Ok(());
        }
        self.facts.handle_detached(now);
        self.alone_since = now;
        if let Some(vigil) = &mut self.vigil {
            vigil.handle_lost(now, self.session.is_outstanding());
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
        self.session.fall_back(epoch, reached).map_err(Outcome::Desync)?;
        if let Some(lead) = self.carriers.lead() {
            self.facts.handle_attached(lead.info(), now, None);
        }
        debug!(%epoch, "an older carrier leads again");
        Ok(true)
    }
}
