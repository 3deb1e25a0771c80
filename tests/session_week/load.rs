//! The traffic of a session: keys, lines of output, sometimes a burst.

use crate::chance::Chance;
use std::time::Duration;

const HOUR: u64 = 3600;
const BURST: usize = 400_000;

/// The habits of a user.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// Most seconds between two commands.
    pub(crate) commands: usize,
    /// Most milliseconds between two lines of output.
    pub(crate) lines: usize,
    /// The same in the busy hour of each day.
    pub(crate) busy_lines: usize,
    /// Percentage of lines that are bursts.
    pub(crate) bursts: usize,
}

/// A user who leaves a terminal open, one who watches a log, one who works.
pub(crate) const HABITS: [Habits; 3] = [
    Habits {
        commands: 40_000,
        lines: 90_000_000,
        busy_lines: 90_000_000,
        bursts: 0,
    },
    Habits {
        commands: 7200,
        lines: 120_000,
        busy_lines: 2500,
        bursts: 0,
    },
    Habits {
        commands: 1200,
        lines: 1_800_000,
        busy_lines: 30_000,
        bursts: 10,
    },
];

pub(crate) struct Load {
    habits: Habits,
    until: Duration,
    key: Duration,
    line: Duration,
}

impl Load {
    pub(crate) fn new(habits: Habits) -> Load {
        Load {
            habits,
            until: Duration::ZERO,
            key: Duration::ZERO,
            line: Duration::ZERO,
        }
    }

    pub(crate) fn from(self, now: Duration, until: Duration) -> Load {
        Load {
            until,
            key: now,
            line: now,
            ..self
        }
    }

    pub(crate) fn next_key(&self) -> Option<Duration> {
        (self.key < self.until).then_some(self.key)
    }

    pub(crate) fn next_output(&self) -> Option<Duration> {
        (self.line < self.until).then_some(self.line)
    }

    /// Bytes that the client's and the server's pipe produce now. Users type little while nothing answers.
    pub(crate) fn poll(&mut self, now: Duration, is_awake: bool, is_racing: bool, chance: &mut Chance) -> [u64; 2] {
        let mut given = [0, 0];
        if is_awake && self.next_key().is_some_and(|key| key <= now) {
            given[0] = 1;
            let pause = match chance.percent(80) && !is_racing {
                true => 60 + chance.below(900),
                false => 1000 * (1 + chance.below(self.habits.commands)) * if is_racing { 5 } else { 1 },
            };
            self.key = now + Duration::from_millis(pause as u64);
        }
        if self.next_output().is_some_and(|line| line <= now) {
            let is_busy = now.as_secs() / HOUR % 24 == 10;
            let most = if is_busy {
                self.habits.busy_lines
            } else {
                self.habits.lines
            };
            self.line = now + Duration::from_millis(1 + chance.below(most) as u64);
            let is_burst = chance.percent(self.habits.bursts);
            given[1] = if is_burst { chance.below(BURST) } else { 80 } as u64;
        }
        given
    }
}
