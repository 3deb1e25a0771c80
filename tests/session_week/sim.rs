//! One session's life: both connections and the client's dials, in virtual time.

use crate::chance::Chance;
use crate::client::Client;
use crate::conditions::{Intervals, SETTLE_TIME, WEEK};
use crate::due::Due;
use crate::end::End;
use crate::line::Line;
use crate::load::Load;
use crate::network::{CLIENT, Network, SERVER};
use crate::stats::Stats;
use bowline::connection::Accepted;
use bowline::wire::{Epoch, Offset};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Both ends finish this long before the end of the simulation.
const GOODBYE: Duration = Duration::from_secs(120);
const FILL: usize = 64 * 1024;
const TICK: Duration = Duration::from_micros(1);

pub(crate) struct SessionSim<'a> {
    pub(crate) net: &'a Network<'a>,
    pub(crate) chance: Chance,
    beginning: Instant,
    pub(crate) now: Duration,
    /// The end; no outage happens shortly before.
    end: Duration,
    pub(crate) ends: [End; 2],
    pub(crate) lines: BTreeMap<usize, Line>,
    next_line: usize,
    pub(crate) client: Client,
    load: Load,
    pub(crate) due: Option<Due>,
    /// How many outages, suspends and worker deaths are over.
    over: [usize; 3],
    pub(crate) stats: Stats,
}

impl<'a> SessionSim<'a> {
    /// Starts a session at `now`, after its handshake.
    pub(crate) fn new(net: &'a Network<'a>, seed: u64, now: Duration, end: Duration, load: Load) -> SessionSim<'a> {
        let beginning = bowline::clock::now();
        let first = Line::new(net, Epoch::new(1), now);
        let over = [&net.dark, &net.conditions.sleep, &net.conditions.worker].map(|intervals| past(intervals, now));
        let mut sim = SessionSim {
            net,
            chance: Chance::new(seed),
            beginning,
            now,
            end,
            ends: [CLIENT, SERVER].map(|me| End::new(seed, me, now, beginning + now)),
            lines: BTreeMap::new(),
            next_line: 0,
            client: Client::new(seed, beginning + now),
            load: load.from(now, end.saturating_sub(SETTLE_TIME)),
            due: None,
            over,
            stats: Stats::default(),
        };
        let line = sim.add(first);
        let window = sim.ends[CLIENT].session().window();
        sim.follow(line, Epoch::new(1), Offset::ZERO, window);
        let accepted = Accepted {
            epoch: Epoch::new(1),
            received: Offset::ZERO,
            window,
        };
        sim.lead(line, accepted);
        sim
    }

    pub(crate) fn run(mut self) -> Stats {
        while self.now < self.end {
            self.pass();
            self.now = self.next().max(self.now + TICK);
        }
        self.now = self.end;
        self.pass();
        let [client, server] = &self.ends;
        client.check_equal(server);
        server.check_equal(client);
        self.stats.bytes = client.written() + server.written();
        self.stats
    }

    pub(crate) fn instant(&self) -> Instant {
        self.beginning + self.now
    }

    pub(crate) fn since_beginning(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.beginning)
    }

    pub(crate) fn is_awake(&self) -> bool {
        !self.net.conditions.sleep.has(self.now)
    }

    pub(crate) fn is_served(&self) -> bool {
        !self.net.conditions.worker.has(self.now)
    }

    pub(crate) fn add(&mut self, line: Line) -> usize {
        self.next_line += 1;
        self.lines.insert(self.next_line, line);
        self.next_line
    }

    /// The time of the next event.
    fn next(&self) -> Duration {
        let timeout = |me: usize| {
            let timeout = self.ends[me].connection.poll_timeout(true, self.instant());
            timeout.map(|at| self.since_beginning(at))
        };
        let mine = self
            .load
            .next_key()
            .into_iter()
            .chain(timeout(CLIENT))
            .chain(self.client_timeout());
        let mine = mine.chain(self.ends[CLIENT].poll_rest()).min().unwrap_or(WEEK);
        // No timer of the client fires in suspend.
        let mine = self
            .net
            .conditions
            .sleep
            .at(mine.max(self.now))
            .map_or(mine, |sleep| sleep.until);
        let theirs = self
            .load
            .next_output()
            .into_iter()
            .chain(timeout(SERVER))
            .chain(self.server_timeout());
        let theirs = theirs.chain(self.ends[SERVER].poll_rest()).min().unwrap_or(WEEK);
        let theirs = self
            .net
            .conditions
            .worker
            .at(theirs.max(self.now))
            .map_or(theirs, |death| death.until);
        let arrivals = self.lines.values().filter_map(Line::next);
        let intervals = [&self.net.dark, &self.net.conditions.sleep, &self.net.conditions.worker];
        let edges = intervals
            .iter()
            .zip(self.over)
            .filter_map(|(intervals, over)| Some(intervals.0.get(over)?.until));
        let due = self.due.iter().map(|due| due.by);
        let goodbye = self.end.saturating_sub(GOODBYE);
        let goodbye = (goodbye > self.now).then_some(goodbye);
        arrivals
            .chain(edges)
            .chain(due)
            .chain(goodbye)
            .fold(mine.min(theirs).min(self.end), Duration::min)
    }

    /// Runs everything that is due now.
    fn pass(&mut self) {
        self.turn();
        self.read();
        self.type_and_print();
        if self.is_awake() {
            self.dial();
            self.transmit(CLIENT);
            self.watch();
        }
        if self.is_served() {
            self.keep_leads();
            self.transmit(SERVER);
        }
        for me in [CLIENT, SERVER] {
            self.ends[me].rest(self.now);
            self.ends[me].check_prefix(&self.ends[1 - me]);
        }
        self.check_due();
    }

    /// Handles the end of a suspend, of a worker's death, or of an outage.
    fn turn(&mut self) {
        let [dark, sleep, worker] = [&self.net.dark, &self.net.conditions.sleep, &self.net.conditions.worker];
        let [is_bright, has_woken, is_restarted] = [dark, sleep, worker].map(|intervals| past(intervals, self.now));
        let before = std::mem::replace(&mut self.over, [is_bright, has_woken, is_restarted]);
        if is_restarted > before[2] {
            self.restart();
        }
        if has_woken > before[1] {
            self.wake();
        }
        if is_bright > before[0] {
            self.expect_return();
        }
    }

    fn read(&mut self) {
        let ids: Vec<usize> = self.lines.keys().copied().collect();
        for id in ids {
            for to in [CLIENT, SERVER] {
                while let Some(message) = self.arrived(id, to) {
                    match to {
                        CLIENT => self.client_hears(id, message),
                        _ => self.server_hears(id, message),
                    }
                }
            }
        }
    }

    fn arrived(&mut self, id: usize, to: usize) -> Option<Bytes> {
        let (net, now) = (self.net, self.now);
        self.lines.get_mut(&id)?.receive(net, to, now)
    }

    fn type_and_print(&mut self) {
        let is_racing = self.client.race.is_some();
        let [keys, output] = self.load.poll(self.now, self.is_awake(), is_racing, &mut self.chance);
        self.ends[CLIENT].give(keys);
        self.ends[SERVER].give(output);
        if keys + output > 0 {
            self.stats.disturb(self.now);
        }
        let is_over = self.now + GOODBYE >= self.end;
        for (me, is_there) in [(CLIENT, self.is_awake()), (SERVER, self.is_served())] {
            if is_there {
                self.ends[me].write();
            }
            if is_there && is_over {
                self.stats.disturb(self.now);
                self.ends[me].finish();
            }
        }
    }

    fn transmit(&mut self, me: usize) {
        let now = self.instant();
        loop {
            self.ends[me].record();
            if !self.ends[me].connection.transmit(FILL, now) {
                return;
            }
            self.settle(me);
        }
    }

    pub(crate) fn send(&mut self, id: usize, from: usize, bytes: Bytes) {
        self.stats.packets += 1;
        let (net, now) = (self.net, self.now);
        if let Some(line) = self.lines.get_mut(&id) {
            line.send(net, from, now, bytes);
        }
    }

    /// Drops carriers that neither half uses.
    pub(crate) fn prune(&mut self) {
        let used: Vec<usize> = self
            .ends
            .iter()
            .flat_map(|end| {
                let paths = end.connection.paths();
                paths.lead().into_iter().chain(paths.others()).map(|path| path.id)
            })
            .collect();
        let is_racing = self.client.race.is_some();
        let is_asked = |line: &Line| is_racing && !line.greeted[CLIENT];
        self.lines.retain(|id, line| used.contains(id) || is_asked(line));
    }
}

fn past(intervals: &Intervals, now: Duration) -> usize {
    intervals.0.partition_point(|interval| interval.until <= now)
}
