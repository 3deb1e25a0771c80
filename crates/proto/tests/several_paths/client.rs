//! The client's dialers. What they dial, and when, is decided by [`Redial`] and [`StandbySchedule`], as in `client/redial.rs` and
//! `client/standby.rs`.

use crate::line::Piece;
use crate::network::CLIENT;
use crate::sim::{SESSION, Sim};
use bowline_proto::connection::{
    DIAL_TIMEOUT, DialProgress, Redial, RedialAction, Resumed, STANDBY_TIMEOUT, StandbySchedule,
};
use bowline_proto::wire::{Answer, Epoch, Hello, Resume};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub(crate) struct Client {
    redial: Redial,
    dials: Dials,
    standby: StandbySchedule,
    search: Option<Search>,
    /// The path that worked last.
    preferred: usize,
}

/// The dials of one outage or of one upgrade.
#[derive(Default)]
struct Dials {
    running: VecDeque<Dial>,
    /// The paths of completed handshakes.
    ready: Vec<usize>,
    asked: Vec<Asked>,
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
            redial: Redial::new(1, now),
            dials: Dials::default(),
            standby: StandbySchedule::new(SESSION),
            search: None,
            preferred: first,
        }
    }
}

impl Dials {
    fn progress(&self) -> DialProgress {
        DialProgress {
            ready: !self.ready.is_empty(),
            running: !self.running.is_empty() || !self.asked.is_empty(),
        }
    }

    fn add(&mut self, dial: Dial) {
        if let Some(oldest) = Redial::dial_to_abort(self.running.len()) {
            self.running.remove(oldest);
        }
        self.running.push_back(dial);
    }

    /// Moves completed handshakes to `ready`, and forgets what took too long. Returns the resumes that were not answered.
    fn collect(&mut self, now: Duration) -> Vec<Asked> {
        let done = self
            .running
            .iter()
            .filter(|dial| dial.done.is_some_and(|done| done <= now));
        self.ready.extend(done.map(|dial| dial.path));
        self.running
            .retain(|dial| dial.done.is_none_or(|done| done > now) && now < dial.ends);
        let (late, asked) = self.asked.drain(..).partition(|asked| asked.ends <= now);
        self.asked = asked;
        late
    }

    fn take_asked(&mut self, line: usize) -> Option<Asked> {
        let place = self.asked.iter().position(|asked| asked.line == line)?;
        Some(self.asked.remove(place))
    }

    fn timeouts(&self) -> impl Iterator<Item = Duration> {
        let dials = self.running.iter().map(|dial| dial.done.unwrap_or(dial.ends));
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
        let (ranks, progress) = (self.ranks(), client.dials.progress());
        let redial = client.redial.poll_timeout(&ranks, progress, self.instant());
        let standby = client.standby.poll_timeout().filter(|_| client.search.is_none());
        let schedules = redial.into_iter().chain(standby).map(|at| self.since_beginning(at));
        schedules
            .chain(client.dials.timeouts())
            .chain(client.search.as_ref().map(Search::timeout))
    }

    pub(crate) fn drive_client(&mut self) {
        self.drive_redial();
        self.drive_standby();
    }

    // Dials of an outage or an upgrade.

    fn drive_redial(&mut self) {
        let (now, instant) = (self.now, self.instant());
        let request = self.halves[CLIENT].connection.dial_request();
        let lead = self.lead_path().map(|path| self.paths[path].rank);
        self.client.redial.handle_paths(lead, request, instant);
        for late in self.client.dials.collect(now) {
            self.handle_answered(&late, None);
        }
        let mut is_upgrade = false;
        while let Some(action) = {
            let progress = self.client.dials.progress();
            let ranks = self.ranks();
            self.client.redial.poll(&ranks, progress, instant)
        } {
            match action {
                RedialAction::Begin { resolves } => is_upgrade = !resolves,
                RedialAction::Dial { paths, renews_sockets } => {
                    if !std::mem::take(&mut is_upgrade) {
                        self.log
                            .renewals
                            .extend(renews_sockets.then_some(self.log.attempts.len()));
                        self.log.attempts.push(now);
                    }
                    let order = self.order();
                    let dials = paths.iter().map(|path| dial(&self.paths, order[*path], now));
                    dials.for_each(|dial| self.client.dials.add(dial));
                }
                RedialAction::Resume => self.resume(),
                RedialAction::End { upgraded } => {
                    for asked in std::mem::take(&mut self.client.dials).asked {
                        self.close_line(asked.line, CLIENT);
                    }
                    if upgraded {
                        self.log.upgrades.push(now);
                    }
                }
            }
        }
    }

    /// All paths, the one that worked last first.
    fn order(&self) -> Vec<usize> {
        let mut paths: Vec<usize> = (0..self.paths.len()).collect();
        paths.retain(|path| *path != self.client.preferred);
        paths.insert(0, self.client.preferred);
        paths
    }

    fn ranks(&self) -> Vec<u8> {
        self.order().iter().map(|path| self.paths[*path].rank).collect()
    }

    fn resume(&mut self) {
        let path = self.client.dials.ready.pop().expect("a completed handshake");
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
        let client = &mut self.client;
        client.redial.handle_resume_sent(epoch, rtt, now);
        client.dials.asked.push(Asked { line, epoch, ends });
        self.log.most_open_resumes = self.log.most_open_resumes.max(client.dials.asked.len());
    }

    pub(crate) fn handle_answer(&mut self, line: usize, answer: Answer) {
        if matches!(answer, Answer::Standing) {
            return self.handle_standing(line);
        }
        if let Some(asked) = self.client.dials.take_asked(line) {
            self.handle_answered(&asked, Some(answer));
        }
    }

    /// A carrier was lost before its hello was answered.
    pub(crate) fn handle_unanswered(&mut self, line: usize) {
        if let Some(asked) = self.client.dials.take_asked(line) {
            self.handle_answered(&asked, None);
        }
    }

    fn handle_answered(&mut self, asked: &Asked, answer: Option<Answer>) {
        let (path, now) = (self.lines[asked.line].path, self.instant());
        let rank = self.paths[path].rank;
        match self.client.redial.handle_answered(asked.epoch, rank, answer, now) {
            Resumed::Lead(accepted) => {
                self.client.preferred = path;
                self.lead(CLIENT, asked.line, accepted);
            }
            Resumed::Lost(refusal) => panic!("the session is lost: {refusal}"),
            Resumed::NotYet => {}
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
