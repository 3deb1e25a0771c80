//! The display verifier: whatever the server writes, and whatever is drawn over it, the terminal shows what the server's
//! bytes alone would show, but for the cells of the overlay.
//!
//! Each run makes random steps: output, keys, echoes, acknowledgements, link lines, resizes. `BOWLINE_VERIFIER_STEPS` sets their
//! number (10,000 unless given), `BOWLINE_VERIFIER_SEED` the first program.

#![allow(missing_docs, reason = "a test suite")]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bowline_terminal::screen::Cell;
use bowline_terminal::{Display, Position, PredictMode, Settings};

/// Numbers that are the same in each run: SplitMix64, by Steele, Lea and Flood.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap_or(0)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A terminal as the judge sees it.
trait Emulator {
    const SIZES: &[(u16, u16)];
    /// Whether the screen has to be empty when it is resized.
    const IS_CLEARED_AT_RESIZE: bool;

    fn new(columns: u16, rows: u16) -> Self;
    fn handle_output(&mut self, bytes: &[u8], now: Instant);
    fn resize(&mut self, columns: u16, rows: u16, now: Instant);
    fn is_same(&self, other: &Self, position: Position) -> bool;
    /// All that a cell shows.
    fn cell(&self, position: Position) -> String;
    /// Cursor, pen, modes.
    fn state(&self) -> String;
    /// The cursor alone is part of the overlay while it is visible.
    fn pen(&self) -> String;
}

/// The emulator of the shadow screen, without an overlay: it shows whether all that is drawn is taken away again.
impl Emulator for Display {
    const IS_CLEARED_AT_RESIZE: bool = false;
    const SIZES: &[(u16, u16)] = &[(1, 1), (2, 1), (2, 2), (7, 3), (10, 1), (20, 4), (40, 6)];

    fn new(columns: u16, rows: u16) -> Self {
        Display::new(Settings {
            columns,
            rows,
            overlays: false,
            ..Settings::default()
        })
    }

    fn handle_output(&mut self, bytes: &[u8], now: Instant) {
        self.handle_server_output(bytes, now);
    }

    fn resize(&mut self, columns: u16, rows: u16, now: Instant) {
        self.handle_resize(columns, rows, now);
    }

    fn is_same(&self, other: &Self, position: Position) -> bool {
        let (cell, other) = (self.screen().cell(position), other.screen().cell(position));
        cell == other || cell.map(shown) == other.map(shown)
    }

    fn cell(&self, position: Position) -> String {
        self.screen().cell(position).map_or_else(String::new, shown)
    }

    fn state(&self) -> String {
        let screen = self.screen();
        let modes = (
            screen.is_cursor_visible(),
            screen.is_alternate(),
            self.modes().is_bracketed_paste(),
        );
        format!("{:?} {} {modes:?}", screen.cursor(), screen.is_wrap_pending())
    }

    fn pen(&self) -> String {
        shown(self.screen().pen())
    }
}

fn shown(cell: &Cell) -> String {
    // The emulator notes where tabs were; terminals do not agree about that.
    let character = if cell.c == '\t' { ' ' } else { cell.c };
    let marks: Vec<char> = cell.zerowidth().unwrap_or_default().to_vec();
    let link = cell.hyperlink().map(|link| link.uri().to_owned());
    format!(
        "{character:?} {marks:?} {:?} {:?} {:?} {:?} {link:?}",
        cell.fg,
        cell.bg,
        cell.flags,
        cell.underline_color()
    )
}

impl Emulator for vt100::Parser {
    // It keeps halves of wide characters at the new margin, and panics later.
    const IS_CLEARED_AT_RESIZE: bool = true;
    // It panics on a single row that wraps, and if a wide character has no room in a row.
    const SIZES: &[(u16, u16)] = &[(7, 3), (20, 4), (40, 6)];

    fn new(columns: u16, rows: u16) -> Self {
        vt100::Parser::new(rows, columns, 0)
    }

    fn handle_output(&mut self, bytes: &[u8], _now: Instant) {
        // The parser below it loses characters if one is split and another follows: the end of the first goes alone.
        let end = bytes
            .iter()
            .take(3)
            .take_while(|byte| (0x80..=0xbf).contains(*byte))
            .count();
        self.process(&bytes[..end]);
        self.process(&bytes[end..]);
    }

    fn resize(&mut self, columns: u16, rows: u16, _now: Instant) {
        self.screen_mut().set_size(rows, columns);
    }

    fn is_same(&self, other: &Self, position: Position) -> bool {
        let at = |parser: &Self| parser.screen().cell(position.row, position.column).cloned();
        at(self) == at(other) || self.cell(position) == other.cell(position)
    }

    fn cell(&self, position: Position) -> String {
        self.screen()
            .cell(position.row, position.column)
            .map_or_else(String::new, |cell| {
                // It tells erased cells from blanks, which look the same.
                let contents = if cell.has_contents() { cell.contents() } else { " " };
                format!(
                    "{contents:?} {:?} {:?} {} {} {} {}",
                    cell.fgcolor(),
                    cell.bgcolor(),
                    cell.bold(),
                    cell.italic(),
                    cell.underline(),
                    cell.inverse()
                )
            })
    }

    fn state(&self) -> String {
        let screen = self.screen();
        format!(
            "{:?} {} {}",
            screen.cursor_position(),
            screen.hide_cursor(),
            screen.alternate_screen()
        )
    }

    fn pen(&self) -> String {
        let screen = self.screen();
        format!(
            "{:?} {:?} {} {}",
            screen.fgcolor(),
            screen.bgcolor(),
            screen.bold(),
            screen.inverse()
        )
    }
}

/// A display, the terminal below it, and a terminal that gets the server's bytes alone.
struct Run<E> {
    numbers: Numbers,
    display: Display,
    outer: E,
    plain: E,
    columns: u16,
    rows: u16,
    now: Instant,
    offset: u64,
    /// Output of the server that comes in pieces.
    queue: Vec<u8>,
    steps: Steps,
    /// The last steps, for a report.
    log: VecDeque<String>,
    program: fn(&mut Numbers) -> Vec<u8>,
}

/// How often something was checked.
#[derive(Debug, Default)]
struct Steps {
    all: usize,
    visible: usize,
    covered: usize,
}

/// Mostly small: what is drawn shall meet the edges.
fn size<E: Emulator>(numbers: &mut Numbers) -> (u16, u16) {
    match numbers.below(60) {
        0 => (5000, 2),
        1..=3 => (80, 24),
        _ => numbers.pick(E::SIZES),
    }
}

impl<E: Emulator> Run<E> {
    #[allow(clippy::disallowed_methods, reason = "virtual time begins somewhere")]
    fn new(seed: u64, program: fn(&mut Numbers) -> Vec<u8>) -> Self {
        let mut numbers = Numbers(seed);
        let (columns, rows) = size::<E>(&mut numbers);
        let mut display = Display::new(Settings {
            columns,
            rows,
            predict: PredictMode::Always,
            ..Settings::default()
        });
        display.handle_cleared();
        display.handle_login();
        display.set_rtt(Duration::from_millis(200));
        Self {
            numbers,
            display,
            outer: E::new(columns, rows),
            plain: E::new(columns, rows),
            columns,
            rows,
            now: Instant::now(),
            offset: 0,
            queue: Vec::new(),
            steps: Steps::default(),
            log: VecDeque::new(),
            program,
        }
    }

    fn step(&mut self) {
        let written = match self.numbers.below(12) {
            0..=3 => self.output(),
            4..=6 => self.key(),
            7 => self.acknowledge(),
            8 => self.link_line(),
            9 if self.numbers.below(12) == 0 => self.resize(),
            _ => {
                self.now += Duration::from_millis(self.numbers.below(300) as u64);
                self.display.handle_timeout(self.now)
            }
        };
        self.outer.handle_output(&written, self.now);
        self.note("written", &written);
        self.check();
        if self.numbers.below(2) == 0 {
            let written = self.display.hide();
            self.outer.handle_output(&written, self.now);
            self.note("hidden", &written);
            self.check();
        }
    }

    fn note(&mut self, what: &str, bytes: &[u8]) {
        if self.log.len() == 200 {
            self.log.pop_front();
        }
        self.log.push_back(format!("{what} {}", bytes.escape_ascii()));
    }

    fn output(&mut self) -> Vec<u8> {
        if self.queue.is_empty() || self.numbers.below(3) == 0 {
            let more = (self.program)(&mut self.numbers);
            self.queue.extend(more);
        }
        let count = if self.numbers.below(3) == 0 {
            self.queue.len()
        } else {
            1 + self.numbers.below(self.queue.len())
        };
        let piece: Vec<u8> = self.queue.drain(..count).collect();
        self.note("plain", &piece);
        self.plain.handle_output(&piece, self.now);
        self.display.handle_server_output(&piece, self.now)
    }

    fn key(&mut self) -> Vec<u8> {
        let keys: &[&[u8]] = &[
            b"a",
            b"b",
            b"z",
            b" ",
            "é".as_bytes(),
            "漢".as_bytes(),
            b"\x7f",
            b"\x1b[D",
            b"\x1b[C",
            b"\r",
            b"\x08",
        ];
        let key = if self.numbers.below(3) > 0 {
            self.numbers.pick(&keys[..6])
        } else {
            self.numbers.pick(keys)
        };
        self.offset += key.len() as u64;
        // Mostly the server echoes it, behind what it has to say already.
        if self.numbers.below(5) > 0 {
            let echo: &[u8] = match key {
                b"\x7f" | b"\x08" => b"\x08 \x08",
                b"\x1b[D" => b"\x08",
                b"\r" => b"\r\n",
                other => other,
            };
            self.queue.extend_from_slice(echo);
        }
        self.display.handle_key(key, self.offset, self.now)
    }

    fn acknowledge(&mut self) -> Vec<u8> {
        // What the server has written is displayed before.
        let piece = std::mem::take(&mut self.queue);
        self.note("plain", &piece);
        self.plain.handle_output(&piece, self.now);
        let mut written = self.display.handle_server_output(&piece, self.now);
        self.display.handle_acknowledged(self.offset, self.now);
        self.now += Duration::from_millis(60);
        written.extend(self.display.handle_timeout(self.now));
        written
    }

    fn link_line(&mut self) -> Vec<u8> {
        let line = self
            .numbers
            .pick(&[None, Some("bowline: no answer for 4 s"), Some("漢字 zurück"), Some("x")]);
        self.display.set_link_line(line.map(str::to_owned), self.now)
    }

    /// Below a visible overlay the terminal is painted again, which plain ssh does not do: so it is hidden before.
    fn resize(&mut self) -> Vec<u8> {
        if E::IS_CLEARED_AT_RESIZE {
            let clear = b"\x1b[m\x1b[2J\x1b[H";
            self.plain.handle_output(clear, self.now);
            let written = self.display.handle_server_output(clear, self.now);
            self.outer.handle_output(&written, self.now);
        }
        let written = self.display.hide();
        self.outer.handle_output(&written, self.now);
        (self.columns, self.rows) = size::<E>(&mut self.numbers);
        self.outer.resize(self.columns, self.rows, self.now);
        self.plain.resize(self.columns, self.rows, self.now);
        self.display.handle_resize(self.columns, self.rows, self.now)
    }

    fn check(&mut self) {
        let is_visible = self.display.is_overlay_visible();
        self.steps.all += 1;
        self.steps.visible += usize::from(is_visible);
        self.steps.covered += usize::from(!self.display.covered().is_empty());
        let mut covered = self.display.covered().iter().peekable();
        for row in 0..self.rows {
            for column in 0..self.columns {
                let position = Position { row, column };
                if covered.next_if(|at| **at == position).is_some() || self.outer.is_same(&self.plain, position) {
                    continue;
                }
                let (outer, plain) = (self.outer.cell(position), self.plain.cell(position));
                panic!(
                    "{position:?} of {}x{}: {outer} and not {plain}",
                    self.columns, self.rows
                );
            }
        }
        assert_eq!(self.outer.pen(), self.plain.pen());
        if !is_visible {
            assert_eq!(self.outer.state(), self.plain.state(), "{}x{}", self.columns, self.rows);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn verify<E: Emulator>(program: fn(&mut Numbers) -> Vec<u8>) {
    let wanted = usize::try_from(number("BOWLINE_VERIFIER_STEPS", 10_000)).unwrap_or(usize::MAX);
    let mut seed = number("BOWLINE_VERIFIER_SEED", 1);
    let mut total = Steps::default();
    while total.all < wanted {
        let mut run = Run::<E>::new(seed, program);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..200).for_each(|_| run.step());
        }));
        if let Err(cause) = result {
            let message = cause.downcast_ref::<String>().cloned().unwrap_or_default();
            let log: Vec<String> = run.log.into_iter().collect();
            panic!("seed {seed}, after {:?}: {message}\n{}", run.steps, log.join("\n"));
        }
        total.all += run.steps.all;
        total.visible += run.steps.visible;
        total.covered += run.steps.covered;
        seed += 1;
    }
    // A verifier that never draws verifies nothing.
    assert!(total.visible * 20 > total.all, "{total:?}");
    assert!(total.covered * 20 > total.all, "{total:?}");
}

const WORDS: &[&str] = &[
    "ls -l",
    "x",
    "some text that is longer",
    "漢字",
    "é",
    "e\u{301}",
    "a漢b",
    "  ",
    "👍",
];

fn sgr(numbers: &mut Numbers) -> String {
    let codes = [
        "0",
        "1",
        "3",
        "4",
        "7",
        "31",
        "42",
        "97",
        "104",
        "38;5;200",
        "48;2;1;2;3",
        "22",
        "27",
        "39;49",
    ];
    format!("\x1b[{}m", numbers.pick(&codes))
}

/// Anything that a program may write.
fn any_program(numbers: &mut Numbers) -> Vec<u8> {
    let mut text = String::new();
    let kinds = numbers.pick(&[14, 14, 14, 25]);
    for _ in 0..1 + numbers.below(6) {
        let kind = numbers.below(kinds);
        text.push_str(&if kind < 14 {
            usual_piece(kind, numbers)
        } else {
            odd_piece(kind, numbers)
        });
    }
    text.into_bytes()
}

const EVERYTHING_RESET: &str = "\x1b(B\x0f\x1b[4l\x1b[?6l\x1b[r\x1b[?7h\x1b[?2026l\x1b]8;;\x07\x1b[m\x1b[2J\x1b[H$ ";

fn usual_piece(kind: usize, numbers: &mut Numbers) -> String {
    let (first, second) = (numbers.below(9), numbers.below(30));
    match kind {
        0..=5 => numbers.pick(WORDS).to_owned(),
        6 => sgr(numbers),
        7 => format!("\x1b[{first};{second}H"),
        8 => numbers.pick(&["\r", "\n", "\x08", "\t", "\x07", "\r\n"]).to_owned(),
        9 => format!("\x1b[{}{}", numbers.below(3), numbers.pick(&['J', 'K'])),
        10 => format!(
            "\x1b[{first}{}",
            numbers.pick(&['A', 'B', 'C', 'D', 'E', 'F', 'G', 'd'])
        ),
        11 => format!("{}\x1b[{first}b", numbers.pick(&["r", "漢"])),
        12 => numbers.pick(&[EVERYTHING_RESET, "\x1b[m\x1b[2J\x1b[H$ "]).to_owned(),
        _ => "\r\n$ ".to_owned(),
    }
}

fn odd_piece(kind: usize, numbers: &mut Numbers) -> String {
    let first = numbers.below(9);
    match kind {
        14 | 15 => format!(
            "\x1b[{first}{}",
            numbers.pick(&['@', 'P', 'X', 'L', 'M', 'S', 'T', 'I', 'Z'])
        ),
        16 => format!("\x1b[{};{}r", numbers.below(4), numbers.below(9)),
        17 => numbers
            .pick(&["\x1b7", "\x1b8", "\x1bM", "\x1bD", "\x1bE", "\x1bH", "\x1b#8"])
            .to_owned(),
        18 | 19 => {
            let mode = numbers.pick(&[6, 7, 25, 47, 1047, 1049, 2004, 2026]);
            format!("\x1b[?{mode}{}", numbers.pick(&['h', 'l', 'l']))
        }
        20 => numbers
            .pick(&["\x1b(0", "\x1b(B", "\x1b)0", "\x0e", "\x0f", "\x1b(B"])
            .to_owned(),
        21 => numbers
            .pick(&["\x1b]8;;http://a\x07", "\x1b]8;;\x07", "\x1b]0;title\x1b\\"])
            .to_owned(),
        22 => numbers
            .pick(&["\x1b[4h", "\x1b[4l", "\x1b[!p", "\x1bc", "\x1b[5m", "\x1b[0m"])
            .to_owned(),
        _ => numbers
            .pick(&[
                "\u{2764}\u{fe0f}",
                "\u{1f44d}\u{1f3fd}",
                "\u{fffd}",
                "\x1bP0q#0~\x1b\\",
                "\x1bPzz\x1b\\",
                "\x1b[0%m\r           ",
            ])
            .to_owned(),
    }
}

/// What vt100 does as the shadow screen does.
fn simple_program(numbers: &mut Numbers) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..1 + numbers.below(6) {
        let (first, second) = (numbers.below(9), numbers.below(30));
        let piece = match numbers.below(14) {
            0..=5 => numbers.pick(&WORDS[..7]).to_owned(),
            // It scrolls without the background of the pen.
            6 => format!(
                "\x1b[{}m",
                numbers.pick(&["0", "1", "3", "4", "7", "31", "97", "38;5;200"])
            ),
            7 => format!("\x1b[{first};{second}H"),
            8..=9 => "\r\n$ ".to_owned(),
            10 => numbers.pick(&["\r", "\r\n", "\x07"]).to_owned(),
            11 => format!("\x1b[m\r\x1b[{}{}", numbers.below(3), numbers.pick(&['J', 'K'])),
            12 => numbers.pick(&["\x1b[?25l", "\x1b[?25h", "\x1b[?2004h"]).to_owned(),
            _ => "\x1b[m\x1b[2J\x1b[H$ ".to_owned(),
        };
        text.push_str(&piece);
    }
    text.into_bytes()
}

#[test]
fn the_terminal_shows_what_the_server_wrote_but_for_the_overlay() {
    verify::<Display>(any_program);
}

#[test]
fn another_emulator_says_the_same() {
    verify::<vt100::Parser>(simple_program);
}
