//! What the shadow screen does not know about the user's terminal.

use std::ops::Range;

/// Doubts about the cursor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct CursorDoubt {
    /// Whether the next character wraps.
    pub(super) wrap: bool,
    /// The column, and the wrap.
    pub(super) column: bool,
    /// The row, and so the whole content.
    pub(super) row: bool,
}

/// Columns that characters of unknown width may take beyond what the shadow takes, at most, before a row is in doubt too.
const COLUMN_ERROR: usize = 8;

/// What is not known about a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum RowDoubt {
    #[default]
    None,
    /// These columns may show something else, until characters are written over them.
    Columns(Range<usize>),
    Whole,
}

/// Doubts about the cursor, the pen and each row.
#[derive(Debug)]
pub(super) struct Doubts {
    pub(super) cursor: CursorDoubt,
    /// Of DECSC.
    pub(super) saved: CursorDoubt,
    pen: bool,
    rows: Vec<RowDoubt>,
    /// Those of the main screen while the alternate one is shown.
    other: Option<(CursorDoubt, Vec<RowDoubt>)>,
    /// Line feeds in a row since the cursor's row came into doubt.
    line_feeds: usize,
    /// Rows that the whole screen has moved up.
    pub(super) scrolled: u64,
    /// Whether origin mode was on at DECSC.
    pub(super) saved_origin: bool,
    /// First and last row of the scroll region.
    pub(super) region: (usize, usize),
}

impl Doubts {
    pub(super) fn new(rows: usize) -> Self {
        Self {
            cursor: CursorDoubt::default(),
            saved: CursorDoubt::default(),
            pen: false,
            rows: vec![RowDoubt::None; rows],
            other: None,
            line_feeds: 0,
            scrolled: 0,
            saved_origin: false,
            region: (0, rows - 1),
        }
    }

    pub(super) fn resize(&mut self, rows: usize) {
        self.rows.resize(rows, RowDoubt::Whole);
        self.region = (0, rows - 1);
        if let Some((cursor, other)) = &mut self.other {
            cursor.row = true;
            cursor.column = true;
            other.clear();
            other.resize(rows, RowDoubt::Whole);
        }
    }

    pub(super) fn everything(&mut self) {
        self.row_of_cursor();
        self.cursor.column = true;
        self.cursor.wrap = true;
        self.pen = true;
        self.rows.fill(RowDoubt::Whole);
    }

    pub(super) fn nothing(&mut self) {
        self.cursor = CursorDoubt::default();
        self.pen = false;
        self.rows.fill(RowDoubt::None);
    }

    /// The terminal said where its cursor is. Rows from `empty` on show nothing.
    pub(super) fn cursor_placed(&mut self, may_wrap: bool, empty: Option<usize>) {
        self.row_set();
        self.column_set();
        self.cursor.wrap = may_wrap;
        self.pen = false;
        if let Some(first) = empty {
            self.rows[first..].fill(RowDoubt::None);
        }
    }

    pub(super) fn is_cursor_certain(&self) -> bool {
        self.cursor == CursorDoubt::default() && !self.pen
    }

    pub(super) fn is_row_certain(&self, row: usize) -> bool {
        !self.cursor.row && self.rows[row] == RowDoubt::None
    }

    pub(super) fn pen_reset(&mut self) {
        self.pen = false;
    }

    pub(super) fn row(&mut self, row: usize) {
        self.rows[row] = RowDoubt::Whole;
    }

    /// Some terminals write text into these columns, of a row with `columns`, and leave the cursor behind it.
    pub(super) fn text(&mut self, row: usize, text: Range<usize>, columns: usize) {
        // Behind other such text at the same place, it is among these columns.
        let is_placed = !self.cursor.row && !self.cursor.wrap;
        if is_placed && self.rows[row] == RowDoubt::Columns(text.clone()) {
            self.cursor.column = true;
            return;
        }
        if self.cursor != CursorDoubt::default() || text.end >= columns {
            return self.everything();
        }
        self.cursor.column = true;
        self.rows[row] = match &self.rows[row] {
            RowDoubt::None => RowDoubt::Columns(text),
            RowDoubt::Columns(_) | RowDoubt::Whole => RowDoubt::Whole,
        };
    }

    /// A character was written into these columns, so all terminals show it there.
    pub(super) fn written(&mut self, row: usize, character: Range<usize>) {
        let is_certain = self.is_cursor_certain();
        if let RowDoubt::Columns(text) = &mut self.rows[row]
            && is_certain
            && character.start <= text.start
        {
            text.start = text.start.max(character.end);
            if text.start >= text.end {
                self.rows[row] = RowDoubt::None;
            }
        }
    }

    /// Characters in this row have moved to other columns.
    pub(super) fn shifted(&mut self, row: usize) {
        if self.rows[row] != RowDoubt::None {
            self.row(row);
        }
    }

    pub(super) fn row_of_cursor(&mut self) {
        self.cursor.row = true;
        self.line_feeds = 0;
    }

    /// A character goes to `row` at `column` of `columns`.
    pub(super) fn print(&mut self, row: usize, column: usize, columns: usize) {
        if self.cursor.wrap || (self.cursor.column && column + COLUMN_ERROR >= columns) {
            self.row_of_cursor();
            self.cursor.column = true;
        }
        if self.cursor.column {
            self.row(row);
        }
    }

    /// The cursor goes to a column that does not depend on where it was.
    pub(super) fn column_set(&mut self) {
        self.cursor.column = false;
        self.cursor.wrap = false;
    }

    /// The cursor goes to a row that does not depend on where it was. What was written in doubt may be anywhere.
    pub(super) fn row_set(&mut self) {
        if self.cursor.row {
            self.cursor.row = false;
            self.rows.fill(RowDoubt::Whole);
        }
    }

    /// The cursor moved up: line feeds before do not count any more.
    pub(super) fn moved_up(&mut self) {
        self.line_feeds = 0;
    }

    /// So many line feeds bring the cursor to the last row from anywhere, and what was above is gone.
    pub(super) fn line_feed(&mut self) {
        if self.cursor.row && self.region == (0, self.rows.len() - 1) {
            self.line_feeds += 1;
            if self.line_feeds >= self.rows.len() {
                self.cursor.row = false;
            }
        }
    }

    /// Rows `top` to `bottom` move up by `count`; new rows at the bottom are certain.
    pub(super) fn scroll_up(&mut self, top: usize, bottom: usize, count: usize) {
        let part = &mut self.rows[top..=bottom];
        let count = count.min(part.len());
        part.rotate_left(count);
        let len = part.len();
        part[len - count..].fill(RowDoubt::None);
        if top == 0 && bottom + 1 == self.rows.len() {
            self.scrolled += count as u64;
        }
    }

    /// Rows `top` to `bottom` move down by `count`.
    pub(super) fn scroll_down(&mut self, top: usize, bottom: usize, count: usize) {
        let part = &mut self.rows[top..=bottom];
        let count = count.min(part.len());
        part.rotate_right(count);
        part[..count].fill(RowDoubt::None);
    }

    /// Rows were erased as a whole.
    pub(super) fn erased(&mut self, rows: Range<usize>) {
        self.rows[rows].fill(RowDoubt::None);
    }

    pub(super) fn enter_alternate(&mut self) {
        let rows = vec![RowDoubt::None; self.rows.len()];
        let main = std::mem::replace(&mut self.rows, rows);
        self.other = Some((self.cursor, main));
        self.saved = self.cursor;
    }

    pub(super) fn leave_alternate(&mut self) {
        if let Some((cursor, rows)) = self.other.take() {
            self.cursor = cursor;
            self.saved = cursor;
            self.rows = rows;
        }
    }
}
