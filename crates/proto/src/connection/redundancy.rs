//! Sends redundant copies of interactive bytes as datagrams, beside the lead's ordered stream.

use super::path::PathTransport;
use super::paths::Paths;
use crate::session::{CopySchedule, MAX_COPY, Session};
use bytes::BytesMut;
use std::time::Instant;

pub(super) struct Redundancy {
    /// On the lead, against loss.
    on_lead: CopySchedule,
    /// On standby carriers, in case the lead is dead.
    on_standbys: CopySchedule,
}

impl Redundancy {
    pub(super) fn new(now: Instant) -> Redundancy {
        Redundancy {
            on_lead: CopySchedule::new(now),
            on_standbys: CopySchedule::new(now),
        }
    }

    /// Something was sent on the lead.
    pub(super) fn handle_sent<T: PathTransport>(&mut self, session: &Session, paths: &mut Paths<T>, now: Instant) {
        let sent = session.lead_position();
        let interactive = session.is_copyable(MAX_COPY);
        let (on_lead, on_standbys) = match interactive {
            true => (paths.lead_copies(now), paths.has_any_standby().into()),
            false => (0, 0),
        };
        self.on_lead.handle_sent(sent, on_lead, true, now);
        self.on_standbys.handle_sent(sent, on_standbys, false, now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = [self.on_lead.poll_timeout(), self.on_standbys.poll_timeout()];
        due.into_iter().flatten().min()
    }

    /// Sends the copies that are due.
    pub(super) fn handle_timeout<T: PathTransport>(&mut self, session: &Session, paths: &mut Paths<T>, now: Instant) {
        let (on_lead, on_standbys) = (self.on_lead.is_due(now), self.on_standbys.is_due(now));
        if !on_lead && !on_standbys {
            return;
        }
        let mut copy = BytesMut::new();
        if !session.copy(MAX_COPY, &mut copy) {
            self.on_lead.cancel();
            self.on_standbys.cancel();
            return;
        }
        let copy = copy.freeze();
        if on_lead {
            if let Some(lead) = paths.lead_mut() {
                lead.send_copy(copy.clone());
            }
            self.on_lead.handle_copied(copy.len(), now);
        }
        if on_standbys {
            paths.copy_to_standbys(&copy);
            self.on_standbys.handle_copied(copy.len(), now);
        }
    }
}
