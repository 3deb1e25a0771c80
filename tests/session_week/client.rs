//! The client half: its connection, and its dials as `client/redial.rs` makes them.

use crate::line::Line;
use crate::line_path::{LinePath, index_of};
use crate::network::CLIENT;
use crate::race::Race;
use crate::sim::SessionSim;
use bowline::connection::{self, DialRequest, Event, PathIndex};
use bowline::wire::{Answer, Epoch, Frame, Hello, Offset, RefusalCode, Resume, SessionId, next_message};
use bytes::{Bytes, BytesMut};
use std::rc::Rc;
use std::time::Duration;

pub(crate) const SESSION: SessionId = SessionId::new([7; 16]);

pub(crate) struct Client {
    /// What the connection wanted last.
    request: DialRequest,
    pub(crate) race: Option<Race>,
    pub(crate) attached: Duration,
    pub(crate) woken: Duration,
    seed: u64,
}

impl Client {
    pub(crate) fn new(seed: u64) -> Client {
        Client {
            request: DialRequest::None,
            race: None,
            attached: Duration::ZERO,
            woken: Duration::ZERO,
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }
}

impl SessionSim<'_> {
    pub(crate) fn client_lead(&self) -> Option<usize> {
        self.ends[CLIENT].connection.paths().lead().map(|lead| lead.id)
    }

    pub(crate) fn client_timeout(&self) -> Option<Duration> {
        let lead = self.client_lead().and_then(|lead| self.lines.get(&lead));
        let race = self.client.race.as_ref().map(|race| {
            let (due, done) = race.next(self.instant());
            done.into_iter().fold(self.since_beginning(due), Duration::min)
        });
        let told = lead.and_then(|lead| lead.told);
        race.into_iter().chain(told).min()
    }

    /// Makes this carrier the lead.
    pub(crate) fn lead(&mut self, id: usize, epoch: Epoch, received: Offset, window: u64) {
        let now = self.instant();
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.greeted[CLIENT] = true;
        let path = LinePath::new(id, Rc::clone(&line.state));
        let accepted = connection::Accepted {
            epoch,
            received,
            window,
        };
        let handled = self.ends[CLIENT]
            .connection
            .handle_path(path, accepted, Bytes::new(), now);
        handled.expect("an honest peer");
        self.settle(CLIENT);
        self.prune();
    }

    pub(crate) fn client_hears(&mut self, id: usize, message: Bytes) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.state.reads.set(line.state.reads.get() + 1);
        let mut inbox = BytesMut::from(&message[..]);
        if !line.greeted[CLIENT] {
            let epoch = line.epoch;
            line.greeted[CLIENT] = true;
            let message = next_message(&mut inbox)
                .expect("of an honest peer")
                .expect("a whole one");
            return self.handle_answer(id, epoch, &Answer::decode(message).expect("an answer"));
        }
        while let Some(frame) = Frame::decode(&mut inbox).expect("frames of an honest peer") {
            let now = self.instant();
            if let Some(line) = self.lines.get(&id).filter(|_| matches!(frame, Frame::Pong { .. })) {
                line.state.rtt.set(Some(self.net.rtt()));
            }
            let end = &mut self.ends[CLIENT];
            // A carrier that the client half has closed.
            let Some(from) = index_of(end.connection.paths_mut(), id) else {
                return;
            };
            let handled = end.connection.handle_frame(from, frame, false, now);
            handled.expect("an honest peer");
            end.take(now);
            self.settle(CLIENT);
        }
    }

    /// What a connection has decided is done.
    pub(crate) fn settle(&mut self, me: usize) {
        let mut urgent = Vec::new();
        let mut ordered = Vec::new();
        for path in self.ends[me].connection.paths_mut().iter_mut() {
            urgent.extend(path.urgent.drain(..).map(|frame| (path.id, frame)));
            if !path.outbox.is_empty() {
                ordered.push((path.id, path.outbox.split().freeze()));
            }
        }
        for (id, frame) in urgent {
            let mut encoded = BytesMut::new();
            frame.encode(&mut encoded);
            self.send(id, me, encoded.freeze());
            if me == CLIENT && matches!(frame, Frame::Ping { .. }) {
                self.stats.handle_probe(self.now, self.net);
            }
        }
        ordered.into_iter().for_each(|(id, bytes)| self.send(id, me, bytes));
        while let Some(event) = self.ends[me].connection.poll_event() {
            if me == CLIENT {
                self.handle_event(event);
            }
        }
        if me == CLIENT {
            self.follow_request();
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::LeadChanged { .. } => {
                self.client.attached = self.now;
                self.stats.carriers += 1;
            }
            Event::Suspected { .. } => {
                if let Some(lead) = self.client_lead() {
                    self.check_suspicion(lead);
                }
            }
            Event::LeadLost | Event::FellBack { .. } | Event::FalseAlarm | Event::StaleEpoch { .. } => {}
        }
    }

    pub(crate) fn wake(&mut self) {
        let now = self.instant();
        self.client.woken = self.now;
        self.ends[CLIENT].connection.handle_network_change(now);
        self.settle(CLIENT);
    }

    /// Monitors the lead.
    pub(crate) fn watch(&mut self) {
        self.notice_loss();
        let now = self.instant();
        let handled = self.ends[CLIENT].connection.handle_timeout(now);
        handled.expect("an honest peer");
        self.settle(CLIENT);
        self.stats
            .handle_keepalive_interval(self.ends[CLIENT].connection.max_keepalive_interval());
    }

    fn notice_loss(&mut self) {
        let Some(id) = self.client_lead() else { return };
        let Some(line) = self.lines.get_mut(&id) else { return };
        if line.told.is_some_and(|told| told <= self.now) {
            line.clear();
            let now = self.instant();
            let closed = self.ends[CLIENT]
                .connection
                .handle_path_closed(PathIndex::Lead, false, now);
            closed.expect("an honest peer");
            self.settle(CLIENT);
            self.prune();
        } else if line.is_forgotten && !self.stats.is_forgotten(id) {
            self.handle_forgotten(id);
        }
    }

    // Dials.

    /// What the connection wants of the dialer, as it is published to `client/redial.rs`.
    fn follow_request(&mut self) {
        let request = self.ends[CLIENT].connection.dial_request();
        if std::mem::replace(&mut self.client.request, request) == request {
            return;
        }
        let now = self.instant();
        if request != DialRequest::None {
            self.stats.disturb(self.now);
        }
        if let Some(race) = &mut self.client.race {
            race.handle_request(request, now, self.now);
            return self.end_race();
        }
        if request != DialRequest::None {
            self.client.seed = self.client.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            self.client.race = Some(Race::new(now, self.now, request, self.client.seed));
        }
    }

    fn end_race(&mut self) {
        let now = self.instant();
        if let Some(race) = self.client.race.take_if(|race| race.is_over(now)) {
            self.stats.handle_race(&race, self.now);
            self.prune();
        }
    }

    pub(crate) fn dial(&mut self) {
        self.end_race();
        let now = self.instant();
        if let Some(race) = &mut self.client.race {
            while race.poll_attempt(now) {
                race.dial(self.net, self.now);
                self.stats.disturb(self.now);
            }
        }
        while self
            .client
            .race
            .as_mut()
            .is_some_and(|race| race.poll_resume(now, self.now))
        {
            self.resume();
        }
    }

    fn resume(&mut self) {
        let epoch = self.ends[CLIENT].epochs.next();
        let session = self.ends[CLIENT].session();
        let resume = Hello::Resume(Resume {
            session: SESSION,
            epoch,
            received: session.received(),
            window: session.window(),
        });
        let id = self.add(Line::new(self.net, epoch, self.now));
        self.send(id, CLIENT, resume.encode());
        let (rtt, now) = (self.net.rtt(), self.instant());
        if let Some(race) = &mut self.client.race {
            race.handle_resume_sent(epoch, rtt, now);
        }
    }

    fn handle_answer(&mut self, id: usize, epoch: Epoch, answer: &Answer) {
        let now = self.instant();
        if let Some(race) = &mut self.client.race {
            race.handle_answered(epoch, answer, now);
        }
        match answer {
            Answer::Accepted(accepted) => self.lead(id, epoch, accepted.received, accepted.window),
            Answer::Refused(refusal) => {
                assert_eq!(refusal.code, RefusalCode::Stale, "the session was lost");
                self.end_race();
            }
            other => panic!("nobody asked for that: {other:?}"),
        }
    }
}
