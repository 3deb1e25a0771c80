//! The server half: its connection, and what its registry answers.

use crate::end::TTL;
use crate::line_path::{LinePath, index_of};
use crate::network::{IDLE, SERVER};
use crate::sim::SessionSim;
use bowline::connection;
use bowline::wire::{Accepted, Answer, Epoch, Frame, Hello, Offset, Refusal, RefusalCode, next_message};
use bytes::{Bytes, BytesMut};
use std::rc::Rc;
use std::time::Duration;

impl SessionSim<'_> {
    fn server_lines(&self) -> Vec<usize> {
        let paths = self.ends[SERVER].connection.paths();
        paths.others().chain(paths.lead()).map(|path| path.id).collect()
    }

    /// When a carrier that is over is let go of.
    pub(crate) fn server_timeout(&self) -> Option<Duration> {
        let lines = self.server_lines();
        let dooms = lines.iter().filter_map(|id| Some(self.lines.get(id)?.doom + IDLE));
        dooms.min()
    }

    pub(crate) fn server_hears(&mut self, id: usize, message: Bytes) {
        let mut inbox = BytesMut::from(&message[..]);
        let line = self.lines.get_mut(&id).expect("a message came on it");
        if !std::mem::replace(&mut line.greeted[SERVER], true) {
            return self.greet(id, &mut inbox);
        }
        while let Some(frame) = Frame::decode(&mut inbox).expect("frames of an honest peer") {
            let now = self.instant();
            let end = &mut self.ends[SERVER];
            // A carrier that the server half has closed.
            let Some(from) = index_of(end.connection.paths_mut(), id) else {
                return;
            };
            let handled = end.connection.handle_frame(from, frame, false, now);
            handled.expect("an honest peer");
            // The echo.
            let taken = end.take(now);
            end.give(taken);
            self.settle(SERVER);
        }
    }

    fn greet(&mut self, id: usize, inbox: &mut BytesMut) {
        let message = next_message(inbox).expect("of an honest peer").expect("a whole one");
        let Ok(Hello::Resume(resume)) = Hello::decode(message) else {
            panic!("no resume");
        };
        if !self.ends[SERVER].epochs.take(resume.epoch) {
            let refusal = Refusal {
                code: RefusalCode::Stale,
                message: "".into(),
            };
            return self.send(id, SERVER, Answer::Refused(refusal).encode());
        }
        let session = self.ends[SERVER].session();
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
        let now = self.instant();
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.greeted[SERVER] = true;
        let path = LinePath::new(id, Rc::clone(&line.state));
        let accepted = connection::Accepted {
            epoch,
            received,
            window,
        };
        let handled = self.ends[SERVER]
            .connection
            .handle_path(path, accepted, Bytes::new(), now);
        handled.expect("an honest peer");
        self.settle(SERVER);
    }

    /// Drops ended carriers; an older one becomes the lead again, if there is one.
    pub(crate) fn keep_leads(&mut self) {
        let now = self.instant();
        // The lead comes last.
        for id in self.server_lines() {
            let is_over = self.lines.get(&id).is_none_or(|line| self.now >= line.doom + IDLE);
            let connection = &mut self.ends[SERVER].connection;
            if let Some(index) = index_of(connection.paths_mut(), id).filter(|_| is_over) {
                let closed = connection.handle_path_closed(index, false, now);
                closed.expect("an honest peer");
                self.settle(SERVER);
                self.prune();
            }
        }
        let connection = &self.ends[SERVER].connection;
        assert!(!connection.is_expired(now), "the session was lost");
        let alone = connection.detached_since().map_or(Duration::ZERO, |since| now - since);
        self.stats.longest_alone = self.stats.longest_alone.max(alone);
    }

    /// A new worker continues from the state of the dead one.
    pub(crate) fn restart(&mut self) {
        self.stats.restarts += 1;
        let now = self.instant();
        self.ends[SERVER].restart(now);
        self.prune();
    }
}
