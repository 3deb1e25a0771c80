//! One session's life: both cores, what watches the path and what paces the dials, in virtual time.

use crate::chance::Chance;
use crate::stream::End;
use crate::weather::{CALM, Kind, Outage, RTT, Weather};
use bowline::session::{Liveness, RedialPacer, Verdict};
use bowline::wire::{Epoch, Frame};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Handshake and resume.
const DIAL: Duration = Duration::from_millis(3 * RTT.as_millis() as u64);
/// What the pump takes for output that flows.
const FLOWING: Duration = Duration::from_secs(2);
const FILL: usize = 64 * 1024;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// A day in the life of a user.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// Seconds between two keys, at most.
    pub(crate) keys: usize,
    /// Seconds between two lines of output, at most.
    pub(crate) output: usize,
}

/// What was seen of it.
#[derive(Default, Debug)]
pub(crate) struct Seen {
    /// From the path's return to the first sign of life, the longest.
    pub(crate) longest_return: Duration,
    pub(crate) outages: usize,
    pub(crate) carriers: usize,
    pub(crate) attempts: usize,
    /// Keys pressed, and wakes from sleep, while dials went on.
    pub(crate) signs: usize,
    pub(crate) pings: usize,
    /// In an hour in which nothing else happened, the most.
    pub(crate) pings_of_quiet_hour: usize,
    pub(crate) bytes: u64,
}

/// The lead, while it is one.
struct Lead {
    born: Duration,
    /// By writer.
    ways: [VecDeque<(Duration, Bytes)>; 2],
    /// When the peer's transport acknowledges what the client sent.
    acks: VecDeque<Duration>,
    heard: u64,
}

/// An outage is over: by when the session has to be back.
struct Due {
    since: Duration,
    by: Duration,
    outage: Outage,
}

pub(crate) struct Life<'a> {
    weather: &'a Weather,
    chance: Chance,
    beginning: Instant,
    now: Duration,
    ends: [End; 2],
    epoch: Epoch,
    lead: Lead,
    liveness: Liveness,
    heard: u64,
    pings: u64,
    pacer: Option<Pacing>,
    /// When a dial that gets through is answered.
    dialled: Option<Duration>,
    next_key: Duration,
    next_output: Duration,
    due: Option<Due>,
    quiet_since: (Duration, usize),
    seen: Seen,
}

struct Pacing {
    pacer: RedialPacer,
    since: Duration,
    waited_for: bool,
}

impl<'a> Life<'a> {
    /// Opens at `now`, while the path is open.
    pub(crate) fn new(weather: &'a Weather, seed: u64, beginning: Instant, now: Duration) -> Life<'a> {
        let mut life = Life {
            weather,
            chance: Chance::new(seed),
            beginning,
            now,
            ends: [End::new(seed, CLIENT), End::new(seed, SERVER)],
            epoch: Epoch::default(),
            lead: Lead::new(now),
            liveness: Liveness::new(beginning + now),
            heard: 0,
            pings: 0,
            pacer: None,
            dialled: None,
            next_key: now,
            next_output: now,
            due: None,
            quiet_since: (now, 0),
            seen: Seen::default(),
        };
        life.attach();
        life
    }

    /// Until `end`, before which there is calm.
    pub(crate) fn live(mut self, end: Duration, habits: Habits) -> Seen {
        while self.now < end {
            if self
                .weather
                .at(self.now)
                .is_some_and(|outage| outage.kind == Kind::Sleep)
            {
                self.sleep();
            }
            self.pass(end.saturating_sub(CALM), habits);
            let soonest = self.next().min(end).max(self.now + Duration::from_micros(1));
            self.now = self.cross(soonest);
        }
        let [client, server] = &self.ends;
        client.check_equal(server);
        server.check_equal(client);
        assert!(self.due.is_none(), "not back at the end");
        self.seen.bytes = client.written() + server.written();
        self.seen
    }

    fn at(&self) -> Instant {
        self.beginning + self.now
    }

    /// The next moment at which something happens.
    fn next(&self) -> Duration {
        let since = |instant: Instant| instant.saturating_duration_since(self.beginning);
        let mut next = since(self.liveness.poll_timeout(self.at(), RTT))
            .min(self.next_key)
            .min(self.next_output);
        let sessions = self.ends.iter().filter_map(|end| end.session.poll_timeout()).map(since);
        let arrivals = self.lead.ways.iter().filter_map(|way| way.front().map(|(at, _)| *at));
        let pacer = self.pacer.iter().map(|pacing| since(pacing.pacer.poll_timeout()));
        for other in sessions
            .chain(arrivals)
            .chain(pacer)
            .chain(self.dialled)
            .chain(self.lead.acks.front().copied())
        {
            next = next.min(other);
        }
        next
    }

    /// Goes to `to`, unless an outage ends or the client falls asleep before.
    fn cross(&mut self, to: Duration) -> Duration {
        let ending = self
            .weather
            .0
            .iter()
            .find(|outage| outage.until > self.now && outage.until <= to);
        let sleeping = self
            .weather
            .0
            .iter()
            .find(|outage| outage.kind == Kind::Sleep && outage.from > self.now);
        if let Some(sleep) =
            sleeping.filter(|sleep| sleep.from <= to && ending.is_none_or(|other| sleep.from < other.until))
        {
            return sleep.from;
        }
        let Some(outage) = ending.copied() else { return to };
        self.now = outage.until;
        self.expect_return(outage);
        outage.until
    }

    /// To the end of the sleep.
    fn sleep(&mut self) {
        let outage = *self.weather.at(self.now).expect("asleep");
        self.now = outage.until;
        // What the watch on clock and network says then.
        let now = self.at();
        self.liveness.handle_sign(now);
        if let Some(pacing) = &mut self.pacer {
            pacing.pacer.handle_sign(now);
            (pacing.since, pacing.waited_for) = (self.now, true);
            self.seen.signs += 1;
        }
        self.next_key = self.next_key.max(self.now);
        self.expect_return(outage);
    }

    /// By the cadence that is documented, and what the exchange takes.
    fn expect_return(&mut self, outage: Outage) {
        self.check_due();
        let most = |interval: u64| Duration::from_millis(interval * 11 / 10);
        let find = match &self.pacer {
            Some(pacing) => match (pacing.waited_for, (self.now - pacing.since).as_secs()) {
                (true, 0..300) => most(150),
                (true, 300..1800) | (false, 0..300) => most(1000),
                _ => most(15_000),
            },
            // The sign of having slept has it probed at once; else a keepalive finds out.
            None if outage.kind == Kind::Sleep => Duration::from_millis(300) + most(1000),
            None => Duration::from_secs(30) + Duration::from_secs(3) + most(1000),
        };
        self.seen.outages += 1;
        self.due = Some(Due {
            since: self.now,
            by: self.now + find + DIAL + RTT,
            outage,
        });
    }

    fn check_due(&mut self) {
        if let Some(due) = self.due.take() {
            // The next outage came too soon to tell.
            let cut_short = !self.weather.is_open(due.since, due.by - due.since);
            assert!(
                cut_short || self.now <= due.by,
                "{} s after {:?}: not back",
                (self.now - due.since).as_secs_f64(),
                due.outage
            );
            if !cut_short {
                self.due = Some(due);
            }
        }
    }

    /// Everything that is due now.
    fn pass(&mut self, calm: Duration, habits: Habits) {
        self.read();
        self.type_and_print(calm, habits);
        self.dial();
        self.transmit();
        self.watch();
        self.check_due();
    }

    fn read(&mut self) {
        for writer in [CLIENT, SERVER] {
            while self.lead.ways[writer].front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, bytes) = self.lead.ways[writer].pop_front().expect("there is one");
                let mut inbox = BytesMut::from(&bytes[..]);
                while let Some(frame) = Frame::decode(&mut inbox).expect("whole frames") {
                    self.hear(1 - writer, frame);
                }
            }
        }
        while self.lead.acks.front().is_some_and(|at| *at <= self.now) {
            self.lead.acks.pop_front();
            self.lead.heard += 1;
            self.is_back();
        }
    }

    fn hear(&mut self, me: usize, frame: Frame) {
        let now = self.at();
        if me == CLIENT {
            self.lead.heard += 1;
            match &frame {
                Frame::Data { .. } => self.liveness.handle_output(now),
                Frame::Pong { .. } => self.liveness.handle_answer(now),
                _ => self.liveness.handle_heard(now),
            }
            self.is_back();
        } else if let Frame::Ping { token } = frame {
            let mut answer = BytesMut::new();
            Frame::Pong { token }.encode(&mut answer);
            self.send(SERVER, answer);
        }
        if !matches!(frame, Frame::Ping { .. } | Frame::Pong { .. }) {
            self.ends[me].session.handle_frame(frame).expect("an honest peer");
            let taken = self.ends[me].take(now);
            if me == SERVER {
                // The echo.
                self.ends[SERVER].write(taken);
            }
        }
    }

    /// A sign of life.
    fn is_back(&mut self) {
        if let Some(due) = self.due.take() {
            self.seen.longest_return = self.seen.longest_return.max(self.now - due.since);
            self.quiet_since = (self.now, self.seen.pings);
        }
        if !self.liveness.is_suspect() {
            self.pacer = None;
        }
    }

    fn type_and_print(&mut self, calm: Duration, habits: Habits) {
        let mut pause = |most: usize| Duration::from_millis(1 + self.chance.below(most * 1000) as u64);
        let (keys, output) = (pause(habits.keys), pause(habits.output));
        if self.next_output <= self.now {
            self.next_output = if self.now < calm {
                self.now + output
            } else {
                Duration::MAX
            };
            self.ends[SERVER].write(80);
            self.quiet_since = (self.now, self.seen.pings);
        }
        if self.next_key <= self.now {
            self.next_key = if self.now < calm {
                self.now + keys
            } else {
                Duration::MAX
            };
            self.ends[CLIENT].write(1);
            self.quiet_since = (self.now, self.seen.pings);
            let now = self.at();
            if let Some(pacing) = &mut self.pacer {
                pacing.pacer.handle_sign(now);
                (pacing.since, pacing.waited_for) = (self.now, true);
                self.seen.signs += 1;
            }
        }
    }

    fn dial(&mut self) {
        let now = self.at();
        while let Some(pacing) = self.pacer.as_mut().filter(|pacing| pacing.pacer.poll_timeout() <= now) {
            if pacing.pacer.poll_attempt(now) {
                self.seen.attempts += 1;
                if self.dialled.is_none() && self.weather.is_open(self.now, DIAL) {
                    self.dialled = Some(self.now + DIAL);
                }
            }
        }
        if self.dialled.is_some_and(|at| at <= self.now) {
            self.dialled = None;
            self.attach();
            self.is_back();
        }
    }

    /// A fresh carrier leads: what was on the way on the other is lost.
    fn attach(&mut self) {
        self.seen.carriers += 1;
        self.epoch = self.epoch.next();
        self.lead = Lead::new(self.now);
        self.heard = 0;
        let facts = |end: &End| (end.session.received(), end.session.window());
        let of = [facts(&self.ends[CLIENT]), facts(&self.ends[SERVER])];
        for me in [CLIENT, SERVER] {
            let (received, window) = of[1 - me];
            let attached = self.ends[me].session.attach(self.epoch, received, window);
            attached.expect("an honest peer").expect("the latest");
        }
        self.liveness.handle_attached(self.at());
        self.pacer = None;
    }

    fn transmit(&mut self) {
        for me in [CLIENT, SERVER] {
            loop {
                let mut out = BytesMut::new();
                self.ends[me].session.transmit(&mut out, FILL, self.at());
                if out.is_empty() {
                    break;
                }
                if me == CLIENT
                    && self.ends[CLIENT].session.is_outstanding()
                    && self.liveness.handle_input(self.at(), true)
                {
                    self.heard = self.lead.heard;
                }
                self.send(me, out);
            }
            self.ends[me].check_memory();
        }
    }

    fn send(&mut self, me: usize, bytes: BytesMut) {
        let Some(mut arrives) = self.weather.arrival(self.lead.born, self.now, &mut self.chance) else {
            return;
        };
        if let Some((last, _)) = self.lead.ways[me].back() {
            arrives = arrives.max(*last);
        }
        self.lead.ways[me].push_back((arrives, bytes.freeze()));
        if me == CLIENT {
            let back = self.weather.arrival(self.lead.born, arrives, &mut self.chance);
            let last = self.lead.acks.back().copied().unwrap_or_default();
            self.lead.acks.extend(back.map(|back| back.max(last)));
        }
    }

    fn watch(&mut self) {
        let now = self.at();
        while self.liveness.poll_timeout(now, RTT) <= now {
            if self.lead.heard != self.heard {
                self.heard = self.lead.heard;
                self.liveness.handle_heard(now);
            }
            match self.liveness.poll(now, RTT) {
                Verdict::Wait => {}
                Verdict::Probe => self.probe(),
                Verdict::Suspect => {
                    let flowed = now.saturating_duration_since(self.liveness.active()) < FLOWING;
                    let waited_for = flowed || self.ends[CLIENT].session.is_outstanding();
                    self.pacer.get_or_insert_with(|| Pacing {
                        pacer: RedialPacer::new(now, waited_for, self.pings + 1),
                        since: self.now,
                        waited_for,
                    });
                }
            }
        }
    }

    fn probe(&mut self) {
        self.pings += 1;
        self.seen.pings += 1;
        self.heard = self.lead.heard;
        let mut ping = BytesMut::new();
        Frame::Ping { token: self.pings }.encode(&mut ping);
        self.send(CLIENT, ping);
        let (since, pings) = self.quiet_since;
        if self.pacer.is_some() {
            self.quiet_since = (self.now, self.seen.pings);
        } else if self.now - since >= Duration::from_secs(3600) {
            self.seen.pings_of_quiet_hour = self.seen.pings_of_quiet_hour.max(self.seen.pings - pings);
            self.quiet_since = (self.now, self.seen.pings);
        }
    }
}

impl Lead {
    fn new(born: Duration) -> Lead {
        Lead {
            born,
            ways: [VecDeque::new(), VecDeque::new()],
            acks: VecDeque::new(),
            heard: 0,
        }
    }
}
