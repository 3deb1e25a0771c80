//! A user who types the script, and what their terminal shows meanwhile.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use crate::grid::{Grid, Terminal};
use crate::script::{Part, Script};
use crate::sides::{PROMPT, Shell, plain_shell};
use crate::support::link::Rng;
use crate::support::now;
use crate::support::rig::Rig;

/// A key that is shown so soon is shown at once.
const AT_ONCE: Duration = Duration::from_millis(10);
/// Between two keys: 100 ms and up to 60 more.
const PAUSE_MS: u64 = 100;
const MORE_MS: u64 = 60;
/// A program is done when nothing was shown for so long, on loopback.
const QUIET: Duration = Duration::from_millis(120);
/// A user waits no longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the screen shows after each key, once all has come.
pub(crate) struct Reference {
    before: Grid,
    after: Vec<Grid>,
}

impl Reference {
    /// Types the script slowly where there is no delay.
    pub(crate) fn record(script: &Script, rig: &Rig) -> Reference {
        let mut terminal = plain_shell(rig).terminal;
        wait_for_prompt(&mut terminal);
        terminal.show_until(now() + QUIET);
        let before = terminal.grid();
        let after = script.0.iter().map(|key| {
            terminal.press(&key.bytes);
            let starts = key.waits && key.bytes == b"\r";
            // A program that starts is silent for a while, and every echo takes a moment.
            let mut end = now() + 5 * QUIET;
            while terminal.show_next(end) {
                let quiet = now() + QUIET;
                end = if starts { end.max(quiet) } else { quiet };
            }
            terminal.grid()
        });
        Reference {
            before,
            after: after.collect(),
        }
    }

    fn before(&self, key: usize) -> &Grid {
        key.checked_sub(1).map_or(&self.before, |before| &self.after[before])
    }

    /// The cells that a key changes.
    fn effect(&self, key: usize) -> Vec<usize> {
        let (before, after) = (self.before(key), &self.after[key]);
        (0..after.cells.len())
            .filter(|cell| before.cells[*cell] != after.cells[*cell])
            .collect()
    }

    /// Whether a screen shows what a key does; `None` if it does nothing.
    fn is_shown(&self, key: usize, grid: &Grid) -> Option<bool> {
        let (effect, after) = (self.effect(key), &self.after[key]);
        if effect.is_empty() {
            let moves = self.before(key).cursor != after.cursor;
            return moves.then_some(grid.cursor == after.cursor);
        }
        Some(effect.iter().all(|cell| grid.cells[*cell] == after.cells[*cell]))
    }
}

/// What was seen of a program.
#[derive(Default)]
pub(crate) struct Score {
    /// For each key that does something: where it was typed, and whether it was shown at once.
    keys: Vec<(Part, bool)>,
    wrong: usize,
    typed: usize,
    /// How often the screen did not become as it should, with patience.
    pub(crate) late_screens: usize,
}

impl Score {
    /// Percent of the keys that were shown at once.
    pub(crate) fn share(&self, part: Option<Part>) -> f64 {
        let keys = self.keys.iter().filter(|(at, _)| part.is_none_or(|part| part == *at));
        let (all, shown) = keys.fold((0, 0), |(all, shown), (_, is_shown)| {
            (all + 1, shown + u32::from(*is_shown))
        });
        100.0 * f64::from(shown) / f64::from(all.max(1))
    }

    pub(crate) fn wrong_per_thousand(&self) -> f64 {
        1000.0 * self.wrong as f64 / self.typed.max(1) as f64
    }
}

pub(crate) struct Typist<'a> {
    shell: Shell,
    reference: &'a Reference,
    /// For each cell what has been there for a while until now, in truth.
    history: Vec<HashSet<char>>,
    shown: Grid,
    score: Score,
}

impl<'a> Typist<'a> {
    pub(crate) fn log_in(shell: Shell, reference: &'a Reference) -> Typist<'a> {
        let mut shell = shell;
        wait_for_prompt(&mut shell.terminal);
        // mosh may have shown something else before.
        let history = reference.before.cells.iter().map(|cell| HashSet::from([*cell, ' ']));
        Typist {
            shown: shell.terminal.grid(),
            shell,
            reference,
            history: history.collect(),
            score: Score::default(),
        }
    }

    pub(crate) fn types(mut self, script: &Script) -> Score {
        let mut pauses = Rng::new(7);
        for (number, key) in script.0.iter().enumerate() {
            for (cell, known) in self.reference.after[number].cells.iter().zip(&mut self.history) {
                known.insert(*cell);
            }
            let start = now();
            self.shell.terminal.press(&key.bytes);
            self.look_until(start + AT_ONCE, key.part);
            if let Some(part) = key.part {
                self.score.typed += 1;
                let is_shown = self.reference.is_shown(number, &self.shown);
                self.score.keys.extend(is_shown.map(|is_shown| (part, is_shown)));
            }
            let pause = Duration::from_millis(PAUSE_MS + pauses.draw() % MORE_MS);
            self.look_until(start + pause, key.part);
            if key.waits {
                self.wait_for(number, key.part);
            }
        }
        self.score
    }

    /// Looks at each change of the screen.
    fn look_until(&mut self, end: std::time::Instant, part: Option<Part>) {
        while self.shell.terminal.show_next(end) {
            let grid = self.shell.terminal.grid();
            let changes = grid.cells.iter().zip(&self.shown.cells).zip(&self.history);
            let wrong = changes.filter(|((now, before), known)| now != before && !known.contains(now));
            let wrong = wrong.count();
            if part.is_some() {
                self.score.wrong += wrong;
                if wrong > 5 && std::env::var_os("BOWLINE_BENCH_SCREENS").is_some() {
                    println!(
                        "{part:?} after {} keys: {wrong} wrong cells:\n{}",
                        self.score.typed,
                        grid.text()
                    );
                }
            }
            self.shown = grid;
        }
    }

    fn wait_for(&mut self, number: usize, part: Option<Part>) {
        let end = now() + PATIENCE;
        while self.shown != self.reference.after[number] {
            if now() >= end {
                self.score.late_screens += 1;
                if std::env::var_os("BOWLINE_BENCH_SCREENS").is_some() {
                    println!("key {number}, shown:\n{}", self.shell.terminal.contents());
                    println!("wanted:\n{}", self.reference.after[number].text());
                    println!(
                        "cursor {:?}, not {:?}",
                        self.shown.cursor, self.reference.after[number].cursor
                    );
                }
                return;
            }
            self.look_until(now() + Duration::from_millis(20), part);
        }
        // A user needs a moment to see it.
        thread::sleep(Duration::from_millis(PAUSE_MS));
    }
}

/// # Panics
/// When none comes, with what the screen shows.
fn wait_for_prompt(terminal: &mut Terminal) {
    let end = now() + PATIENCE;
    while !terminal.contents().trim_end().ends_with(PROMPT.trim_end()) {
        assert!(now() < end, "no prompt: {}", terminal.contents());
        terminal.show_next(now() + Duration::from_millis(50));
    }
}
