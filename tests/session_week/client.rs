//! The client half: its connection, and its dials as `client/redial.rs` makes them.

use crate::line::Line;
use crate::line_path::{LinePath, index_of};
use crate::network::CLIENT;
use crate::race::Race;
use crate::sim::SessionSim;
use bowline::connection::{Accepted, DialProgress, DialRequest, Event, PathIndex, Redial, RedialAction, Resumed};
use bowline::wire::{Answer, Epoch, Frame, Hello, RefusalCode, Resume, SessionId, next_message};
use bytes::{Bytes, BytesMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

pub(crate) const SESSION: SessionId = SessionId::new([7; 16]);

pub(crate) struct Client {
    /// What the connection wanted last.
    request: DialRequest,
    pub(crate) race: Option<Race>,
    pub(crate) attached: Duration,
    pub(crate) woken: Duration,
    redial: Redial,
}

/// Of the path through the relay, and of those that never answer.
const RANKS: [u8; 2] = [0, 0];

impl Client {
    pub(crate) fn new(seed: u64, now: Instant) -> Client {
        Client {
            request: DialRequest::None,
            race: None,
            attached: Duration::ZERO,
            woken: Duration::ZERO,
            redial: Redial::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), now),
        }
    }

    fn progress(&self) -> DialProgress {
        let race = self.race.as_ref();
        DialProgress {
            ready: race.is_some_and(Race::is_ready),
            running: race.is_some_and(Race::is_running),
        }
    }

    fn poll(&mut self, now: Duration, instant: Instant) -> Option<RedialAction> {
        if let Some(race) = &mut self.race {
            race.collect(now);
        }
        let progress = self.progress();
        self.redial.poll(&RANKS, progress, instant)
    }
}

impl SessionSim<'_> {
    pub(crate) fn client_lead(&self) -> Option<usize> {
        self.ends[CLIENT].connection.paths().lead().map(|lead| lead.id)
    }

    pub(crate) fn client_timeout(&self) -> Option<Duration> {
        let lead = self.client_lead().and_then(|lead| self.lines.get(&lead));
        let client = &self.client;
        let due = client.redial.poll_timeout(&RANKS, client.progress(), self.instant());
        let done = client.race.as_ref().and_then(Race::next);
        let told = lead.and_then(|lead| lead.told);
        due.map(|due| self.since_beginning(due))
            .into_iter()
            .chain(done)
            .chain(told)
            .min()
    }

    /// Makes this carrier the lead.
    pub(crate) fn lead(&mut self, id: usize, accepted: Accepted) {
        let now = self.instant();
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.greeted[CLIENT] = true;
        let path = LinePath::new(id, Rc::clone(&line.state));
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
            return self.handle_answer(id, epoch, Answer::decode(message).expect("an answer"));
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
        self.client.redial.handle_paths(Some(RANKS[0]), request, now);
        if let Some(race) = &mut self.client.race {
            race.handle_request(request, self.now);
        }
        if self.is_awake() {
            self.dial();
        }
    }

    /// Does what the shipped code decides about dials.
    pub(crate) fn dial(&mut self) {
        let now = self.instant();
        while let Some(action) = self.client.poll(self.now, now) {
            match (action, &mut self.client.race) {
                (RedialAction::Begin { .. }, _) => {
                    self.client.race = Some(Race::new(self.now, self.client.request));
                }
                (RedialAction::Dial { .. }, Some(race)) => {
                    race.dial(self.net, self.now);
                    self.stats.disturb(self.now);
                }
                (RedialAction::Resume, Some(race)) => {
                    race.take_ready();
                    self.resume();
                }
                (RedialAction::End { .. }, Some(race)) => {
                    self.stats.handle_race(race, self.now);
                    self.client.race = None;
                    self.prune();
                }
                (action, None) => panic!("{action:?} without a race"),
            }
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
        self.client.redial.handle_resume_sent(epoch, rtt, now);
    }

    fn handle_answer(&mut self, id: usize, epoch: Epoch, answer: Answer) {
        let now = self.instant();
        if let Answer::Refused(refusal) = &answer {
            assert_eq!(refusal.code, RefusalCode::Stale, "the session was lost");
        }
        let redial = &mut self.client.redial;
        if let Resumed::Lead(accepted) = redial.handle_answered(epoch, RANKS[0], Some(answer), now) {
            self.lead(id, accepted);
        }
        self.dial();
    }
}
