//! A user who types: how long each key takes to come back.

use crate::support::now;
use crate::support::process::Running;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use std::io::{Read, Write};
use std::process::{ChildStdin, ChildStdout};
use std::thread::sleep;
use std::time::Duration;

/// Between two keys. No divisor of what QUIC waits for, so that keys meet its timers at any moment.
const PAUSE: Duration = Duration::from_millis(113);

/// A session whose other end sends back what it is given.
pub struct Typist {
    running: Running,
    stdin: ChildStdin,
    stdout: ChildStdout,
}

/// How long the keys took, in order of that.
pub struct Echoes(Vec<Duration>);

impl Typist {
    /// Logs in.
    ///
    /// # Panics
    /// When the first key does not come back.
    pub fn start(rig: &Rig) -> Typist {
        let (running, stdin, stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, "cat"]));
        let mut typist = Typist { running, stdin, stdout };
        typist.press(b'a');
        typist
    }

    /// Types so many keys, each once the one before is back.
    ///
    /// # Panics
    /// When one does not come back, or another.
    pub fn types(mut self, keys: usize) -> Echoes {
        let mut echoes: Vec<Duration> = (0..keys)
            .map(|n| {
                sleep(PAUSE);
                self.press(b'a' + (n % 26) as u8)
            })
            .collect();
        drop(self.stdin);
        self.running.finish(Duration::from_secs(30)).expect_code(0);
        echoes.sort();
        Echoes(echoes)
    }

    /// Types one key, and waits for it to come back.
    ///
    /// # Panics
    /// When it does not come back, or another.
    pub fn press(&mut self, key: u8) -> Duration {
        let start = now();
        self.stdin.write_all(&[key]).expect("ssh runs");
        let mut back = [0];
        let read = self.stdout.read_exact(&mut back);
        assert!(read.is_ok(), "{read:?}: {}", self.running.err_so_far());
        assert_eq!(back[0], key);
        start.elapsed()
    }
}

impl Echoes {
    /// What so many percent of the keys took at most.
    pub fn percentile(&self, percent: usize) -> Duration {
        let place = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0[place]
    }
}
