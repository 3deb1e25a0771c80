//! What one key does to the line with the cursor.

use alacritty_terminal::term::cell::Flags;
use alacritty_terminal::vte::ansi::{Color, NamedColor};

use super::{Action, CellPrediction, CursorPrediction, Key, Made, Place, Predictor, place, position};
use crate::screen::{Cell, Screen, is_blank, is_spacer, is_wide};

/// A cell with the predictions over it; `None` if nobody knows what will be there.
type View = Option<Cell>;

impl Predictor {
    /// Predicts all actions of a key, until one is unknown.
    pub(super) fn predict(&mut self, key: &Key, screen: &Screen) {
        if key.is_paste || !screen.is_certain() || !screen.is_cursor_visible() {
            self.pause(key.offset);
            return;
        }
        for action in &key.actions {
            let is_known = match action {
                Action::Print(character, width) => self.print(*character, *width, key, screen),
                Action::Backspace => self.backspace(key, screen),
                Action::ControlH => {
                    self.begin_epoch();
                    self.backspace(key, screen)
                }
                Action::Left => self.left(key, screen),
                Action::Right => self.right(key, screen),
                Action::Enter => self.enter(key, screen),
                Action::Unknown => false,
            };
            if !is_known {
                self.pause(key.offset);
                return;
            }
        }
    }

    fn made(&self, key: &Key) -> Made {
        Made {
            offset: key.offset,
            epoch: self.epoch,
            at: key.at,
        }
    }

    /// Where the cursor will be; `None` at a pending wrap.
    fn cursor(&self, screen: &Screen) -> Option<Place> {
        match self.cursors.back() {
            Some(prediction) => Some(prediction.place),
            None if screen.is_wrap_pending() => None,
            None => Some(place(screen.cursor(), screen)),
        }
    }

    fn move_to(&mut self, place: Place, key: &Key, screen: &Screen) {
        if self.cursors.is_empty() {
            let base = super::place(screen.cursor(), screen);
            self.base = super::text_before(base, screen).map(|text| (base, text));
        }
        let made = self.made(key);
        self.cursors.push_back(CursorPrediction { place, made });
    }

    fn view(&self, place: Place, screen: &Screen) -> View {
        match self.cells.get(&place).and_then(|predictions| predictions.last()) {
            Some(prediction) => prediction.cell.clone(),
            None => Some(
                position(place, screen)
                    .and_then(|at| screen.cell(at))
                    .cloned()
                    .unwrap_or_default(),
            ),
        }
    }

    fn set(&mut self, place: Place, cell: View, key: &Key, screen: &Screen) {
        let made = self.made(key);
        let shown = position(place, screen)
            .and_then(|at| screen.cell(at))
            .map(|cell| cell.c);
        let predictions = self.cells.entry(place).or_default();
        let mut previous: Vec<char> = shown.into_iter().collect();
        if let Some(old) = predictions.last() {
            previous.extend(&old.previous);
            previous.extend(old.cell.as_ref().map(|cell| cell.c));
        }
        predictions.retain(|old| old.made.epoch != made.epoch);
        predictions.push(CellPrediction { cell, previous, made });
    }

    /// The cells from `start` on that move when something is inserted or erased there: up to a gap of two blanks, which
    /// separates text at the right margin. `None` if wide or unknown ones are among them.
    fn moving(&self, start: Place, screen: &Screen) -> Option<Vec<Cell>> {
        if start.row != place(screen.cursor(), screen).row {
            // Behind a line feed that has not come yet: nobody knows what will be in this row, as when an editor opens a new
            // one.
            return Some(Vec::new());
        }
        let mut cells: Vec<Cell> = Vec::new();
        let mut blanks = 0;
        for column in start.column..screen.columns() {
            let cell = self.view(Place { column, ..start }, screen)?;
            if is_suggestion(&cell) {
                break;
            }
            blanks = if is_blank(&cell) { blanks + 1 } else { 0 };
            cells.push(cell);
            if blanks == 2 {
                break;
            }
        }
        let end = cells
            .iter()
            .rposition(|cell| !is_blank(cell))
            .map_or(0, |last| last + 1);
        cells.truncate(end);
        let is_simple = cells.iter().all(|cell| !is_wide(cell) && !is_spacer(cell));
        is_simple.then_some(cells)
    }

    fn print(&mut self, character: char, width: u16, key: &Key, screen: &Screen) -> bool {
        let Some(cursor) = self.cursor(screen) else {
            return false;
        };
        // Programs do different things at the last column.
        if cursor.column + width >= screen.columns() {
            return false;
        }
        let Some(moving) = self.moving(cursor, screen) else {
            return false;
        };
        if width == 2 && !self.has_room_for_wide(cursor, screen) {
            return false;
        }
        for (column, cell) in (cursor.column + width..screen.columns()).zip(&moving) {
            let is_last = column + 1 == screen.columns();
            self.set(
                Place { column, ..cursor },
                (!is_last).then(|| cell.clone()),
                key,
                screen,
            );
        }
        let mut cell = self.attributes_at(cursor, screen);
        cell.c = character;
        if width == 2 {
            let mut spacer = cell.clone();
            spacer.c = ' ';
            spacer.flags.insert(Flags::WIDE_CHAR_SPACER);
            let column = cursor.column + 1;
            self.set(Place { column, ..cursor }, Some(spacer), key, screen);
            cell.flags.insert(Flags::WIDE_CHAR);
        }
        self.set(cursor, Some(cell), key, screen);
        let column = cursor.column + width;
        self.move_to(Place { column, ..cursor }, key, screen);
        true
    }

    /// Whether a wide character covers two cells, and halves none.
    fn has_room_for_wide(&self, cursor: Place, screen: &Screen) -> bool {
        let column = cursor.column + 1;
        let next = self.view(Place { column, ..cursor }, screen);
        next.is_some_and(|cell| !is_wide(&cell))
    }

    /// The attributes of the character on the left, or of the pen behind a blank: the prompt may have colours of its own.
    fn attributes_at(&self, cursor: Place, screen: &Screen) -> Cell {
        let left = cursor
            .column
            .checked_sub(1)
            .and_then(|column| self.view(Place { column, ..cursor }, screen));
        let left = left.filter(|cell| !is_blank(cell));
        let mut cell = Cell::default();
        copy_attributes(&mut cell, left.as_ref().unwrap_or_else(|| screen.pen()));
        cell
    }

    /// The column of the character on the left, if it is part of the edited line.
    fn left_of(&self, cursor: Place, screen: &Screen) -> Option<u16> {
        let column = cursor.column.checked_sub(1)?;
        let cell = self.view(Place { column, ..cursor }, screen)?;
        let column = if is_spacer(&cell) {
            column.checked_sub(1)?
        } else {
            column
        };
        let start = self
            .line_start
            .filter(|start| start.row == cursor.row && !screen.is_alternate());
        start.is_none_or(|start| column >= start.column).then_some(column)
    }

    fn backspace(&mut self, key: &Key, screen: &Screen) -> bool {
        let Some(cursor) = self.cursor(screen) else {
            return false;
        };
        let Some(column) = self.left_of(cursor, screen) else {
            return false;
        };
        let Some(moving) = self.moving(cursor, screen) else {
            return false;
        };
        let width = usize::from(cursor.column - column);
        let mut blank = Cell::default();
        let end = cursor.column + u16::try_from(moving.len()).unwrap_or(0);
        if let Some(cell) = self.view(Place { column: end, ..cursor }, screen).filter(is_blank) {
            copy_attributes(&mut blank, &cell);
        }
        let cells = moving.into_iter().chain(std::iter::repeat_n(blank, width));
        for (column, cell) in (column..screen.columns()).zip(cells) {
            self.set(Place { column, ..cursor }, Some(cell), key, screen);
        }
        self.move_to(Place { column, ..cursor }, key, screen);
        true
    }

    fn left(&mut self, key: &Key, screen: &Screen) -> bool {
        let Some(cursor) = self.cursor(screen) else {
            return false;
        };
        let Some(column) = self.left_of(cursor, screen) else {
            return false;
        };
        self.move_to(Place { column, ..cursor }, key, screen);
        true
    }

    /// At the end of the line nothing moves, or a suggestion is accepted: nobody knows.
    fn right(&mut self, key: &Key, screen: &Screen) -> bool {
        let Some(cursor) = self.cursor(screen) else {
            return false;
        };
        let Some(cell) = self.view(cursor, screen) else {
            return false;
        };
        let is_end = self.moving(cursor, screen).is_none_or(|moving| moving.is_empty());
        let column = cursor.column + if is_wide(&cell) { 2 } else { 1 };
        if (is_end && !is_wide(&cell)) || column >= screen.columns() {
            return false;
        }
        self.move_to(Place { column, ..cursor }, key, screen);
        true
    }

    /// Only a movement of the cursor. On the last row the screen scrolls: rows are counted from the beginning.
    fn enter(&mut self, key: &Key, screen: &Screen) -> bool {
        self.begin_epoch();
        let Some(cursor) = self.cursor(screen) else {
            return false;
        };
        let next = Place {
            row: cursor.row + 1,
            column: 0,
        };
        self.move_to(next, key, screen);
        true
    }
}

/// Whether a cell is part of a suggestion that a shell shows in grey behind the cursor: it is overwritten, not moved.
fn is_suggestion(cell: &Cell) -> bool {
    let is_grey = match cell.fg {
        Color::Named(NamedColor::BrightBlack) | Color::Indexed(8 | 102 | 232..=248) => true,
        Color::Spec(colour) => colour.r.abs_diff(colour.g) < 24 && colour.g.abs_diff(colour.b) < 24 && colour.r < 200,
        _ => cell.flags.contains(Flags::DIM),
    };
    is_grey && !is_blank(cell)
}

/// Gives `cell` the colours and the rendition of `from`.
pub(crate) fn copy_attributes(cell: &mut Cell, from: &Cell) {
    let shape = Flags::WIDE_CHAR | Flags::WIDE_CHAR_SPACER | Flags::LEADING_WIDE_CHAR_SPACER | Flags::WRAPLINE;
    cell.fg = from.fg;
    cell.bg = from.bg;
    cell.flags = (from.flags - shape) | (cell.flags & shape);
    cell.set_underline_color(from.underline_color());
}
