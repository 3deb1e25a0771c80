//! The client's dialers. What they dial, and when, is decided by [`DialRace`], [`PathUpgrade`] and [`StandbySchedule`], as in
//! `client/redial.rs` and `client/standby.rs`.

use crate::line::Piece;
use crate::network::CLIENT;
use crate::sim::{SESSION, Sim};
use bowline_proto::connection::{
    self, DIAL_TIMEOUT, DialProgress, DialRace, DialRequest, MAX_DIALS, PathUpgrade, StandbySchedule, UPGRADE_TIMEOUT,
};
use bowline_proto::session::RedialPacer;
use bowline_proto::wire::{Answer, Epoch, Hello, Resume};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Limit for one path of a standby carrier (`client/standby.rs`).
const STANDBY_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Client {
    request: DialRequest,
    race: Option<Race>,
    path_upgrade: PathUpgrade,
    standby: StandbySchedule,
    search: Option<Search>,
    /// The path that worked last.
    preferred: usize,
    seed: u64,
}

/// The dials of one outage or of one upgrade.
struct Race {
    dial_race: DialRace,
    /// The paths of an upgrade; empty in an outage.
    better: Vec<usize>,
    dials: VecDeque<Dial>,
    /// The paths of completed handshakes.
    ready: Vec<usize>,
    asked: Vec<Asked>,
    taken: Option<usize>,
    attempts: usize,
}

struct Dial {
    path: usize,
    /// `None` if it never completes.
    done: Option<Duration>,
    ends: Duration,
}

/// A resume that waits for its answer.
struct Asked {
    line: usize,
    epoch: Epoch,
    ends: Duration,
}

/// The dials of one standby carrier, one after the other.
struct Search {
    dial: Dial,
    candidates: VecDeque<usize>,
    /// The carrier that was asked to stand by.
    line: Option<usize>,
}

impl Client {
    pub(crate) fn new(first: usize, now: Instant) -> Client {
        Client {
            request: DialRequest::None,
            race: None,
            path_upgrade: PathUpgrade::new(now),
            standby: StandbySchedule::new(SESSION),
            search: None,
            preferred: first,
            seed: 1,
        }
    }

    fn pacer(&mut self, now: Instant, is_urgent: bool) -> RedialPacer {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        RedialPacer::new(now, is_urgent, self.seed)
    }
}

impl Race {
    fn new(dial_race: DialRace, better: Vec<usize>) -> Race {
        Race {
            dial_race,
            better,
            dials: VecDeque::new(),
            ready: Vec::new(),
            asked: Vec::new(),
            taken: None,
            attempts: 0,
        }
    }

    fn progress(&self) -> DialProgress {
        DialProgress {
            ready: !self.ready.is_empty(),
            running: !self.dials.is_empty() || !self.asked.is_empty(),
        }
    }

    fn dial(&mut self, dial: Dial) {
        if let Some(oldest) = DialRace::dial_to_abort(self.dials.len()) {
            self.dials.remove(oldest);
        }
        self.dials.push_back(dial);
    }

    /// Moves completed handshakes to `ready`, and forgets what took too long.
    fn collect(&mut self, now: Duration, instant: Instant) {
        let done = self
            .dials
            .iter()
            .filter(|dial| dial.done.is_some_and(|done| done <= now));
        self.ready.extend(done.map(|dial| dial.path));
        self.dials
            .retain(|dial| dial.done.is_none_or(|done| done > now) && now < dial.ends);
        let late: Vec<Epoch> = self
            .asked
            .iter()
            .filter(|asked| asked.ends <= now)
            .map(|asked| asked.epoch)
            .collect();
        self.asked.retain(|asked| asked.ends > now);
        for epoch in late {
            self.dial_race.handle_answered(epoch, None, instant);
        }
    }

    fn timeouts(&self) -> impl Iterator<Item = Duration> {
        let dials = self.dials.iter().map(|dial| dial.done.unwrap_or(dial.ends));
        dials.chain(self.asked.iter().map(|asked| asked.ends))
    }
}

impl Search {
    /// Tries the next path; `None` if there is none.
    fn next(sim: &mut Sim, mut candidates: VecDeque<usize>) -> Option<Search> {
        let path = candidates.pop_front()?;
        sim.log.standby_dials.push((sim.now, path));
        Some(Search {
            dial: Dial {
                path,
                done: sim.paths[path].dial(sim.now, STANDBY_TIMEOUT),
                ends: sim.now + STANDBY_TIMEOUT,
            },
            candidates,
            line: None,
        })
    }

    fn timeout(&self) -> Duration {
        let done = self.dial.done.filter(|_| self.line.is_none());
        done.unwrap_or(self.dial.ends)
    }
}

impl Sim {
    pub(crate) fn client_timeouts(&self) -> impl Iterator<Item = Duration> {
        let client = &self.client;
        let race = client.race.iter();
        let race = race.flat_map(|race| {
            let timeout = race.dial_race.poll_timeout(self.instant(), race.progress());
            race.timeouts().chain([self.since_beginning(timeout)])
        });
        let is_idle = client.race.is_none() && !self.better_paths().is_empty();
        let upgrade = is_idle.then(|| self.since_beginning(client.path_upgrade.due()));
        let standby = client.standby.poll_timeout().filter(|_| client.search.is_none());
        let standby = standby.map(|at| self.since_beginning(at));
        race.chain(upgrade)
            .chain(standby)
            .chain(client.search.as_ref().map(Search::timeout))
    }

    pub(crate) fn drive_client(&mut self) {
        self.drive_race();
        self.drive_standby();
    }

    // Dials of an outage or an upgrade.

    fn drive_race(&mut self) {
        let (now, instant) = (self.now, self.instant());
        self.follow_request();
        if self.client.race.is_none() {
            self.begin_race();
        }
        let Some(race) = &mut self.client.race else { return };
        race.collect(now, instant);
        if race.dial_race.is_over(instant, race.progress()) {
            return self.end_race();
        }
        if race.dial_race.may_resume(instant)
            && let Some(path) = race.ready.pop()
        {
            self.resume(path);
        }
        let Some(race) = &mut self.client.race else { return };
        if race.dial_race.poll_attempt(instant, race.progress()) {
            self.dial();
        }
    }

    fn follow_request(&mut self) {
        let request = self.halves[CLIENT].connection.dial_request();
        if std::mem::replace(&mut self.client.request, request) != request {
            let now = self.instant();
            if let Some(race) = &mut self.client.race {
                race.dial_race.handle_request(request, now);
            }
        }
    }

    fn begin_race(&mut self) {
        let now = self.instant();
        let lead = self.lead_path().map(|path| self.paths[path].rank);
        let client = &mut self.client;
        if let Some(rank) = lead {
            client.path_upgrade.handle_lead(rank, now);
        }
        if client.request != DialRequest::None {
            client.path_upgrade.handle_outage(now);
            let pacer = client.pacer(now, client.request.is_urgent());
            client.race = Some(Race::new(DialRace::for_outage(pacer, client.request, now), Vec::new()));
            return;
        }
        let better = self.better_paths();
        let client = &mut self.client;
        if !better.is_empty() && client.path_upgrade.due() <= now {
            let pacer = client.pacer(now, false);
            let mut race = Race::new(DialRace::for_upgrade(pacer, now, now + UPGRADE_TIMEOUT), better);
            for path in race.better.iter().copied().take(MAX_DIALS) {
                race.dials.push_back(dial(&self.paths, path, self.now));
            }
            self.client.race = Some(race);
        }
    }

    /// Paths of a better kind than the lead's.
    fn better_paths(&self) -> Vec<usize> {
        let Some(lead) = self.lead_path() else {
            return Vec::new();
        };
        let better = |path: &usize| self.paths[*path].rank < self.paths[lead].rank;
        (0..self.paths.len()).filter(better).collect()
    }

    fn dial(&mut self) {
        self.log.attempts.push(self.now);
        let mut paths: Vec<usize> = (0..self.paths.len()).collect();
        paths.retain(|path| *path != self.client.preferred);
        paths.insert(0, self.client.preferred);
        let ranks: Vec<u8> = paths.iter().map(|path| self.paths[*path].rank).collect();
        let now = self.instant();
        let Some(race) = &mut self.client.race else { return };
        for index in race.dial_race.paths_to_dial(race.attempts, &ranks, now) {
            race.dial(dial(&self.paths, paths[index], self.now));
        }
        race.attempts += 1;
    }

    fn resume(&mut self, path: usize) {
        let epoch = self.halves[CLIENT].epochs.next();
        let session = self.halves[CLIENT].connection.session();
        let resume = Hello::Resume(Resume {
            session: SESSION,
            epoch,
            received: session.received(),
            window: session.window(),
        });
        let line = self.open_line(path);
        self.send(line, CLIENT, Piece::Hello(resume));
        self.log.resumes.push(self.now);
        let (now, ends, rtt) = (self.instant(), self.now + DIAL_TIMEOUT, self.paths[path].rtt);
        let Some(race) = &mut self.client.race else { return };
        race.dial_race.handle_resume_sent(epoch, rtt, now);
        race.asked.push(Asked { line, epoch, ends });
        self.log.most_open_resumes = self.log.most_open_resumes.max(race.asked.len());
    }

    pub(crate) fn handle_answer(&mut self, line: usize, answer: &Answer) {
        if matches!(answer, Answer::Standing) {
            return self.handle_standing(line);
        }
        let now = self.instant();
        let Some(race) = &mut self.client.race else { return };
        let Some(place) = race.asked.iter().position(|asked| asked.line == line) else {
            return;
        };
        let Asked { epoch, .. } = race.asked.remove(place);
        race.dial_race.handle_answered(epoch, Some(answer), now);
        if let Answer::Accepted(accepted) = answer {
            race.taken = Some(self.lines[line].path);
            self.client.preferred = self.lines[line].path;
            let accepted = connection::Accepted {
                epoch,
                received: accepted.received,
                window: accepted.window,
            };
            self.lead(CLIENT, line, accepted);
        }
    }

    /// A carrier was lost before its hello was answered.
    pub(crate) fn handle_unanswered(&mut self, line: usize) {
        let now = self.instant();
        if let Some(race) = &mut self.client.race
            && let Some(place) = race.asked.iter().position(|asked| asked.line == line)
        {
            let Asked { epoch, .. } = race.asked.remove(place);
            race.dial_race.handle_answered(epoch, None, now);
        }
    }

    fn end_race(&mut self) {
        let Some(race) = self.client.race.take() else { return };
        for asked in &race.asked {
            self.close_line(asked.line, CLIENT);
        }
        let now = self.instant();
        match race.taken.filter(|path| race.better.contains(path)) {
            Some(_) => {
                self.client.path_upgrade.handle_taken(now);
                self.log.upgrades.push(self.now);
            }
            None if !race.better.is_empty() => self.client.path_upgrade.handle_failed(now),
            None => {}
        }
    }

    // Standby carriers.

    fn drive_standby(&mut self) {
        let (lead, standbys, now) = (self.lead_path(), self.standby_paths(), self.instant());
        if let Some(search) = &mut self.client.search {
            let is_due = search.timeout() <= self.now;
            if is_due && search.dial.done.is_some() && search.line.is_none() {
                let line = self.open_line(search_path(&self.client));
                self.send(line, CLIENT, Piece::Hello(Hello::Standby { session: SESSION }));
                if let Some(search) = &mut self.client.search {
                    search.line = Some(line);
                }
            } else if is_due {
                self.search_on();
            }
            return;
        }
        let is_missing = StandbySchedule::is_standby_missing(lead.as_ref(), &standbys, PartialEq::eq);
        self.client.standby.handle_paths(is_missing, now);
        if self.client.standby.poll_attempt(now) {
            let paths = (0..self.paths.len()).collect();
            let rank = |path: &usize| self.paths[*path].rank;
            let candidates = StandbySchedule::candidates(paths, |path| Some(*path) == lead, rank);
            self.client.search = Search::next(self, candidates.into());
            if self.client.search.is_none() {
                self.client.standby.handle_failed();
            }
        }
    }

    /// The path under search gave no standby carrier.
    fn search_on(&mut self) {
        let Some(search) = self.client.search.take() else {
            return;
        };
        if let Some(line) = search.line {
            self.close_line(line, CLIENT);
        }
        self.client.search = Search::next(self, search.candidates);
        if self.client.search.is_none() {
            self.client.standby.handle_failed();
        }
    }

    fn handle_standing(&mut self, line: usize) {
        let search = self.client.search.take_if(|search| search.line == Some(line));
        if search.is_some() {
            self.client.standby.handle_found();
            self.stand_by(CLIENT, line);
        }
    }
}

fn search_path(client: &Client) -> usize {
    client.search.as_ref().map_or(0, |search| search.dial.path)
}

fn dial(paths: &[crate::network::Path], path: usize, now: Duration) -> Dial {
    Dial {
        path,
        done: paths[path].dial(now, DIAL_TIMEOUT),
        ends: now + DIAL_TIMEOUT,
    }
}
