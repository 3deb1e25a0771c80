//! Sends copies of interactive bytes beside the lead's ordered stream.

use super::Pump;
use super::carriers::Carriers;
use crate::session::{MOST_COPIED, Mirror, Session};
use bytes::BytesMut;
use std::time::Instant;

pub(super) struct Copies {
    /// On the lead, against loss.
    again: Mirror,
    /// On those that stand by, against the lead's end.
    beside: Mirror,
}

impl Copies {
    pub(super) fn new(now: Instant) -> Copies {
        Copies {
            again: Mirror::new(now),
            beside: Mirror::new(now),
        }
    }

    /// Something was handed to the lead.
    pub(super) fn handle_sent(&mut self, session: &Session, carriers: &mut Carriers, now: Instant) {
        let sent = session.lead_position();
        let interactive = session.is_copyable(MOST_COPIED);
        let (again, beside) = match interactive {
            true => (carriers.lead_copies(now), carriers.is_any_standing().into()),
            false => (0, 0),
        };
        self.again.handle_sent(sent, again, true, now);
        self.beside.handle_sent(sent, beside, false, now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = [self.again.poll_timeout(), self.beside.poll_timeout()];
        due.into_iter().flatten().min()
    }

    fn send(&mut self, session: &Session, carriers: &mut Carriers, now: Instant) {
        let (again, beside) = (self.again.is_due(now), self.beside.is_due(now));
        if !again && !beside {
            return;
        }
        let mut copy = BytesMut::new();
        if !session.copy(MOST_COPIED, &mut copy) {
            self.again.call_off();
            self.beside.call_off();
            return;
        }
        let copy = copy.freeze();
        if again {
            if let Some(lead) = carriers.lead() {
                lead.send_copy(copy.clone());
            }
            self.again.handle_copied(copy.len(), now);
        }
        if beside {
            carriers.copy_to_standing(&copy);
            self.beside.handle_copied(copy.len(), now);
        }
    }
}

impl<R, W> Pump<R, W> {
    pub(super) fn send_copies(&mut self, now: Instant) {
        self.copies.send(&self.session, &mut self.carriers, now);
    }
}
