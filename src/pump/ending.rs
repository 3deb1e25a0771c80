//! The end as ssh really brings it about: a signal first, then the last bytes.

use std::time::{Duration, Instant};

/// ssh says its last words right after SIGHUP (measured: 96 bytes and EOF were still to come).
const DRAIN: Duration = Duration::from_secs(1);
/// How long the peer has to confirm them.
const LINGER: Duration = Duration::from_secs(2);

pub(super) struct Ending {
    input_ends_itself: bool,
    drain_until: Option<Instant>,
    linger_until: Option<Instant>,
    why_no_output: Option<String>,
}

impl Ending {
    /// `input_ends_itself`: see [`super::PumpParts`].
    pub(super) fn new(input_ends_itself: bool) -> Ending {
        Ending {
            input_ends_itself,
            drain_until: None,
            linger_until: None,
            why_no_output: None,
        }
    }

    pub(super) fn handle_hang_up(&mut self, now: Instant) {
        self.drain_until.get_or_insert(now + DRAIN);
        self.why_no_output.get_or_insert("ssh has ended".to_owned());
        self.linger_until.get_or_insert(now + DRAIN + LINGER);
    }

    pub(super) fn handle_broken_pipe(&mut self, why: String, now: Instant) {
        if !self.input_ends_itself {
            self.drain_until.get_or_insert(now + DRAIN);
            // Nobody is there any more who would wait for an outage to end.
            self.linger_until.get_or_insert(now + DRAIN + LINGER);
        }
        self.why_no_output.get_or_insert(why);
    }

    /// Why the pipe takes no more; `None` while it does.
    pub(super) fn why_no_output(&self) -> Option<&str> {
        self.why_no_output.as_deref()
    }

    /// Whether the pipe had its time to say more.
    pub(super) fn is_drain_over(&mut self, now: Instant) -> bool {
        let over = self.drain_until.is_some_and(|until| until <= now);
        if over {
            self.drain_until = None;
        }
        over
    }

    /// Whether the peer had its time to confirm.
    pub(super) fn is_linger_over(&self, now: Instant) -> bool {
        self.linger_until.is_some_and(|until| until <= now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.drain_until, self.linger_until].into_iter().flatten().min()
    }
}
