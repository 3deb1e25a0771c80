//! The shadow screen: what the terminal shows, as far as that is certain.
//!
//! An emulator without a window follows the output. Where terminals disagree with each other, the shadow cannot know what the
//! user's terminal shows: then it doubts the cursor, or rows, until they are certain again ([`Screen::is_certain`]).

mod doubt;
mod filter;

use alacritty_terminal::Term;
use alacritty_terminal::event::VoidListener;
use alacritty_terminal::grid::Dimensions;
use alacritty_terminal::index::{Column, Line};
pub use alacritty_terminal::term::cell::Cell;
use alacritty_terminal::term::{Config, TermMode};
use alacritty_terminal::vte::ansi::{Processor, Timeout};

use crate::boundary::{StringLimit, character_end_apart};
use doubt::Doubts;
use filter::Filter;

/// The emulator panics below this width. A narrower terminal is always in doubt.
const MIN_COLUMNS: u16 = 2;

/// Columns that vim overwrites with blanks after its questions whether the terminal shows unknown sequences as text.
const PROBE_COLUMNS: usize = 11;

/// A position on the screen, from 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// From the top.
    pub row: u16,
    /// From the left.
    pub column: u16,
}

/// What the terminal shows.
///
/// ```
/// use bowline_terminal::Screen;
///
/// let mut screen = Screen::new(80, 24);
/// screen.handle_output(b"\x1b[2;1H$ ls");
/// assert_eq!(screen.row_text(1), "$ ls");
/// assert_eq!((screen.cursor().row, screen.cursor().column), (1, 4));
/// assert!(screen.is_certain());
/// ```
pub struct Screen {
    term: Term<VoidListener>,
    processor: Processor<NotHeldBack>,
    limit: StringLimit,
    doubts: Doubts,
    columns: u16,
    rows: u16,
}

/// Synchronized output (mode 2026) holds the display of the user's terminal back, never the shadow.
#[derive(Default)]
struct NotHeldBack;

impl Timeout for NotHeldBack {
    fn set_timeout(&mut self, _duration: std::time::Duration) {}

    fn clear_timeout(&mut self) {}

    fn pending_timeout(&self) -> bool {
        false
    }
}

struct Size {
    columns: usize,
    rows: usize,
}

impl Size {
    fn new(columns: u16, rows: u16) -> Self {
        Self {
            columns: columns.max(MIN_COLUMNS).into(),
            rows: rows.max(1).into(),
        }
    }
}

impl Dimensions for Size {
    fn total_lines(&self) -> usize {
        self.rows
    }

    fn screen_lines(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }
}

impl Screen {
    /// An empty screen. Its content is what a program writes from now on; see [`Self::doubt_everything`] for a terminal that
    /// shows something already.
    pub fn new(columns: u16, rows: u16) -> Self {
        let config = Config {
            scrolling_history: 0,
            ..Config::default()
        };
        Self {
            term: Term::new(config, &Size::new(columns, rows), VoidListener),
            processor: Processor::new(),
            limit: StringLimit::default(),
            doubts: Doubts::new(rows.max(1).into()),
            columns,
            rows,
        }
    }

    /// Takes output, in pieces of any size.
    pub fn handle_output(&mut self, bytes: &[u8]) {
        let mut filter = Filter::new(&mut self.term, &mut self.doubts);
        for part in character_end_apart(self.limit.parsed(bytes)) {
            self.processor.advance(&mut filter, part);
        }
    }

    /// A soft reset (DECSTR), which the emulator does not know.
    pub fn handle_soft_reset(&mut self) {
        Filter::new(&mut self.term, &mut self.doubts).reset_softly();
    }

    /// Takes a question that vim asks to find out whether the terminal shows it as text.
    pub(crate) fn handle_probe(&mut self) {
        if self.pen() != &Cell::default() {
            // Some take one of them for SGR.
            return self.doubt_everything();
        }
        Filter::new(&mut self.term, &mut self.doubts).doubt_text(PROBE_COLUMNS);
    }

    /// Takes a new size. Terminals move the content in different ways, so everything is in doubt.
    pub fn handle_resize(&mut self, columns: u16, rows: u16) {
        (self.columns, self.rows) = (columns, rows);
        self.term.resize(Size::new(columns, rows));
        filter::touch_rows(&mut self.term);
        self.doubts.resize(rows.max(1).into());
        self.doubt_everything();
    }

    /// Begins again after output that was not followed: `modes` brings an emulator to the modes after it. Everything is in
    /// doubt.
    pub(crate) fn handle_gap(&mut self, modes: &[u8]) {
        let scrolled = self.doubts.scrolled;
        *self = Self::new(self.columns, self.rows);
        self.handle_output(modes);
        // What was predicted before is nowhere now.
        self.doubts.scrolled = scrolled + u64::from(self.rows);
        self.doubt_everything();
    }

    /// Says that the terminal may show something else: in all rows, and with another cursor and pen.
    pub fn doubt_everything(&mut self) {
        self.doubts.everything();
    }

    /// Says that the terminal was painted from this shadow.
    pub fn trust_everything(&mut self) {
        self.doubts.nothing();
    }

    /// Says where the terminal has its cursor, with a pen that is as the shell gets it or as the server set it. If
    /// `is_empty_below`, the rows from a cursor in the first column on show nothing.
    pub fn place_cursor(&mut self, cursor: Position, is_empty_below: bool) {
        if cursor.row >= self.rows || cursor.column >= self.columns {
            return;
        }
        let place = &mut self.term.grid_mut().cursor;
        place.point.line = Line(cursor.row.into());
        place.point.column = Column(cursor.column.into());
        place.input_needs_wrap = false;
        // A report says nothing about a pending wrap.
        let may_wrap = cursor.column + 1 == self.columns;
        let first = usize::from(cursor.row) + usize::from(cursor.column > 0);
        self.doubts.cursor_placed(may_wrap, is_empty_below.then_some(first));
    }

    /// Columns of the terminal.
    pub fn columns(&self) -> u16 {
        self.columns
    }

    /// Rows of the terminal.
    pub fn rows(&self) -> u16 {
        self.rows
    }

    /// Where the next character appears. After the last column was written, this is the last column until the next
    /// character wraps ([`Self::is_wrap_pending`]).
    pub fn cursor(&self) -> Position {
        let point = self.term.grid().cursor.point;
        Position {
            row: u16::try_from(point.line.0).unwrap_or(0),
            column: u16::try_from(point.column.0).unwrap_or(0),
        }
    }

    /// Whether the next character goes to the next row.
    pub fn is_wrap_pending(&self) -> bool {
        self.term.grid().cursor.input_needs_wrap
    }

    /// The cell at a position, if the screen has it.
    pub fn cell(&self, position: Position) -> Option<&Cell> {
        let (row, column) = (usize::from(position.row), usize::from(position.column));
        let grid = self.term.grid();
        let exists = row < grid.screen_lines() && column < grid.columns();
        exists.then(|| &grid[Line(i32::from(position.row))][Column(column)])
    }

    /// The attributes that the next character gets.
    pub fn pen(&self) -> &Cell {
        &self.term.grid().cursor.template
    }

    /// The text of a row, without blanks at its end.
    pub fn row_text(&self, row: u16) -> String {
        let cells = (0..self.columns).filter_map(|column| self.cell(Position { row, column }));
        let text: String = cells
            .filter(|cell| !is_spacer(cell))
            .flat_map(|cell| std::iter::once(cell.c).chain(cell.zerowidth().unwrap_or_default().iter().copied()))
            .collect();
        text.replace('\t', " ").trim_end().to_owned()
    }

    /// Whether the program shows the cursor.
    pub fn is_cursor_visible(&self) -> bool {
        self.term.mode().contains(TermMode::SHOW_CURSOR)
    }

    /// Whether the alternate screen is shown.
    pub fn is_alternate(&self) -> bool {
        self.term.mode().contains(TermMode::ALT_SCREEN)
    }

    /// How many rows the whole screen has moved up since the beginning: what was in row 5 is in row 3 two later.
    pub fn scrolled(&self) -> u64 {
        self.doubts.scrolled
    }

    /// Whether the terminal has its cursor here, and shows the cursor's row as it is here.
    pub fn is_certain(&self) -> bool {
        self.is_cursor_certain() && self.is_row_certain(self.cursor().row)
    }

    /// Whether the terminal has its cursor, and its pen, as they are here.
    pub fn is_cursor_certain(&self) -> bool {
        self.columns >= MIN_COLUMNS && self.rows > 0 && self.doubts.is_cursor_certain()
    }

    /// Whether the terminal shows this row as it is here.
    pub fn is_row_certain(&self, row: u16) -> bool {
        self.columns >= MIN_COLUMNS && row < self.rows && self.doubts.is_row_certain(row.into())
    }
}

/// Whether a cell belongs to a wide character that begins elsewhere.
pub fn is_spacer(cell: &Cell) -> bool {
    use alacritty_terminal::term::cell::Flags;
    cell.flags.contains(Flags::WIDE_CHAR_SPACER)
}

/// Whether a cell has the first half of a wide character.
pub fn is_wide(cell: &Cell) -> bool {
    use alacritty_terminal::term::cell::Flags;
    cell.flags.contains(Flags::WIDE_CHAR)
}

/// Whether a cell shows no character.
pub fn is_blank(cell: &Cell) -> bool {
    matches!(cell.c, ' ' | '\t' | '\u{a0}') && cell.zerowidth().is_none_or(<[char]>::is_empty) && !is_spacer(cell)
}

#[cfg(test)]
mod tests;
