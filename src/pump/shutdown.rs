//! How a session ends: ssh sends a signal first, then its last bytes.

use std::time::{Duration, Instant};

/// ssh still writes after SIGHUP (measured: 96 bytes, then EOF).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the peer has to acknowledge them.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Shutdown {
    input_ends_itself: bool,
    drain_until: Option<Instant>,
    linger_until: Option<Instant>,
    why_no_output: Option<String>,
}

impl Shutdown {
    /// `input_ends_itself`: see [`super::PumpParts`].
    pub(super) fn new(input_ends_itself: bool) -> Shutdown {
        Shutdown {
            input_ends_itself,
            drain_until: None,
            linger_until: None,
            why_no_output: None,
        }
    }

    pub(super) fn handle_hang_up(&mut self, now: Instant) {
        self.drain_until.get_or_insert(now + DRAIN_TIMEOUT);
        self.why_no_output.get_or_insert("ssh has ended".to_owned());
        self.linger_until.get_or_insert(now + DRAIN_TIMEOUT + LINGER_TIMEOUT);
    }

    pub(super) fn handle_broken_pipe(&mut self, why: String, now: Instant) {
        if !self.input_ends_itself {
            self.drain_until.get_or_insert(now + DRAIN_TIMEOUT);
            // The user is gone, so nobody waits for an outage to end.
            self.linger_until.get_or_insert(now + DRAIN_TIMEOUT + LINGER_TIMEOUT);
        }
        self.why_no_output.get_or_insert(why);
    }

    /// Why the pipe accepts no more output; `None` while it does.
    pub(super) fn why_no_output(&self) -> Option<&str> {
        self.why_no_output.as_deref()
    }

    /// Whether the time for the pipe's last bytes is over.
    pub(super) fn is_drain_over(&mut self, now: Instant) -> bool {
        let over = self.drain_until.is_some_and(|until| until <= now);
        if over {
            self.drain_until = None;
        }
        over
    }

    /// Whether the time for the peer's acknowledgement is over.
    pub(super) fn is_linger_over(&self, now: Instant) -> bool {
        self.linger_until.is_some_and(|until| until <= now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.drain_until, self.linger_until].into_iter().flatten().min()
    }
}
