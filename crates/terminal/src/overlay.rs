//! Draws cells over the screen of the terminal, and takes them away again.
//!
//! What is taken away is painted from the shadow screen. So nothing is drawn where the shadow is in doubt, or where the
//! terminal would need more than cursor addressing and attributes to get back what was there. The cursor, the pen, a pending
//! wrap and the character that REP would repeat are left as the server left them.

use std::io::Write as _;

use alacritty_terminal::term::cell::Flags;
use alacritty_terminal::vte::ansi::{Color, NamedColor};
use unicode_width::UnicodeWidthChar;

use crate::modes::ModeTracker;
use crate::screen::{Cell, Position, Screen, is_spacer, is_wide};

/// What is to be drawn over the screen. A wide character is one cell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Drawing {
    /// In the order of the screen.
    pub(crate) cells: Vec<(Position, Cell)>,
    pub(crate) cursor: Option<Position>,
}

/// What is drawn over the screen at present.
#[derive(Default)]
pub(crate) struct Overlay {
    shown: Drawing,
    /// Cells that show something else than the shadow screen, by their first column: what is drawn, and what it cut.
    covered: Vec<Position>,
}

impl Overlay {
    pub(crate) fn is_visible(&self) -> bool {
        self.shown != Drawing::default()
    }

    /// The overlay is not on the screen any more: the terminal was painted anew, or resized.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The cells that show something else than the shadow screen.
    pub(crate) fn covered(&self) -> &[Position] {
        &self.covered
    }

    /// Takes away what is shown. `screen` is as it was when it was drawn.
    pub(crate) fn erase(&mut self, screen: &Screen, modes: &ModeTracker, bytes: &mut Vec<u8>) {
        if !self.is_visible() {
            return;
        }
        let mut painter = Painter::new(bytes);
        for position in &self.covered {
            if let Some(cell) = screen.cell(*position) {
                painter.cell(*position, cell);
            }
        }
        painter.restore(screen, modes);
        *self = Self::default();
    }

    /// Shows `drawing` in place of what is shown, as far as it can be taken away again.
    pub(crate) fn draw(&mut self, drawing: Drawing, screen: &Screen, modes: &ModeTracker, bytes: &mut Vec<u8>) {
        let drawing = if can_draw(screen, modes) {
            possible(drawing, screen)
        } else {
            Drawing::default()
        };
        if drawing == self.shown {
            return;
        }
        self.erase(screen, modes, bytes);
        if drawing == Drawing::default() {
            return;
        }
        let covered = covered(&drawing, screen);
        let mut painter = Painter::new(bytes);
        for position in &covered {
            // Halves of wide characters that are cut become blanks, as no terminal shows halves.
            let blank = Cell::default();
            let is_cell = |(at, _): &&(Position, Cell)| at == position;
            let cell = drawing.cells.iter().find(is_cell).map_or(&blank, |(_, cell)| cell);
            if !is_second_half(*position, &drawing) {
                painter.cell(*position, cell);
            }
        }
        painter.restore(screen, modes);
        if let Some(cursor) = drawing.cursor {
            painter.go_to(cursor);
        }
        self.covered = covered;
        self.shown = drawing;
    }
}

/// Whether the terminal can be brought back to where the server left it.
fn can_draw(screen: &Screen, modes: &ModeTracker) -> bool {
    let is_ready = modes.is_between_sequences() && modes.is_plain() && screen.is_cursor_certain();
    is_ready && Restoration::new(screen, modes).is_some()
}

/// How the cursor comes back to its place.
enum Restoration {
    /// The server's last character is written once more: this brings a pending wrap back, and what REP repeats.
    Print(Position),
    Move,
}

impl Restoration {
    /// `None` if it is not possible.
    fn new(screen: &Screen, modes: &ModeTracker) -> Option<Self> {
        let cursor = screen.cursor();
        let last = match modes.last_printed() {
            None if !screen.is_wrap_pending() => return Some(Self::Move),
            last => last,
        };
        let column = if screen.is_wrap_pending() {
            cursor.column
        } else {
            cursor.column.checked_sub(1)?
        };
        let mut position = Position { column, ..cursor };
        if is_spacer(screen.cell(position)?) {
            position.column = position.column.checked_sub(1)?;
        }
        let cell = screen.cell(position)?;
        let is_last =
            last.is_none_or(|last| cell.c == last || cell.zerowidth().is_some_and(|marks| marks.last() == Some(&last)));
        // A cell that is written again is not the end of a line that goes on any more.
        let is_simple = !touches_row_above(position, screen) && !cell.flags.contains(Flags::WRAPLINE);
        let is_possible = is_last && is_simple && screen.is_row_certain(cursor.row) && cell.hyperlink().is_none();
        is_possible.then_some(Self::Print(position))
    }
}

/// The part of a drawing that can be taken away again.
fn possible(drawing: Drawing, screen: &Screen) -> Drawing {
    let can_cover = |position: Position| {
        screen.is_row_certain(position.row)
            // The last column has the pending wrap, and the mark of a line that goes on.
            && position.column + 1 < screen.columns()
            && screen.cell(position).is_some_and(|cell| cell.hyperlink().is_none())
    };
    let cells = drawing.cells.into_iter().filter(|(position, cell)| {
        if is_wide(cell) && is_below_cut(*position, screen) {
            // Taking it away would take the mark away too.
            return false;
        }
        let columns = touched(*position, cell, screen);
        let mut positions = columns.map(|column| Position { column, ..*position });
        positions.all(|position| can_cover(position) && !touches_row_above(position, screen))
    });
    let is_inside = |cursor: &Position| cursor.row < screen.rows() && cursor.column < screen.columns();
    Drawing {
        cells: cells.collect(),
        cursor: drawing.cursor.filter(is_inside),
    }
}

/// Whether a wide character begins a row because it had no room in the row above: there the emulator has marked a column.
fn touches_row_above(position: Position, screen: &Screen) -> bool {
    let cell = screen.cell(position);
    cell.is_some_and(|cell| is_wide(cell) || is_spacer(cell)) && is_below_cut(position, screen)
}

/// Whether a wide character at this position could be one that had no room in the row above.
fn is_below_cut(position: Position, screen: &Screen) -> bool {
    let above = position.row.checked_sub(1).zip(screen.columns().checked_sub(1));
    let last = above.and_then(|(row, column)| screen.cell(Position { row, column }));
    position.column <= 1 && last.is_some_and(|cell| cell.flags.contains(Flags::LEADING_WIDE_CHAR_SPACER))
}

/// The columns that change if `cell` is drawn: its own, and the other halves of wide characters below.
fn touched(position: Position, cell: &Cell, screen: &Screen) -> std::ops::Range<u16> {
    let mut start = position.column;
    let mut end = position.column + if is_wide(cell) { 2 } else { 1 };
    let at = |column: u16| screen.cell(Position { column, ..position });
    if at(start).is_some_and(is_spacer) {
        start = start.saturating_sub(1);
    }
    if at(end - 1).is_some_and(is_wide) {
        end += 1;
    }
    start..end
}

/// All cells that the drawing changes, in the order of the screen.
fn covered(drawing: &Drawing, screen: &Screen) -> Vec<Position> {
    let mut covered: Vec<Position> = Vec::new();
    for (position, cell) in &drawing.cells {
        covered.extend(touched(*position, cell, screen).map(|column| Position { column, ..*position }));
    }
    covered.sort();
    covered.dedup();
    covered
}

fn is_second_half(position: Position, drawing: &Drawing) -> bool {
    let is_first =
        |(at, cell): &(Position, Cell)| at.row == position.row && at.column + 1 == position.column && is_wide(cell);
    drawing.cells.iter().any(is_first)
}

/// The cells of a line of text that begins at `column`, cut before the last column.
pub(crate) fn line_cells(text: &str, row: u16, columns: u16) -> Vec<(Position, Cell)> {
    let mut cells = Vec::new();
    let mut column = 0;
    for character in text.chars().filter(|character| !character.is_control()) {
        let width = u16::try_from(character.width().unwrap_or(0)).unwrap_or(0);
        if width == 0 {
            continue;
        }
        if column + width >= columns {
            break;
        }
        let mut cell = Cell {
            c: character,
            flags: Flags::INVERSE,
            ..Cell::default()
        };
        if width == 2 {
            cell.flags.insert(Flags::WIDE_CHAR);
        }
        cells.push((Position { row, column }, cell));
        column += width;
    }
    cells
}

/// Paints the whole screen from its shadow, with cursor and pen.
pub(crate) fn repaint(screen: &Screen, modes: &ModeTracker, bytes: &mut Vec<u8>) {
    let mut painter = Painter::new(bytes);
    let plain = Cell::default();
    for row in 0..screen.rows() {
        painter.go_to(Position { row, column: 0 });
        painter.attributes(&plain);
        painter.bytes.extend_from_slice(b"\x1b[2K");
        for column in 0..screen.columns() {
            let position = Position { row, column };
            if let Some(cell) = screen.cell(position).filter(|cell| **cell != plain) {
                painter.cell(position, cell);
            }
        }
    }
    painter.restore(screen, modes);
}

/// Writes cells. Knows where the cursor is and which attributes are on, as far as it has set them.
struct Painter<'a> {
    bytes: &'a mut Vec<u8>,
    cursor: Option<Position>,
    attributes: Option<Cell>,
    /// Cells from the cursor on that are to be erased, not written yet.
    erased: u16,
}

impl<'a> Painter<'a> {
    fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self {
            bytes,
            cursor: None,
            attributes: None,
            erased: 0,
        }
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.bytes.write_fmt(text).expect("a Vec takes every byte");
    }

    fn go_to(&mut self, position: Position) {
        self.write_erased();
        if self.cursor != Some(position) {
            self.write(format_args!("\x1b[{};{}H", position.row + 1, position.column + 1));
            self.cursor = Some(position);
        }
    }

    fn attributes(&mut self, cell: &Cell) {
        let mut wanted = Cell::default();
        crate::predict::copy_attributes(&mut wanted, cell);
        if self.attributes.as_ref() != Some(&wanted) {
            write_attributes(&wanted, self.bytes);
            self.attributes = Some(wanted);
        }
    }

    /// ECH does not move the cursor.
    fn write_erased(&mut self) {
        match std::mem::take(&mut self.erased) {
            0 => {}
            1 => self.bytes.extend_from_slice(b"\x1b[X"),
            count => self.write(format_args!("\x1b[{count}X")),
        }
    }

    fn cell(&mut self, position: Position, cell: &Cell) {
        if is_spacer(cell) {
            return;
        }
        if is_erased(cell) {
            // Written blanks are text for some terminals: they are copied, and wrapped at a new width.
            let end = self.cursor.map(|at| (at.row, at.column + self.erased));
            if self.erased == 0 || end != Some((position.row, position.column)) {
                self.go_to(position);
                self.attributes(cell);
            }
            self.erased += 1;
            return;
        }
        self.go_to(position);
        self.attributes(cell);
        let character = if cell.c == '\t' { ' ' } else { cell.c };
        self.write(format_args!("{character}"));
        for mark in cell.zerowidth().unwrap_or_default() {
            self.write(format_args!("{mark}"));
        }
        let column = position.column + if is_wide(cell) { 2 } else { 1 };
        self.cursor = Some(Position { column, ..position });
    }

    /// Brings cursor, pen, pending wrap and the last character back.
    fn restore(&mut self, screen: &Screen, modes: &ModeTracker) {
        self.write_erased();
        match Restoration::new(screen, modes) {
            Some(Restoration::Print(position)) => {
                self.cursor = None;
                if let Some(cell) = screen.cell(position) {
                    self.printed_cell(position, cell);
                }
            }
            _ => self.go_to(screen.cursor()),
        }
        self.attributes(screen.pen());
        self.cursor = None;
    }

    /// Like [`Self::cell`], with a blank as a written character.
    fn printed_cell(&mut self, position: Position, cell: &Cell) {
        self.go_to(position);
        self.attributes(cell);
        self.write(format_args!("{}", cell.c));
        for mark in cell.zerowidth().unwrap_or_default() {
            self.write(format_args!("{mark}"));
        }
    }
}

/// Whether a cell is as an erasure with the usual background leaves it.
fn is_erased(cell: &Cell) -> bool {
    matches!(cell.c, ' ' | '\t')
        && cell.bg == Color::Named(NamedColor::Background)
        && cell.fg == Color::Named(NamedColor::Foreground)
        && (cell.flags - Flags::LEADING_WIDE_CHAR_SPACER).is_empty()
        && cell.extra.is_none()
}

fn write_attributes(cell: &Cell, bytes: &mut Vec<u8>) {
    const RENDITIONS: [(Flags, &str); 11] = [
        (Flags::BOLD, ";1"),
        (Flags::DIM, ";2"),
        (Flags::ITALIC, ";3"),
        (Flags::UNDERLINE, ";4"),
        (Flags::DOUBLE_UNDERLINE, ";4:2"),
        (Flags::UNDERCURL, ";4:3"),
        (Flags::DOTTED_UNDERLINE, ";4:4"),
        (Flags::DASHED_UNDERLINE, ";4:5"),
        (Flags::INVERSE, ";7"),
        (Flags::HIDDEN, ";8"),
        (Flags::STRIKEOUT, ";9"),
    ];
    bytes.extend_from_slice(b"\x1b[0");
    for (flag, code) in RENDITIONS {
        if cell.flags.contains(flag) {
            bytes.extend_from_slice(code.as_bytes());
        }
    }
    write_color(cell.fg, 30, bytes);
    write_color(cell.bg, 40, bytes);
    if let Some(color) = cell.underline_color() {
        write_color(color, 50, bytes);
    }
    bytes.push(b'm');
}

/// Writes a colour in the form in which the program gave it. `base` is 30 for text, 40 for the background, 50 for lines.
fn write_color(color: Color, base: u16, bytes: &mut Vec<u8>) {
    let result = match color {
        Color::Named(name) => match name as u16 {
            number @ 0..=7 if base < 50 => write!(bytes, ";{}", base + number),
            number @ 8..=15 if base < 50 => write!(bytes, ";{}", base + 60 + number - 8),
            number @ 0..=15 => write!(bytes, ";{};5;{number}", base + 8),
            // The default colours.
            _ => Ok(()),
        },
        Color::Indexed(number) => write!(bytes, ";{};5;{number}", base + 8),
        Color::Spec(rgb) => write!(bytes, ";{};2;{};{};{}", base + 8, rgb.r, rgb.g, rgb.b),
    };
    result.expect("a Vec takes every byte");
}
