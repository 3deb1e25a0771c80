//! A terminal of our own, as a user sees it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::tcsetwinsize;

use crate::support::now;
use crate::support::process::Running;
use crate::support::pty::{open_terminal, size};

const COLUMNS: u16 = 80;
const ROWS: u16 = 24;

/// What a screen shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Row by row.
    pub(crate) cells: Vec<char>,
    pub(crate) cursor: (u16, u16),
}

impl Grid {
    /// As text, for messages.
    pub(crate) fn text(&self) -> String {
        let rows = self.cells.chunks(COLUMNS.into());
        rows.map(|row| row.iter().collect::<String>().trim_end().to_owned() + "\n")
            .collect()
    }
}

/// A terminal with a program that leads its session.
pub(crate) struct Terminal {
    device: File,
    parser: vt100::Parser,
    _running: Running,
}

impl Terminal {
    /// Starts a program. `setsid` is setsid(1), where the program is to run.
    ///
    /// # Panics
    /// When the system has no terminal for us.
    pub(crate) fn start(mut setsid: Command, program: &Command) -> Terminal {
        let (ours, theirs) = open_terminal();
        tcsetwinsize(&theirs, size(COLUMNS, ROWS)).expect("a terminal");
        setsid
            .args(["--wait", "--ctty"])
            .arg(program.get_program())
            .args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => setsid.env(name, value),
                None => setsid.env_remove(name),
            };
        }
        let end = || theirs.try_clone().expect("a terminal");
        setsid.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm");
        let running = Running::spawn(&mut setsid);
        drop((theirs, setsid));
        Terminal {
            device: ours,
            parser: vt100::Parser::new(ROWS, COLUMNS, 0),
            _running: running,
        }
    }

    /// # Panics
    /// When the program has ended.
    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.device.write_all(keys).expect("a terminal");
    }

    /// Shows what comes until then; whether anything came.
    pub(crate) fn show_until(&mut self, end: Instant) -> bool {
        let mut has_come = false;
        while self.show_next(end) {
            has_come = true;
        }
        has_come
    }

    /// Shows what comes next, if it comes until then, with all that is there already.
    pub(crate) fn show_next(&mut self, end: Instant) -> bool {
        let mut wait = end.saturating_duration_since(now());
        let mut has_come = false;
        let mut buffer = vec![0; 65536];
        while self.is_readable(wait) {
            let Ok(count @ 1..) = self.device.read(&mut buffer) else {
                return has_come;
            };
            self.show(&buffer[..count]);
            (has_come, wait) = (true, Duration::ZERO);
        }
        has_come
    }

    /// Reads so many bytes without looking at them, apart from questions for the cursor.
    ///
    /// # Panics
    /// When fewer come.
    pub(crate) fn skip(&mut self, count: usize) {
        let mut buffer = vec![0; 65536];
        let mut missing = count;
        while missing > 0 {
            let read = self.device.read(&mut buffer).expect("more output");
            missing = missing.saturating_sub(read);
        }
    }

    fn is_readable(&self, wait: Duration) -> bool {
        let wait = Timespec::try_from(wait).expect("a limit of minutes at most");
        poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&wait)).is_ok_and(|count| count > 0)
    }

    fn show(&mut self, bytes: &[u8]) {
        const QUESTION: &[u8] = b"\x1b[6n";
        let mut rest = bytes;
        while let Some(at) = rest.windows(QUESTION.len()).position(|window| window == QUESTION) {
            self.parser.process(&rest[..at]);
            let (row, column) = self.parser.screen().cursor_position();
            self.press(format!("\x1b[{};{}R", row + 1, column + 1).as_bytes());
            rest = &rest[at + QUESTION.len()..];
        }
        self.parser.process(rest);
    }

    pub(crate) fn grid(&self) -> Grid {
        let screen = self.parser.screen();
        let cell = |row, column| {
            let cell = screen.cell(row, column);
            cell.and_then(|cell| cell.contents().chars().next()).unwrap_or(' ')
        };
        Grid {
            cells: (0..ROWS)
                .flat_map(|row| (0..COLUMNS).map(move |column| (row, column)))
                .map(|(row, column)| cell(row, column))
                .collect(),
            cursor: screen.cursor_position(),
        }
    }

    /// As text, for messages.
    pub(crate) fn contents(&self) -> String {
        self.parser.screen().contents()
    }
}
