//! What a fuzzer feeds to a [`Display`]: output of a server, cut anywhere, between keys, link lines and resizes. It panics if
//! a promise is broken.
//!
//! Compiled for the unit tests, which replay the inputs of `fuzz/`, and with `--cfg fuzzing`; never for users. What a grammar
//! of usual programs finds is in `tests/verifier.rs`.

use std::time::{Duration, Instant};

use crate::screen::Cell;
use crate::{Display, Position, PredictMode, Screen, Settings};

/// Small: what is drawn shall meet the edges.
const SIZES: [(u16, u16); 8] = [(1, 1), (2, 1), (2, 2), (7, 3), (10, 1), (20, 4), (40, 6), (80, 24)];

/// The bytes below this are lengths of output, those from it on are other events.
const EVENTS: u8 = 0x80;

/// Output into the shadow screen. The first byte chooses the size; the others are steps: the length of a piece of output and
/// the piece, or an event.
///
/// # Panics
/// If the terminal shows something else than the server wrote, but for the cells of the overlay, or if the shadow of the
/// pieces is another one than that of the whole.
pub fn terminal_output(input: &[u8]) {
    let Some((first, steps)) = input.split_first() else {
        return;
    };
    let mut run = Run::new(SIZES[usize::from(*first) % SIZES.len()]);
    let mut rest = steps;
    while let Some((step, after)) = rest.split_first() {
        rest = after;
        if *step < EVENTS {
            let (piece, after) = rest.split_at(usize::from(*step).min(rest.len()));
            rest = after;
            run.output(piece);
        } else {
            run.event(*step);
        }
    }
    run.finish();
}

struct Run {
    display: Display,
    /// What a terminal shows that gets all that is written, and one that gets only what the server wrote.
    outer: Display,
    plain: Display,
    /// All output, as long as the size is the first one.
    whole: Option<Vec<u8>>,
    size: (u16, u16),
    now: Instant,
    offset: u64,
}

impl Run {
    #[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    fn new(size: (u16, u16)) -> Self {
        let mut display = with_overlays(size, true);
        display.handle_cleared();
        display.handle_login();
        display.set_rtt(Duration::from_millis(200));
        Self {
            display,
            outer: with_overlays(size, false),
            plain: with_overlays(size, false),
            whole: Some(Vec::new()),
            size,
            now: Instant::now(),
            offset: 0,
        }
    }

    fn output(&mut self, piece: &[u8]) {
        self.plain.handle_server_output(piece, self.now);
        if let Some(whole) = &mut self.whole {
            whole.extend_from_slice(piece);
        }
        let written = self.display.handle_server_output(piece, self.now);
        self.show(&written);
    }

    fn event(&mut self, step: u8) {
        let keys: [&[u8]; 8] = [
            b"a",
            b" ",
            "é".as_bytes(),
            "漢".as_bytes(),
            b"\x7f",
            b"\x1b[D",
            b"\x1b[C",
            b"\r",
        ];
        let lines = [None, Some("no answer for 4 s"), Some("漢字 zurück"), Some("x")];
        let choice = usize::from(step & 0x0f);
        let written = match step >> 4 {
            0x8 | 0x9 => {
                let key = keys[choice % keys.len()];
                self.offset += key.len() as u64;
                self.display.handle_key(key, self.offset, self.now)
            }
            0xa => {
                self.display.handle_acknowledged(self.offset, self.now);
                self.display.handle_timeout(self.now)
            }
            0xb => {
                let line = lines[choice % lines.len()];
                self.display.set_link_line(line.map(str::to_owned), self.now)
            }
            0xc => self.display.hide(),
            0xd => {
                self.resize(SIZES[choice % SIZES.len()]);
                return;
            }
            0xe => {
                self.display.handle_link(choice % 2 == 0, self.now);
                self.display.handle_timeout(self.now)
            }
            _ => {
                self.now += Duration::from_millis(40 * choice as u64);
                self.display.handle_timeout(self.now)
            }
        };
        self.show(&written);
        self.check();
    }

    /// A terminal moves an overlay in ways of its own, so it is hidden before.
    fn resize(&mut self, (columns, rows): (u16, u16)) {
        let hidden = self.display.hide();
        self.show(&hidden);
        self.size = (columns, rows);
        self.whole = None;
        for terminal in [&mut self.outer, &mut self.plain] {
            terminal.handle_resize(columns, rows, self.now);
        }
        let written = self.display.handle_resize(columns, rows, self.now);
        self.show(&written);
        self.check();
    }

    fn show(&mut self, written: &[u8]) {
        self.outer.handle_server_output(written, self.now);
    }

    fn check(&self) {
        let (columns, rows) = self.size;
        let cursor = self.display.screen().cursor();
        assert!(cursor.row < rows.max(1) && cursor.column < columns.max(2), "{cursor:?}");
        let mut covered = self.display.covered().iter().peekable();
        for position in (0..rows).flat_map(|row| (0..columns).map(move |column| Position { row, column })) {
            if covered.next_if(|at| **at == position).is_none() {
                let [outer, plain] = [&self.outer, &self.plain].map(|terminal| terminal.screen().cell(position));
                assert!(
                    is_same(outer, plain),
                    "{position:?} of {columns}x{rows}: {outer:?} and not {plain:?}"
                );
            }
        }
        assert_eq!(covered.next(), None, "an overlay outside of the screen");
    }

    fn finish(mut self) {
        let hidden = self.display.hide();
        self.show(&hidden);
        self.check();
        assert_eq!(state(self.outer.screen()), state(self.plain.screen()));
        if let Some(whole) = &self.whole {
            let mut at_once = with_overlays(self.size, false);
            at_once.handle_server_output(whole, self.now);
            for row in 0..self.size.1 {
                assert_eq!(at_once.screen().row_text(row), self.plain.screen().row_text(row));
            }
            assert_eq!(state(at_once.screen()), state(self.plain.screen()));
            assert_eq!(at_once.restore(), self.plain.restore());
        }
        self.display.restore();
    }
}

fn with_overlays((columns, rows): (u16, u16), overlays: bool) -> Display {
    Display::new(Settings {
        columns,
        rows,
        overlays,
        predict: PredictMode::Always,
        ..Settings::default()
    })
}

fn is_same(one: Option<&Cell>, other: Option<&Cell>) -> bool {
    // The emulator notes where tabs were; terminals do not agree about that.
    let shown = |cell: &Cell| {
        let mut cell = cell.clone();
        if cell.c == '\t' {
            cell.c = ' ';
        }
        cell
    };
    one == other || one.map(shown) == other.map(shown)
}

fn state(screen: &Screen) -> String {
    let modes = (screen.is_cursor_visible(), screen.is_alternate());
    format!(
        "{:?} {} {:?} {modes:?}",
        screen.cursor(),
        screen.is_wrap_pending(),
        screen.pen()
    )
}

#[cfg(test)]
mod tests;
