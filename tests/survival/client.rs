//! A client half without ssh: `bowline proxy`, with known bytes on its stdin and checked ones on its stdout.

use crate::support::flow::{End, Flow};
use crate::support::process::{Outcome, Running};
use crate::support::server_half::signal;
use crate::support::wait_for;
use rustix::process::Signal;
use std::io::Write;
use std::process::{ChildStdin, Command};
use std::sync::Arc;
use std::time::Duration;

/// A client that stands still for as long as this lives.
pub(crate) struct Hold(u32);

impl Drop for Hold {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

/// One running `bowline proxy` (or `ssh`); it ends with its owner.
pub(crate) struct Client {
    running: Running,
    stdin: Option<ChildStdin>,
    /// What it has put out.
    pub(crate) down: Arc<Flow>,
}

impl Client {
    /// Starts it; what comes out is checked against the pattern of this seed.
    pub(crate) fn start(command: Command, down_seed: u64) -> Client {
        Client::start_read_slowly(command, down_seed, || {})
    }

    /// The same, and each read waits for `pause` to return.
    pub(crate) fn start_read_slowly(
        mut command: Command,
        down_seed: u64,
        pause: impl FnMut() + Send + 'static,
    ) -> Client {
        let (running, stdin, stdout) = Running::start_piped(&mut command);
        let down = Arc::new(Flow::new(down_seed));
        let checked = down.clone();
        std::thread::spawn(move || checked.check_slowly(stdout, pause));
        Client {
            running,
            stdin: Some(stdin),
            down,
        }
    }

    /// Its stdin, for whoever sends from a thread of their own.
    ///
    /// # Panics
    /// When it was taken before.
    pub(crate) fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("its stdin is taken once")
    }

    /// Sends bytes; `false` when it takes no more.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> bool {
        let stdin = self.stdin.as_mut().expect("its stdin was not taken");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).is_ok()
    }

    /// Holds it, so that it neither reads nor acknowledges anything, until the hold is dropped.
    pub(crate) fn hold(&self) -> Hold {
        signal(self.running.id(), Signal::STOP);
        Hold(self.running.id())
    }

    /// Waits until so many bytes have come.
    #[track_caller]
    pub(crate) fn expect_bytes(&mut self, bytes: u64, limit: Duration) {
        let came = wait_for(limit, || {
            (self.down.bytes() >= bytes || self.down.end().is_some()).then_some(())
        });
        let got = self.down.bytes();
        assert!(
            came.is_some() && got >= bytes,
            "{got} of {bytes} bytes, end {:?}: {}",
            self.down.end(),
            self.running.err_so_far()
        );
        assert_eq!(self.down.wrong(), None, "the first wrong byte of {got}");
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        !self.running.ended(Duration::ZERO)
    }

    /// What it has said on stderr.
    pub(crate) fn said(&self) -> String {
        self.running.err_so_far()
    }

    /// Closes its stdin and waits for its end. Every byte was right up to there.
    #[track_caller]
    pub(crate) fn finish(mut self, limit: Duration) -> Outcome {
        drop(self.stdin.take());
        let end = self.down.end_within(limit);
        let outcome = self.running.finish(Duration::from_secs(10));
        assert_eq!(end, Some(End::Clean), "the end of its output: {}", outcome.err());
        assert_eq!(self.down.wrong(), None, "the first wrong byte of {}", self.down.bytes());
        outcome
    }
}
