//! A quiet user with flowing output: a remote counter, and when each of its lines came.

use crate::support::process::Running;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::{now, wait_for};
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A line each 20 ms; the user never types.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";

/// The running session.
pub struct Ticker {
    running: Running,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    arrivals: Vec<Instant>,
    /// The first line that is not the next number: lost, doubled or out of order.
    wrong: Option<String>,
}

impl Ticker {
    /// Logs in and waits until the counter runs.
    ///
    /// # Panics
    /// When no line comes, with what ssh said.
    pub fn start(rig: &Rig) -> Ticker {
        let (running, _stdin, stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, COUNTER]));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let filled = seen.clone();
        std::thread::spawn(move || read_lines(stdout, &filled));
        let ticker = Ticker { running, seen };
        let runs = wait_for(Duration::from_secs(30), || (ticker.lines() >= 10).then_some(()));
        assert!(
            runs.is_some(),
            "the remote counter does not run: {}",
            ticker.running.err_so_far()
        );
        ticker
    }

    /// How many lines have come.
    pub fn lines(&self) -> usize {
        self.seen.lock().expect("the reader does not panic").arrivals.len()
    }

    /// The longest silence that ended after `from`, until now: between two lines, or since the last one.
    pub fn longest_silence_since(&self, from: Instant) -> Duration {
        let seen = self.seen.lock().expect("the reader does not panic");
        let ends = seen.arrivals.iter().copied().skip(1).chain([now()]);
        let silences = seen.arrivals.iter().zip(ends).filter(|(_, end)| *end > from);
        silences.map(|(start, end)| end - *start).max().unwrap_or_default()
    }

    /// How long after `moment` the next line came; waits for it.
    ///
    /// # Panics
    /// When none comes within `limit`.
    #[track_caller]
    pub fn next_line_after(&mut self, moment: Instant, limit: Duration) -> Duration {
        let next = wait_for(limit, || {
            let seen = self.seen.lock().expect("the reader does not panic");
            seen.arrivals.iter().find(|at| **at >= moment).map(|at| *at - moment)
        });
        if next.is_none() && self.running.ended(Duration::ZERO) {
            panic!("ssh has ended: {}", self.running.err_so_far());
        }
        next.unwrap_or_else(|| panic!("no line within {limit:?}"))
    }

    /// Insists that every line has come once and in order, that the session still runs, and ends it.
    #[track_caller]
    pub fn finish_in_order(mut self) -> usize {
        assert!(
            !self.running.ended(Duration::ZERO),
            "the session still runs: {}",
            self.running.err_so_far()
        );
        let lines = self.lines();
        let seen = self.seen.lock().expect("the reader does not panic");
        assert_eq!(seen.wrong, None, "every line once and in order, {lines} lines");
        lines
    }
}

fn read_lines(stdout: impl Read, seen: &Mutex<Seen>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        let mut seen = seen.lock().expect("no test panics while it holds this");
        let expected = (seen.arrivals.len() + 1).to_string();
        if line != expected && seen.wrong.is_none() {
            seen.wrong = Some(format!("{line:?} instead of {expected}"));
        }
        seen.arrivals.push(now());
    }
}
