//! One carrier through the relay: an ordered stream in both directions that may end silently.

use crate::conditions::{Intervals, WEEK};
use crate::network::{CLIENT, IDLE, Network, SERVER};
use bowline::wire::Epoch;
use bytes::Bytes;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// The shortest retransmission interval.
const MIN_RETRANSMIT_INTERVAL: Duration = Duration::from_millis(100);

/// What the client's end of a carrier knows.
#[derive(Default)]
pub(crate) struct LineState {
    /// Messages that the client has read, probes answered included.
    pub(crate) reads: Cell<u64>,
    /// Once it is measured.
    pub(crate) rtt: Cell<Option<Duration>>,
}

pub(crate) struct Line {
    pub(crate) epoch: Epoch,
    /// From then on nothing arrives: the relay or the worker died, or a leg was silent for too long.
    pub(crate) doom: Duration,
    /// Only the server half's machine knows that it ended.
    is_doomed_afar: bool,
    /// When the client is told that it ended.
    pub(crate) told: Option<Duration>,
    /// By writer.
    ways: [VecDeque<(Duration, Bytes)>; 2],
    /// When the client sent last.
    said: Duration,
    /// Whether the client's NAT has dropped its mapping.
    pub(crate) is_forgotten: bool,
    /// By reader: the hello or its answer has arrived.
    pub(crate) greeted: [bool; 2],
    pub(crate) state: Rc<LineState>,
}

impl Line {
    pub(crate) fn new(net: &Network<'_>, epoch: Epoch, born: Duration) -> Line {
        let conditions = net.conditions;
        let death = |deaths: &Intervals| deaths.from(born).map_or(2 * WEEK, |death| death.from.max(born));
        let silence = |way: &Intervals| {
            let long = way
                .0
                .iter()
                .find(|interval| interval.until > born + IDLE && interval.lasts() > IDLE);
            long.map_or(2 * WEEK, |interval| interval.from.max(born) + IDLE)
        };
        let near = conditions.near.iter().chain([&conditions.sleep]).map(silence).min();
        let near = near.unwrap_or(2 * WEEK).min(death(&conditions.relay));
        let far = conditions.far.iter().map(silence).min().unwrap_or(2 * WEEK);
        let worker = death(&conditions.worker);
        // Silence of the client's own leg ends the client's end, unless the client is suspended.
        let own = conditions.near.iter().map(silence).min();
        Line {
            epoch,
            doom: near.min(far).min(worker),
            is_doomed_afar: worker < near.min(far),
            told: own.filter(|own| *own <= near.min(far).min(worker) && !conditions.sleep.has(*own)),
            ways: [VecDeque::new(), VecDeque::new()],
            said: born,
            is_forgotten: false,
            greeted: [false; 2],
            state: Rc::default(),
        }
    }

    /// The time of the next arrival.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.ways.iter().filter_map(|way| way.front().map(|(at, _)| *at)).min()
    }

    pub(crate) fn send(&mut self, net: &Network<'_>, from: usize, now: Duration, bytes: Bytes) {
        if from == CLIENT {
            self.is_forgotten |= now > self.said + net.nat;
            self.said = now;
            if now >= self.doom && !self.is_forgotten && self.told.is_none() {
                self.told = self.news_of_end(net, now);
            }
        }
        if self.is_forgotten {
            return;
        }
        let Some((arrives, is_repeated)) = self.arrival(net, from, now) else {
            // Later bytes would wait for it forever.
            self.doom = self.doom.min(now);
            return;
        };
        let way = &mut self.ways[from];
        if !is_repeated {
            // Acknowledgements of later packets reveal the loss, which is repaired within a round trip.
            let repaired = arrives + net.rtt();
            way.iter_mut().for_each(|(at, _)| *at = (*at).min(repaired));
        }
        let arrives = way.back().map_or(arrives, |(last, _)| arrives.max(*last));
        way.push_back((arrives, bytes));
    }

    /// The next message that has arrived at `to`.
    pub(crate) fn receive(&mut self, net: &Network<'_>, to: usize, now: Duration) -> Option<Bytes> {
        let way = &mut self.ways[1 - to];
        let (at, _) = way.front().filter(|(at, _)| *at <= now)?;
        if to == CLIENT && *at > self.said + net.nat {
            self.is_forgotten = true;
        }
        if self.is_forgotten {
            way.clear();
            return None;
        }
        way.pop_front().map(|(_, bytes)| bytes)
    }

    /// Whether a retransmission is pending that arrives only after `by`.
    pub(crate) fn is_stalled(&self, by: Duration) -> bool {
        self.ways.iter().any(|way| way.back().is_some_and(|(at, _)| *at > by))
    }

    /// The reader has gone.
    pub(crate) fn clear(&mut self) {
        self.ways.iter_mut().for_each(VecDeque::clear);
        self.told = None;
    }

    fn arrival(&self, net: &Network<'_>, from: usize, now: Duration) -> Option<(Duration, bool)> {
        let (mut at, mut pause) = (now, (net.rtt() * 3).max(MIN_RETRANSMIT_INTERVAL));
        while at < self.doom.min(now + IDLE) {
            if let Some(arrives) = net.travel(from, at) {
                return (arrives < self.doom).then_some((arrives, at > now));
            }
            at += pause;
            pause *= 2;
        }
        None
    }

    /// A relay or a worker without its state resets it.
    fn news_of_end(&self, net: &Network<'_>, now: Duration) -> Option<Duration> {
        if self.is_doomed_afar {
            net.travel(SERVER, net.travel(CLIENT, now)?)
        } else {
            net.to_client(net.to_relay(now)?)
        }
    }
}
