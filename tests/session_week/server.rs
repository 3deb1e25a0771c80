//! The server half, driven as by its registry and its pump.

use crate::network::{IDLE, SERVER};
use crate::sim::SessionSim;
use bowline::wire::{Accepted, Answer, Epoch, Frame, Hello, Offset, Refusal, RefusalCode, next_message};
use bytes::{Bytes, BytesMut};
use std::time::Duration;

/// How long a detached session is kept (`RegistryLimits`).
const TTL: Duration = Duration::from_secs(7 * 86_400);

#[derive(Default)]
pub(crate) struct Server {
    /// The carriers and their progress; the last one is the lead.
    leads: Vec<(usize, Offset)>,
    taken: Epoch,
    /// Since when there is no lead.
    alone: Option<Duration>,
}

impl Server {
    pub(crate) fn lead(&self) -> Option<usize> {
        self.leads.last().map(|(id, _)| *id)
    }

    pub(crate) fn has(&self, id: usize) -> bool {
        self.leads.iter().any(|(lead, _)| *lead == id)
    }
}

impl SessionSim<'_> {
    /// When ended carriers are dropped.
    pub(crate) fn server_timeout(&self) -> Option<Duration> {
        let lines = self.server.leads.iter().filter_map(|(id, _)| self.lines.get(id));
        lines.map(|line| line.doom + IDLE).min()
    }

    pub(crate) fn server_hears(&mut self, id: usize, message: Bytes) {
        let mut inbox = BytesMut::from(&message[..]);
        let line = self.lines.get_mut(&id).expect("a message came on it");
        if !std::mem::replace(&mut line.greeted[SERVER], true) {
            return self.greet(id, &mut inbox);
        }
        while let Some(frame) = Frame::decode(&mut inbox).expect("frames of an honest peer") {
            if let Frame::Ping { token } = frame {
                let mut pong = BytesMut::new();
                Frame::Pong { token }.encode(&mut pong);
                self.send(id, SERVER, pong.freeze());
                continue;
            }
            self.drop_older(id);
            let now = self.instant();
            self.ends[SERVER].session.handle_frame(frame).expect("an honest peer");
            // The echo.
            let taken = self.ends[SERVER].take(now);
            self.ends[SERVER].give(taken);
        }
    }

    /// A frame on the lead shows that the client uses it.
    fn drop_older(&mut self, id: usize) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        if self.server.lead() == Some(id) && !std::mem::replace(&mut line.delivered, true) {
            self.server.leads.retain(|(lead, _)| *lead == id);
        }
    }

    fn greet(&mut self, id: usize, inbox: &mut BytesMut) {
        let message = next_message(inbox).expect("of an honest peer").expect("a whole one");
        let Ok(Hello::Resume(resume)) = Hello::decode(message) else {
            panic!("no resume");
        };
        if resume.epoch <= self.server.taken {
            let refusal = Refusal {
                code: RefusalCode::Stale,
                message: "".into(),
            };
            return self.send(id, SERVER, Answer::Refused(refusal).encode());
        }
        let session = &self.ends[SERVER].session;
        let accepted = Accepted {
            key: None,
            received: session.received(),
            window: session.window(),
            ttl: TTL.as_secs(),
        };
        self.send(id, SERVER, Answer::Accepted(accepted).encode());
        self.follow(id, resume.epoch, resume.received, resume.window);
    }

    /// Makes this carrier the lead.
    pub(crate) fn follow(&mut self, id: usize, epoch: Epoch, received: Offset, window: u64) {
        self.server.taken = epoch;
        let session = &mut self.ends[SERVER].session;
        let reached = session.lead_position();
        let attached = session.attach(epoch, received, window);
        attached.expect("an honest peer").expect("the latest");
        if let Some((_, last)) = self.server.leads.last_mut() {
            *last = reached;
        }
        self.server.leads.push((id, received));
        self.server.alone = None;
        if let Some(line) = self.lines.get_mut(&id) {
            line.greeted[SERVER] = true;
        }
    }

    /// Drops ended carriers; an older one becomes the lead again, if there is one.
    pub(crate) fn keep_leads(&mut self) {
        let before = self.server.lead();
        let lines = &self.lines;
        let is_over = |id: &usize| lines.get(id).is_none_or(|line| self.now >= line.doom + IDLE);
        self.server.leads.retain(|(id, _)| !is_over(id));
        let session = &mut self.ends[SERVER].session;
        if before.is_some() && before != self.server.lead() {
            session.detach();
            match self.server.leads.last() {
                Some((_, reached)) => session.fall_back(*reached).expect("an honest peer"),
                None => self.server.alone = Some(self.now),
            }
            self.prune();
        }
        let alone = self.server.alone.map_or(Duration::ZERO, |since| self.now - since);
        assert!(alone < TTL, "the session was lost");
        self.stats.longest_alone = self.stats.longest_alone.max(alone);
    }

    /// A new worker continues from the state of the dead one.
    pub(crate) fn restart(&mut self) {
        self.stats.restarts += 1;
        self.server.taken = self.ends[SERVER].restart().epoch;
        self.server.leads.clear();
        self.server.alone.get_or_insert(self.now);
        self.prune();
    }
}
