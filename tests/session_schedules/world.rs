//! One schedule: a storm of random events, then a calm in which everything must come to its end.

#![allow(unreachable_pub, reason = "a module of test crates has no outside")]

use crate::carrier::Carrier;
use crate::chance::Chance;
use crate::half::{Arrival, CLIENT, Half, SERVER};
use bowline::connection;
use bowline::wire::{
    Accepted, Answer, Epoch, Frame, Hello, Offset, Refusal, RefusalCode, Resume, SessionId, next_message,
};
use bytes::Bytes;
use std::iter::Sum;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const SESSION: SessionId = SessionId::new([7; 16]);

/// Carriers that a client has at once, at most.
const MOST_CARRIERS: usize = 5;
/// Datagrams under way to one half.
const MOST_COPIES: usize = 6;
/// Rounds of calm after which something hangs: 300 kB through a window of 64 KiB take a few dozen.
const MOST_ROUNDS: usize = 600;

/// How often what happened, so that a schedule generator that lost its teeth is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    cuts: u64,
    dials: u64,
    attaches: u64,
    stale: u64,
    called_off: u64,
    heard_again: u64,
    several: u64,
    closes: u64,
    lone: u64,
    promoted: u64,
    copies: u64,
    pub(crate) crashes: u64,
    pub(crate) restored_bytes: u64,
    pub(crate) restored_ends: u64,
    pub(crate) released: u64,
}

impl Tally {
    pub(crate) fn covers_everything(&self, schedules: u64) -> bool {
        let few = [
            self.stale,
            self.called_off,
            self.closes,
            self.promoted,
            self.crashes,
            self.restored_bytes,
            self.restored_ends,
            self.released,
        ];
        let many = [
            self.cuts,
            self.dials,
            self.attaches,
            self.heard_again,
            self.several,
            self.copies,
        ];
        schedules < 1000 || (few.iter().all(|n| *n > schedules / 100) && many.iter().all(|n| *n > schedules / 3))
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Tally>>(tallies: I) -> Tally {
        tallies.fold(Tally::default(), |a, b| Tally {
            cuts: a.cuts + b.cuts,
            dials: a.dials + b.dials,
            attaches: a.attaches + b.attaches,
            stale: a.stale + b.stale,
            called_off: a.called_off + b.called_off,
            heard_again: a.heard_again + b.heard_again,
            several: a.several + b.several,
            closes: a.closes + b.closes,
            lone: a.lone + b.lone,
            promoted: a.promoted + b.promoted,
            copies: a.copies + b.copies,
            crashes: a.crashes + b.crashes,
            restored_bytes: a.restored_bytes + b.restored_bytes,
            restored_ends: a.restored_ends + b.restored_ends,
            released: a.released + b.released,
        })
    }
}

/// Where a carrier stands, at one of its ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The hello or its answer is awaited.
    Hello,
    /// On the way to the driver.
    Arriving,
    Attached,
    /// Let go.
    Gone,
}

pub(crate) struct Line {
    pub(crate) carrier: Carrier,
    pub(crate) stages: [Stage; 2],
    epoch: Epoch,
}

pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) now: Instant,
    pub(crate) halves: [Half; 2],
    pub(crate) lines: Vec<Line>,
    /// Datagrams on the way to each half: they arrive at any time, in any order, again, or never.
    copies: [Vec<(usize, Bytes)>; 2],
    /// Chances of some events in percent; each schedule has its own weather.
    cuts: usize,
    closes: usize,
    /// Of the server's process in thousandths, at each of many places. Where it may crash the order of its steps is the pump's.
    pub(crate) crashes: usize,
    pub(crate) is_calm: bool,
    pub(crate) calm_crashes: usize,
    /// The server's process died after the client had left.
    pub(crate) crashed_late: bool,
    pub(crate) tally: Tally,
}

impl World {
    pub(crate) fn new(mut chance: Chance) -> World {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        let now = *BEGINNING.get_or_init(bowline::clock::now);
        World {
            now,
            halves: [CLIENT, SERVER].map(|me| Half::new(me, &mut chance, now)),
            lines: Vec::new(),
            copies: [Vec::new(), Vec::new()],
            cuts: chance.one_of(&[0, 1, 3, 10]),
            closes: chance.one_of(&[0, 0, 0, 1, 3]),
            crashes: chance.one_of(&[0, 0, 0, 2, 10, 30]),
            is_calm: false,
            calm_crashes: 0,
            crashed_late: false,
            tally: Tally::default(),
            chance,
        }
    }

    pub(crate) fn play(mut self) -> Tally {
        self.dial();
        for _ in 0..self.chance.one_of(&[20, 60, 200, 400]) {
            self.now += Duration::from_micros(self.chance.below(3000) as u64);
            self.storm();
            self.check();
        }
        let over_before = self.halves[CLIENT].over;
        self.calm();
        self.check_end(over_before);
        self.tally
    }

    fn storm(&mut self) {
        let me = self.chance.below(2);
        if self.halves[me].over {
            return self.pass();
        }
        let may_crash = me == SERVER && self.crashes > 0;
        match self.chance.below(100) {
            0..44 | 84 if may_crash => self.round(),
            0..12 => {
                let most = self.chance.amount(70_000);
                self.halves[me].write(most, false);
            }
            12..16 => {
                self.halves[me].end_input();
            }
            16..30 => {
                let most = self.chance.amount(70_000);
                self.halves[me].take(most, self.now, false);
            }
            30..44 => self.transmit(me),
            44..60 => self.pass(),
            61 => self.promote(),
            62 => self.dial_standby(),
            63..80 => self.read(me),
            80..84 => self.copy(me),
            84 => self.halves[me].note_facts(),
            85..88 => self.arrive(me),
            60 | 88..93 => self.tally.heard_again += u64::from(self.halves[me].hear_again(&mut self.chance)),
            93 => self.suspect(),
            94 => self.call_off(),
            95..98 => self.cut(),
            98 if self.chance.percent(10 * self.closes) => {
                self.tally.closes += 1;
                if may_crash {
                    self.halves[me].break_pipe();
                } else {
                    self.halves[me].close();
                }
            }
            99 if may_crash && self.chance.percent(self.crashes) => self.crash(),
            _ => self.notice(me),
        }
    }

    /// Each step once for each half, with nothing in its way, until all is done.
    fn calm(&mut self) {
        self.is_calm = true;
        for _ in 0..MOST_ROUNDS {
            self.now += Duration::from_millis(25);
            for me in [CLIENT, SERVER] {
                self.calm_half(me);
            }
            self.lines.iter_mut().for_each(|line| line.carrier.settle());
            self.check();
            if self.halves.iter().all(|half| half.over) {
                return;
            }
            let quiet = self.lines.iter().all(|line| line.stages[SERVER] == Stage::Gone);
            if self.halves[CLIENT].over && quiet {
                return;
            }
        }
        panic!("stuck with a carrier that stays up: {:#?}", self.halves);
    }

    fn calm_half(&mut self, me: usize) {
        self.notice(me);
        while !self.halves[me].arrivals.is_empty() {
            self.arrive(me);
        }
        for line in 0..self.lines.len() {
            self.read_line(me, line, usize::MAX);
        }
        if self.halves[me].over {
            return;
        }
        if me == SERVER && self.crashes > 0 {
            return self.round();
        }
        self.halves[me].take(usize::MAX, self.now, false);
        while self.halves[me].write(usize::MAX, false) {}
        self.halves[me].end_input();
        self.halves[me].note_facts();
        self.transmit(me);
        let dialing = |line: &Line| matches!(line.stages[CLIENT], Stage::Hello | Stage::Arriving);
        if me == CLIENT && self.halves[CLIENT].lead().is_none() && !self.lines.iter().any(dialing) {
            self.dial();
        }
    }

    // Events.

    fn pass(&mut self) {
        if let Some(line) = self.any_line() {
            self.lines[line].carrier.fly(&mut self.chance);
        }
    }

    pub(crate) fn transmit(&mut self, me: usize) {
        let half = &mut self.halves[me];
        if let Some(lead) = half.lead()
            && self.lines[lead].carrier.is_flushed(me)
            && !half.over
        {
            half.transmit(self.now);
            self.settle(me);
        }
    }

    fn read(&mut self, me: usize) {
        if let Some(line) = self.any_line() {
            let most = self.chance.amount(20);
            self.read_line(me, line, most);
        }
    }

    /// Reads up to `most` messages from a carrier.
    pub(crate) fn read_line(&mut self, me: usize, line: usize, most: usize) {
        for _ in 0..most {
            let Line { carrier, stages, .. } = &mut self.lines[line];
            let inbox = carrier.inbox(me);
            match stages[me] {
                Stage::Gone | Stage::Arriving => return,
                Stage::Attached => match Frame::decode(inbox).expect("frames of an honest peer") {
                    // A half that is over has no driver.
                    Some(_) if self.halves[me].over => {}
                    Some(frame) => {
                        self.halves[me].handle_frame(frame, line, self.now);
                        self.settle(me);
                    }
                    None => return,
                },
                Stage::Hello => match next_message(inbox).expect("a hello of an honest peer") {
                    Some(message) if me == SERVER => match Hello::decode(message) {
                        Ok(Hello::Resume(resume)) => self.answer(line, &resume),
                        Ok(Hello::Standby { .. }) => self.answer_standby(line),
                        other => panic!("{other:?} instead of a resume"),
                    },
                    Some(message) => self.hear_answer(line, &Answer::decode(message).expect("an answer")),
                    None => return,
                },
            }
        }
    }

    /// The client dials, as it does whenever it has no lead or suspects the one it has.
    fn dial(&mut self) {
        self.tally.dials += 1;
        let (received, window) = self.halves[CLIENT].facts;
        let epoch = self.halves[CLIENT].epochs.next();
        let resume = Hello::Resume(Resume {
            session: SESSION,
            epoch,
            received,
            window,
        });
        self.open_line(&resume, epoch);
    }

    /// The client dials a carrier that is to stand by.
    fn dial_standby(&mut self) {
        if !self.halves[CLIENT].over && self.living_lines() < MOST_CARRIERS {
            self.open_line(&Hello::Standby { session: SESSION }, Epoch::default());
        }
    }

    fn open_line(&mut self, hello: &Hello, epoch: Epoch) {
        let mut carrier = Carrier::default();
        carrier.send(CLIENT, &hello.encode());
        self.lines.push(Line {
            carrier,
            stages: [Stage::Hello; 2],
            epoch,
        });
    }

    /// The client's connection promotes a standby carrier, as it does when the lead is silent.
    fn promote(&mut self) {
        if !self.halves[CLIENT].over {
            let promoted = self.halves[CLIENT].connection.promote(self.now);
            promoted.expect("the peer is honest");
            self.settle(CLIENT);
        }
    }

    /// What a connection has decided is done: what it sent goes to the carriers, and what it closed is closed.
    pub(crate) fn settle(&mut self, me: usize) {
        for path in self.halves[me].connection.paths_mut().iter_mut() {
            self.lines[path.line].carrier.outbox(me).unsplit(path.outbox.split());
            for copy in path.copies.drain(..) {
                let flying = &mut self.copies[1 - me];
                let place = self.chance.below(MOST_COPIES).min(flying.len());
                flying.splice(place..(place + 1).min(flying.len()), [(path.line, copy)]);
            }
        }
        self.tally.promoted += self.halves[me].take_promotions();
        for line in self.halves[me].take_closed() {
            self.lines[line].stages[me] = Stage::Gone;
            self.lines[line].carrier.close(me, &mut self.chance);
        }
    }

    /// What flows is little, and sent once more as a datagram; some datagram arrives.
    fn copy(&mut self, me: usize) {
        let half = &self.halves[me];
        if let Some((lead, copy)) = half.lead().zip(half.copy()) {
            let flying = &mut self.copies[1 - me];
            let place = self.chance.below(MOST_COPIES).min(flying.len());
            flying.splice(place..(place + 1).min(flying.len()), [(lead, copy)]);
        }
        let waiting = self.copies[me].len();
        if waiting > 0 && !self.halves[me].over {
            self.tally.copies += 1;
            let (line, copy) = self.copies[me][self.chance.below(waiting)].clone();
            self.halves[me].hear_copy(line, &copy, self.now);
            self.settle(me);
        }
    }

    fn suspect(&mut self) {
        if !self.halves[CLIENT].over && self.living_lines() < MOST_CARRIERS {
            self.dial();
        }
    }

    fn living_lines(&self) -> usize {
        let living = self.lines.iter().filter(|line| line.stages[CLIENT] != Stage::Gone);
        living.count()
    }

    /// The old lead moves again: the client drops a carrier whose answer it has not read.
    fn call_off(&mut self) {
        let called_off = self.lines.iter().position(|line| line.stages[CLIENT] == Stage::Hello);
        if let Some(line) = called_off {
            self.tally.called_off += 1;
            self.drop_line(CLIENT, line);
        }
    }

    /// The server's registry.
    fn answer(&mut self, line: usize, resume: &Resume) {
        let (received, window) = self.halves[SERVER].facts;
        let refused = if self.halves[SERVER].over {
            Some(RefusalCode::Gone)
        } else if !self.halves[SERVER].epochs.take(resume.epoch) {
            self.tally.stale += 1;
            Some(RefusalCode::Stale)
        } else {
            None
        };
        let answer = match refused {
            Some(code) => Answer::Refused(Refusal {
                code,
                message: "".into(),
            }),
            None => Answer::Accepted(Accepted {
                key: None,
                received,
                window,
                ttl: 9,
            }),
        };
        self.lines[line].carrier.send(SERVER, &answer.encode());
        if refused.is_some() {
            self.lines[line].stages[SERVER] = Stage::Gone;
            return self.lines[line].carrier.finish(SERVER);
        }
        self.expect(SERVER, line, Some((resume.received, resume.window)));
    }

    fn answer_standby(&mut self, line: usize) {
        if self.halves[SERVER].over {
            let refusal = Refusal {
                code: RefusalCode::Gone,
                message: "".into(),
            };
            self.lines[line]
                .carrier
                .send(SERVER, &Answer::Refused(refusal).encode());
            self.lines[line].stages[SERVER] = Stage::Gone;
            return self.lines[line].carrier.finish(SERVER);
        }
        self.lines[line].carrier.send(SERVER, &Answer::Standing.encode());
        self.expect(SERVER, line, None);
    }

    fn hear_answer(&mut self, line: usize, answer: &Answer) {
        match answer {
            Answer::Accepted(accepted) => self.expect(CLIENT, line, Some((accepted.received, accepted.window))),
            Answer::Standing => self.expect(CLIENT, line, None),
            Answer::Refused(refusal) => {
                self.drop_line(CLIENT, line);
                if refusal.code == RefusalCode::Gone {
                    assert!(
                        self.halves[CLIENT].session().is_output_done(),
                        "the session was forgotten before its end was delivered"
                    );
                    self.halves[CLIENT].over = true;
                }
            }
            Answer::Reaped | Answer::Probed(_) | Answer::Asking(_) | Answer::KeyOk(_) => {
                panic!("nobody asked for that: {answer:?}")
            }
        }
    }

    /// `room`: what the peer has received, and its window; `None` for a standby carrier.
    fn expect(&mut self, me: usize, line: usize, room: Option<(Offset, u64)>) {
        self.lines[line].stages[me] = Stage::Arriving;
        let epoch = self.lines[line].epoch;
        self.halves[me].arrivals.push(Arrival {
            carrier: line,
            accepted: room.map(|(received, window)| connection::Accepted {
                epoch,
                received,
                window,
            }),
        });
    }

    /// Some carrier reaches the driver, not always the first that set out.
    fn arrive(&mut self, me: usize) {
        let waiting = self.halves[me].arrivals.len();
        if waiting == 0 {
            return;
        }
        let arrival = self.halves[me].arrivals.swap_remove(self.chance.below(waiting));
        if self.halves[me].over {
            return self.drop_line(me, arrival.carrier);
        }
        self.tally.attaches += 1;
        self.lines[arrival.carrier].stages[me] = Stage::Attached;
        self.halves[me].attach(&arrival, self.now);
        self.settle(me);
        let others = self.halves[me].connection.paths().others().count();
        self.tally.several += u64::from(others > 0);
    }

    fn cut(&mut self) {
        if self.chance.percent(10 * self.cuts)
            && let Some(line) = self.any_line()
            && !self.lines[line].carrier.is_cut()
        {
            self.tally.cuts += 1;
            self.lines[line].carrier.cut(&mut self.chance);
        }
    }

    /// Carriers that ended are seen to have ended; what arrived on them may be read before, or not.
    fn notice(&mut self, me: usize) {
        for line in 0..self.lines.len() {
            if self.lines[line].stages[me] == Stage::Gone || !self.lines[line].carrier.is_over_for(me) {
                continue;
            }
            if self.lines[line].stages[me] == Stage::Arriving {
                continue;
            }
            if self.chance.percent(50) || self.lines[line].carrier.is_released(1 - me) {
                self.read_line(me, line, usize::MAX);
            }
            self.drop_line(me, line);
        }
    }

    fn drop_line(&mut self, me: usize, line: usize) {
        self.halves[me].lose(line, self.now);
        self.lines[line].stages[me] = Stage::Gone;
        self.lines[line].carrier.close(me, &mut self.chance);
        self.settle(me);
    }

    fn any_line(&mut self) -> Option<usize> {
        let recent = self.lines.len().min(MOST_CARRIERS);
        (recent > 0).then(|| self.lines.len() - 1 - self.chance.below(recent))
    }

    // What must hold.

    fn check(&mut self) {
        for me in [CLIENT, SERVER] {
            let peer = 1 - me;
            self.halves[me].check_belief(&self.halves[peer]);
            self.end_if_finished(me);
        }
    }

    /// A driver leaves once its session is finished and the lead took all that was said.
    fn end_if_finished(&mut self, me: usize) {
        let lead = self.halves[me].lead();
        let flushed = lead.is_none_or(|lead| self.lines[lead].carrier.is_flushed(me));
        if self.halves[me].over || !self.halves[me].session().is_finished() || !flushed {
            return;
        }
        self.halves[me].over = true;
        self.halves[me].over_alone = lead.is_none_or(|lead| self.lines[lead].carrier.is_cut());
        for line in 0..self.lines.len() {
            if self.lines[line].stages[me] == Stage::Attached {
                if lead == Some(line) {
                    self.lines[line].stages[me] = Stage::Gone;
                    self.lines[line].carrier.finish(me);
                } else {
                    self.drop_line(me, line);
                }
            }
        }
    }

    fn check_end(&mut self, over_before: bool) {
        let [client, server] = &self.halves;
        client.check_equal(server);
        server.check_equal(client);
        if !server.over {
            // The client's last words were lost with its last carrier: nobody is left to repeat them.
            self.tally.lone += 1;
            assert!(
                over_before || client.over_alone || self.crashed_late,
                "the server half was left alone on a living carrier: {:#?}",
                self.halves
            );
            assert!(server.session().is_output_done(), "the server half waits for more");
        }
    }
}
