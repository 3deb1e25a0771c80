//! How long a running session takes to echo a keystroke, while a test does to the server half what it likes.
//!
//! ```ignore
//! let probe = EchoProbe::start(&rig);                 // ssh over the rig, logged in; a key each 20 ms from now on
//! let quiet = probe.watch(Duration::from_secs(2));    // the figures before the flood
//! let start = now();
//! flood(&rig);                                        // on this thread or on others
//! let flooded = probe.since(start);                   // keys typed since then, those still out included
//! measured("echo before and under a flood of X", format_args!("{quiet}; {flooded}"));
//! flooded.expect_p99_within(UNDISTURBED);             // 300 ms
//! probe.finish();                                     // every key came back once and in order, ssh ended with 0
//! ```
//!
//! Keys are typed on time whatever became of those before, so that a session that stands still for a second counts with
//! fifty slow keys, not with one. `EchoProbe::over` types into any program that gives back what it gets, such as
//! `bowline proxy` in front of a `TcpEcho`: no sshd then takes part in the figures.

use crate::support::process::Running;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::{now, wait_for};
use std::fmt::{self, Display};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, Command};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// What a running session's echo has to stay under, for 99 keys in a hundred, whatever strangers do.
pub const UNDISTURBED: Duration = Duration::from_millis(300);
/// Between two keys.
const KEY_EVERY: Duration = Duration::from_millis(20);
/// A login, and the last echo after whatever the test did.
const LIMIT: Duration = Duration::from_secs(30);

/// The running session.
pub struct EchoProbe {
    running: Running,
    keys: Arc<Mutex<Keys>>,
    stop: Arc<AtomicBool>,
    typist: JoinHandle<()>,
}

#[derive(Default)]
struct Keys {
    /// When each was typed, and when it came back.
    typed: Vec<(Instant, Option<Instant>)>,
    back: usize,
    /// The first line that is not the next key: lost, doubled or out of order.
    wrong: Option<String>,
}

/// What the keys of some time took.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    /// How many were typed.
    pub keys: usize,
    /// How many of them are still out; they count with their age.
    pub out: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub longest: Duration,
}

impl EchoProbe {
    /// Logs in over the rig and waits until echoes come.
    ///
    /// # Panics
    /// When none comes, with what ssh said.
    pub fn start(rig: &Rig) -> EchoProbe {
        EchoProbe::over(&mut rig.ssh.ssh(&[HOST, "cat"]))
    }

    /// The same through any program that gives back on stdout what it gets on stdin.
    ///
    /// # Panics
    /// When no echo comes, with what the program said.
    pub fn over(command: &mut Command) -> EchoProbe {
        let (running, stdin, stdout) = Running::start_piped(command);
        let (keys, stop) = (Arc::<Mutex<Keys>>::default(), Arc::<AtomicBool>::default());
        let (filled, typed, stopped) = (keys.clone(), keys.clone(), stop.clone());
        std::thread::spawn(move || read_echoes(stdout, &filled));
        let typist = std::thread::spawn(move || type_keys(stdin, &typed, &stopped));
        let probe = EchoProbe {
            running,
            keys,
            stop,
            typist,
        };
        let runs = wait_for(LIMIT, || (probe.held().back >= 5).then_some(()));
        assert!(runs.is_some(), "nothing is echoed: {}", probe.running.err_so_far());
        // Keys typed while it logged in are all back, and none of them is in anybody's figures.
        probe
    }

    /// The figures of the time from now on.
    pub fn watch(&self, time: Duration) -> Echo {
        let start = now();
        sleep(time);
        self.since(start)
    }

    /// The figures of all keys typed since a moment.
    ///
    /// # Panics
    /// When none was: it is a moment ago, or the session has ended.
    #[track_caller]
    pub fn since(&self, moment: Instant) -> Echo {
        let (keys, now) = (self.held(), now());
        let since = keys.typed.iter().filter(|(typed, _)| *typed >= moment);
        let mut times: Vec<Duration> = since
            .clone()
            .map(|(typed, back)| back.unwrap_or(now).saturating_duration_since(*typed))
            .collect();
        let out = since.filter(|(_, back)| back.is_none()).count();
        drop(keys);
        assert!(!times.is_empty(), "no key was typed: {}", self.running.err_so_far());
        times.sort();
        let percentile = |percent: usize| times[(times.len() - 1) * percent / 100];
        Echo {
            keys: times.len(),
            out,
            p50: percentile(50),
            p99: percentile(99),
            longest: percentile(100),
        }
    }

    /// Stops typing; insists that every key came back, once and in order, and that the session ends well.
    #[track_caller]
    pub fn finish(self) -> usize {
        self.stop.store(true, SeqCst);
        let typist = self.typist.join();
        let outcome = self.running.finish(LIMIT);
        assert!(typist.is_ok(), "the typist does not panic");
        let outcome = outcome.expect_code(0);
        let all_back = wait_for(LIMIT, || {
            let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            (keys.back == keys.typed.len()).then_some(keys.back)
        });
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(keys.wrong, None, "every key once and in order: {}", outcome.err());
        all_back.unwrap_or_else(|| panic!("{} of {} keys came back", keys.back, keys.typed.len()))
    }

    fn held(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Echo {
    /// Insists on the 99th percentile.
    #[track_caller]
    pub fn expect_p99_within(&self, limit: Duration) {
        assert!(self.p99 <= limit, "p99 above {limit:?}: {self}");
    }
}

impl Display for Echo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "{} keys, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms, {} still out",
            self.keys,
            ms(self.p50),
            ms(self.p99),
            ms(self.longest),
            self.out
        )
    }
}

/// Types numbers, a line each, until told to stop; the end of this is the end of the input.
fn type_keys(mut stdin: ChildStdin, keys: &Mutex<Keys>, stop: &AtomicBool) {
    let start = now();
    for number in 0.. {
        let due = start + KEY_EVERY * number;
        sleep(due.saturating_duration_since(now()));
        if stop.load(SeqCst) {
            return;
        }
        let mut held = keys.lock().unwrap_or_else(PoisonError::into_inner);
        held.typed.push((now(), None));
        drop(held);
        if stdin.write_all(format!("{number}\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn read_echoes(stdout: impl Read, keys: &Mutex<Keys>) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { return };
        let came = now();
        let mut held = keys.lock().unwrap_or_else(PoisonError::into_inner);
        let next = held.back;
        if line != next.to_string() || next >= held.typed.len() {
            held.wrong.get_or_insert(format!("{line:?} instead of {next}"));
            return;
        }
        held.typed[next].1 = Some(came);
        held.back += 1;
    }
}
