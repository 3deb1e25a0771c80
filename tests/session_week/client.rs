//! The client half, as `pump/vigil.rs` and `client/redial.rs` drive it.

use crate::line::Line;
use crate::network::CLIENT;
use crate::race::Race;
use crate::sim::SessionSim;
use bowline::session::{Liveness, Verdict};
use bowline::wire::{Answer, Epoch, Frame, Hello, Offset, RefusalCode, Resume, SessionId, next_message};
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};

/// When the pump considers output to be flowing.
const FLOWING: Duration = Duration::from_secs(5);
/// The RTT that it assumes for an unmeasured path.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);
pub(crate) const SESSION: SessionId = SessionId::new([7; 16]);

pub(crate) struct Client {
    pub(crate) lead: Option<usize>,
    pub(crate) liveness: Liveness,
    /// The bytes read from the lead when an answer became due.
    heard: u64,
    pings: u64,
    waiting_input: usize,
    /// How long the session had been idle when it began to wait for an answer.
    pub(crate) rested: Duration,
    epoch: Epoch,
    pub(crate) race: Option<Race>,
    pub(crate) attached: Duration,
    pub(crate) woken: Duration,
    seed: u64,
}

impl Client {
    pub(crate) fn new(now: Instant, seed: u64) -> Client {
        Client {
            lead: None,
            liveness: Liveness::new(now),
            heard: 0,
            pings: 0,
            waiting_input: 0,
            rested: Duration::ZERO,
            epoch: Epoch::new(1),
            race: None,
            attached: Duration::ZERO,
            woken: Duration::ZERO,
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }
}

impl SessionSim<'_> {
    pub(crate) fn client_timeout(&self) -> Option<Duration> {
        let lead = self.client.lead.and_then(|lead| self.lines.get(&lead));
        let watch = lead.map(|lead| {
            let timeout = self.client.liveness.poll_timeout(self.instant(), self.rtt_of(lead));
            self.since_beginning(timeout)
        });
        let race = self.client.race.as_ref().map(|race| {
            let pacer = self.since_beginning(race.pacer.poll_timeout());
            race.next(pacer)
        });
        let told = lead.and_then(|lead| lead.told);
        watch.into_iter().chain(race).chain(told).min()
    }

    fn rtt_of(&self, line: &Line) -> Duration {
        if line.is_measured { self.net.rtt() } else { UNKNOWN_RTT }
    }

    /// Makes this carrier the lead.
    pub(crate) fn lead(&mut self, id: usize, epoch: Epoch, received: Offset, window: u64) {
        let attached = self.ends[CLIENT].session.attach(epoch, received, window);
        if attached.expect("an honest peer").is_none() {
            return;
        }
        self.client.lead = Some(id);
        self.client.liveness.handle_attached(self.instant());
        self.client.heard = 0;
        self.client.attached = self.now;
        if let Some(line) = self.lines.get_mut(&id) {
            line.greeted[CLIENT] = true;
        }
        self.stats.carriers += 1;
        self.call_off();
        self.prune();
    }

    pub(crate) fn client_hears(&mut self, id: usize, message: Bytes) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.reads += 1;
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
            if self.client.lead == Some(id) {
                self.judge(id, &frame);
            }
            if !matches!(frame, Frame::Pong { .. }) {
                let now = self.instant();
                self.ends[CLIENT].session.handle_frame(frame).expect("an honest peer");
                self.ends[CLIENT].take(now);
            }
        }
    }

    fn rests(&self) -> Duration {
        self.now - self.since_beginning(self.client.liveness.active())
    }

    fn judge(&mut self, id: usize, frame: &Frame) {
        let now = self.instant();
        let liveness = &mut self.client.liveness;
        match frame {
            Frame::Data { .. } | Frame::Fin { .. } => liveness.handle_output(now),
            Frame::Pong { .. } => {
                liveness.handle_answer(now);
                if let Some(line) = self.lines.get_mut(&id) {
                    line.is_measured = true;
                }
            }
            _ => liveness.handle_heard(now),
        }
        self.client.rested = self.rests();
        self.call_off_if_well();
    }

    pub(crate) fn handle_sent(&mut self, lead: usize) {
        let outstanding = self.ends[CLIENT].session.is_outstanding();
        let rested = self.rests();
        if self.client.liveness.handle_input(self.instant(), outstanding) {
            self.client.rested = rested;
            self.client.heard = self.lines.get(&lead).map_or(0, |line| line.reads);
        }
    }

    pub(crate) fn wake(&mut self) {
        let now = self.instant();
        self.client.woken = self.now;
        self.client.liveness.handle_sign(now);
        if let Some(race) = self.client.race.as_mut().filter(|race| !race.called_off) {
            race.handle_sign(now, self.now);
        }
    }

    /// Monitors the lead.
    pub(crate) fn watch(&mut self) {
        self.notice_loss();
        if let Some(id) = self.client.lead {
            self.poll_liveness(id);
        }
        let waiting = self.ends[CLIENT].session.replay_len();
        let is_doubtful = self.client.lead.is_none() || self.client.liveness.is_suspect();
        if is_doubtful && waiting > self.client.waiting_input {
            self.want(true);
        }
        self.client.waiting_input = waiting;
    }

    fn notice_loss(&mut self) {
        let Some(id) = self.client.lead else { return };
        let Some(line) = self.lines.get_mut(&id) else { return };
        if line.told.is_some_and(|told| told <= self.now) {
            line.clear();
            self.client.lead = None;
            self.ends[CLIENT].session.detach();
            let outstanding = self.ends[CLIENT].session.is_outstanding();
            self.want(outstanding);
            self.prune();
        } else if line.is_forgotten && !self.stats.is_forgotten(id) {
            self.handle_forgotten(id);
        }
    }

    fn poll_liveness(&mut self, id: usize) {
        let now = self.instant();
        loop {
            let line = &self.lines[&id];
            let (rtt, reads) = (self.rtt_of(line), line.reads);
            if self.client.liveness.poll_timeout(now, rtt) > now {
                return;
            }
            if reads != self.client.heard {
                self.client.heard = reads;
                self.client.liveness.handle_heard(now);
                self.call_off_if_well();
            }
            match self.client.liveness.poll(now, rtt) {
                Verdict::Wait => return,
                Verdict::Probe => self.probe(id, reads),
                Verdict::Touch => unreachable!("these carriers hear frames and nothing else"),
                Verdict::Suspect => {
                    self.check_suspicion(id);
                    let outstanding = self.ends[CLIENT].session.is_outstanding();
                    self.want(outstanding);
                }
            }
        }
    }

    fn probe(&mut self, id: usize, reads: u64) {
        self.client.pings += 1;
        self.client.heard = reads;
        self.client.rested = self.client.rested.max(self.rests());
        let mut ping = BytesMut::new();
        Frame::Ping {
            token: self.client.pings,
        }
        .encode(&mut ping);
        self.send(id, CLIENT, ping.freeze());
        self.stats.handle_probe(self.now, self.net);
    }

    // Dials.

    fn want(&mut self, outstanding: bool) {
        let now = self.instant();
        self.stats.disturb(self.now);
        if let Some(race) = &mut self.client.race {
            race.called_off = false;
            return race.handle_sign(now, self.now);
        }
        let flowed = now.saturating_duration_since(self.client.liveness.active()) < FLOWING;
        self.client.seed = self.client.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.client.race = Some(Race::new(now, self.now, outstanding || flowed, self.client.seed));
    }

    /// The lead delivers again.
    fn call_off_if_well(&mut self) {
        if self.client.lead.is_some() && !self.client.liveness.is_suspect() {
            self.call_off();
        }
    }

    fn call_off(&mut self) {
        if let Some(race) = &mut self.client.race {
            race.called_off = true;
            self.end_race();
        }
    }

    fn end_race(&mut self) {
        if let Some(race) = self.client.race.take_if(|race| race.is_over()) {
            self.stats.handle_race(&race, self.now);
            self.prune();
        }
    }

    pub(crate) fn dial(&mut self) {
        let now = self.instant();
        if let Some(race) = &mut self.client.race {
            while race.pacer.poll_attempt(now) {
                race.dial(self.net, self.now);
                self.stats.disturb(self.now);
            }
        }
        while self.client.race.as_mut().is_some_and(|race| race.poll_resume(self.now)) {
            self.resume();
        }
    }

    fn resume(&mut self) {
        self.client.epoch = self.client.epoch.next();
        let epoch = self.client.epoch;
        let session = &self.ends[CLIENT].session;
        let resume = Hello::Resume(Resume {
            session: SESSION,
            epoch,
            received: session.received(),
            window: session.window(),
        });
        let id = self.add(Line::new(self.net, epoch, self.now));
        self.send(id, CLIENT, resume.encode());
        let rtt = self.net.rtt();
        if let Some(race) = &mut self.client.race {
            race.handle_resume_sent(epoch, rtt, self.now);
        }
    }

    fn handle_answer(&mut self, id: usize, epoch: Epoch, answer: &Answer) {
        match answer {
            Answer::Accepted(accepted) => {
                if let Some(race) = &mut self.client.race {
                    race.handle_accepted(epoch, self.now);
                }
                self.lead(id, epoch, accepted.received, accepted.window);
            }
            Answer::Refused(refusal) => {
                assert_eq!(refusal.code, RefusalCode::Stale, "the session was lost");
                if let Some(race) = &mut self.client.race {
                    race.handle_refused(epoch);
                }
                self.end_race();
            }
            other => panic!("nobody asked for that: {other:?}"),
        }
    }
}
