//! Between the parser and the emulator: mends what the emulator does otherwise than xterm and tmux do, and notes doubts
//! where terminals differ.

use alacritty_terminal::Term;
use alacritty_terminal::event::VoidListener;
use alacritty_terminal::grid::Dimensions;
use alacritty_terminal::index::{Column, Line};
use alacritty_terminal::term::TermMode;
use alacritty_terminal::term::cell::Flags;
use alacritty_terminal::vte::ansi::{
    Attr, CharsetIndex, ClearMode, Handler, Hyperlink, LineClearMode, Mode, NamedPrivateMode, PrivateMode,
    StandardCharset, TabulationClearMode,
};
use unicode_width::UnicodeWidthChar;

use super::doubt::Doubts;

pub(super) struct Filter<'a> {
    term: &'a mut Term<VoidListener>,
    doubts: &'a mut Doubts,
}

/// Most marks on one character that are kept. Written languages need a few.
const MAX_MARKS: usize = 16;

/// Characters without a width of their own that all terminals put on the character before.
const COMBINING_MARKS: std::ops::RangeInclusive<char> = '\u{300}'..='\u{36f}';

impl<'a> Filter<'a> {
    pub(super) fn new(term: &'a mut Term<VoidListener>, doubts: &'a mut Doubts) -> Self {
        Self { term, doubts }
    }

    /// DECSTR: as xterm does it, the cursor stays where it is.
    pub(super) fn reset_softly(&mut self) {
        let (point, wrap) = (self.term.grid().cursor.point, self.is_pending());
        self.term
            .unset_mode(Mode::Named(alacritty_terminal::vte::ansi::NamedMode::Insert));
        self.term.unset_private_mode(NamedPrivateMode::Origin.into());
        self.term.unset_private_mode(NamedPrivateMode::CursorKeys.into());
        self.term.set_private_mode(NamedPrivateMode::ShowCursor.into());
        self.term.unset_keypad_application_mode();
        for index in [CharsetIndex::G0, CharsetIndex::G1, CharsetIndex::G2, CharsetIndex::G3] {
            self.term.configure_charset(index, StandardCharset::Ascii);
        }
        self.term.set_active_charset(CharsetIndex::G0);
        self.terminal_attribute(Attr::Reset);
        self.term.set_scrolling_region(1, None);
        self.doubts.region = (0, self.rows() - 1);
        let cursor = &mut self.term.grid_mut().cursor;
        cursor.point = point;
        cursor.input_needs_wrap = wrap;
        // Terminals disagree about autowrap and about the saved cursor.
        self.doubts.saved.row = true;
        self.doubts.cursor.wrap |= !self.term.mode().contains(TermMode::LINE_WRAP) || wrap;
    }

    fn rows(&self) -> usize {
        self.term.screen_lines()
    }

    fn row(&self) -> usize {
        usize::try_from(self.term.grid().cursor.point.line.0).unwrap_or(0)
    }

    fn column(&self) -> usize {
        self.term.grid().cursor.point.column.0
    }

    fn is_pending(&self) -> bool {
        self.term.grid().cursor.input_needs_wrap
    }

    fn is_wrapping(&self) -> bool {
        self.term.mode().contains(TermMode::LINE_WRAP)
    }

    fn flags_at(&self, row: usize, column: usize) -> Flags {
        let line = Line(i32::try_from(row).unwrap_or(0));
        let exists = column < self.term.columns();
        if exists {
            self.term.grid()[line][Column(column)].flags
        } else {
            Flags::empty()
        }
    }

    fn is_wide_at(&self, row: usize, column: usize) -> bool {
        self.flags_at(row, column)
            .intersects(Flags::WIDE_CHAR | Flags::WIDE_CHAR_SPACER)
    }

    fn begins_wide(&self, row: usize, column: usize) -> bool {
        self.flags_at(row, column).contains(Flags::WIDE_CHAR)
    }

    fn is_wide_here(&self) -> bool {
        self.is_wide_at(self.row(), self.column())
    }

    /// What follows happens in the cursor's row. If terminals differ because a wrap is pending there, the row is in doubt.
    fn change_row(&mut self, differs_at_pending_wrap: bool) {
        let row = self.row();
        if differs_at_pending_wrap && self.is_pending() {
            self.doubts.cursor.wrap = true;
            self.doubts.row(row);
        }
        let doubt = &self.doubts.cursor;
        if doubt.column || doubt.wrap {
            self.doubts.row(row);
        }
    }

    /// A relative movement: some terminals keep a pending wrap, some count from beyond the last column.
    fn move_relatively(&mut self) {
        if self.is_pending() {
            self.doubts.cursor.wrap = true;
        }
        self.check_origin();
    }

    fn move_in_row(&mut self) {
        if self.is_pending() {
            self.doubts.cursor.column = true;
            self.doubts.cursor.wrap = true;
        }
        self.check_origin();
    }

    /// Movements in origin mode are not followed.
    fn check_origin(&mut self) {
        if self.term.mode().contains(TermMode::ORIGIN) {
            self.doubts.row_of_cursor();
            self.doubts.cursor.column = true;
        }
    }

    fn next_line(&mut self) {
        let (top, bottom) = self.doubts.region;
        if self.row() == bottom {
            self.doubts.scroll_up(top, bottom, 1);
        }
        self.doubts.line_feed();
    }

    /// Whether a wide character in this row may be cut by what follows.
    fn doubt_wide_characters(&mut self) {
        let line = self.term.grid().cursor.point.line;
        let row = &self.term.grid()[line];
        let wide = |column: usize| row[Column(column)].flags.contains(Flags::WIDE_CHAR);
        if (0..self.term.columns()).any(wide) {
            let row = self.row();
            self.doubts.row(row);
        }
    }

    /// What a character without a width does to the certainty of the column.
    fn zero_width(&mut self, character: char) {
        if !COMBINING_MARKS.contains(&character) {
            self.doubts.cursor.column = true;
            let row = self.row();
            self.doubts.row(row);
        }
        // With no character before it, a mark is dropped, kept or put on a blank.
        let before = self.column().checked_sub(1);
        let line = self.term.grid().cursor.point.line;
        let is_on_blank = before.is_none_or(|column| self.term.grid()[line][Column(column)].c == ' ');
        if self.is_pending() || (is_on_blank && !self.is_behind_wide()) {
            let row = self.row();
            self.doubts.row(row);
        }
    }

    /// Whether no more marks fit on the character before the cursor. The emulator has no limit, and a server could send
    /// marks until memory is full.
    fn has_many_marks(&self) -> bool {
        let point = self.term.grid().cursor.point;
        let last = match self.is_pending() {
            true => self.column(),
            false => self.column().saturating_sub(1),
        };
        // A mark behind a wide character is put on its first half.
        let columns = last.saturating_sub(1)..=last;
        columns.into_iter().any(|column| {
            let marks = self.term.grid()[point.line][Column(column)].zerowidth();
            marks.is_some_and(|marks| marks.len() >= MAX_MARKS)
        })
    }

    /// Whether the cursor is behind a wide character.
    fn is_behind_wide(&self) -> bool {
        let before = self.column().checked_sub(1);
        before.is_some_and(|column| self.flags_at(self.row(), column).contains(Flags::WIDE_CHAR_SPACER))
    }

    fn before_print(&mut self, character: char, width: usize) {
        let columns = self.term.columns();
        let is_wide_at_end = width == 2 && self.column() + 1 >= columns && !self.is_pending();
        if is_wide_at_end && self.is_wide_here() {
            // The last column is left as it was, or blank.
            let row = self.row();
            self.doubts.row(row);
        }
        let is_at_end = self.is_pending() || is_wide_at_end;
        let is_scrolling = self.row() == self.doubts.region.1;
        let (mut row, mut column) = (self.row(), self.column());
        if is_at_end && self.is_wrapping() {
            self.next_line();
            row = if is_scrolling {
                row
            } else {
                (row + 1).min(self.rows() - 1)
            };
            column = 0;
        } else if is_at_end {
            // Terminals overwrite the last column, or do not, and have no place for a wide character.
            self.doubts.row(row);
            self.doubts.cursor.column |= width == 2;
        }
        let is_new_row = is_at_end && is_scrolling;
        if !is_new_row && (self.is_wide_at(row, column) || (width == 2 && self.begins_wide(row, column + 1))) {
            self.doubts.row(row);
        }
        // A doubtful column is one before the wrap.
        self.doubts.print(row, self.column(), columns);
        // Regional indicators and skin tones: one or two columns, alone or joined with the character before.
        if matches!(character, '\u{1f1e6}'..='\u{1f1ff}' | '\u{1f3fb}'..='\u{1f3ff}') {
            self.doubts.cursor.column = true;
            self.doubts.row(row);
        }
        if self.term.mode().contains(TermMode::INSERT) {
            self.doubt_wide_characters();
            self.doubts.shifted(row);
        }
        self.doubts.written(row, column..column + width);
    }

    /// A question came that some terminals show as text, of up to so many columns.
    pub(super) fn doubt_text(&mut self, length: usize) {
        let (row, column) = (self.row(), self.column());
        self.doubts.text(row, column..column + length, self.term.columns());
    }

    /// Modes 47 and 1047: the alternate screen with the one cursor of both.
    fn swap_with_cursor(&mut self, to_alternate: bool) {
        if self.term.mode().contains(TermMode::ALT_SCREEN) == to_alternate {
            return;
        }
        let cursor = self.term.grid().cursor.clone();
        let doubt = self.doubts.cursor;
        self.swap(to_alternate);
        self.term.grid_mut().cursor = cursor;
        self.doubts.cursor = doubt;
        if to_alternate {
            // Mode 47 shows what was there before, if it is not cleared.
            (0..self.rows()).for_each(|row| self.doubts.row(row));
        }
    }

    fn swap(&mut self, to_alternate: bool) {
        if self.term.mode().contains(TermMode::ALT_SCREEN) == to_alternate {
            return;
        }
        if to_alternate {
            self.doubts.enter_alternate();
        } else {
            self.doubts.leave_alternate();
        }
        self.term.swap_alt();
        touch_rows(self.term);
        if to_alternate {
            self.term.grid_mut().reset_region(..);
        }
    }

    fn set_origin(&mut self, on: bool) {
        if on {
            self.term.set_private_mode(NamedPrivateMode::Origin.into());
        } else {
            self.term.unset_private_mode(NamedPrivateMode::Origin.into());
            self.term.goto(0, 0);
        }
        self.doubts.row_set();
        self.doubts.column_set();
    }
}

/// Makes the emulator consider each cell at the next erasure. It erases only as far as a row was written, and forgets at a
/// change of width that an erased row has a background.
pub(super) fn touch_rows(term: &mut Term<VoidListener>) {
    for row in 0..i32::try_from(term.screen_lines()).unwrap_or(0) {
        let _: &mut [_] = &mut term.grid_mut()[Line(row)][..];
    }
}

/// Passes calls on to the emulator as they are.
macro_rules! unchanged {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {
        $(fn $name(&mut self, $($argument: $kind),*) {
            self.term.$name($($argument),*);
        })*
    };
}

impl Handler for Filter<'_> {
    unchanged! {
        set_horizontal_tabstop();
        clear_tabs(mode: TabulationClearMode);
        set_tabs(interval: u16);
        set_mode(mode: Mode);
        unset_mode(mode: Mode);
        set_keypad_application_mode();
        unset_keypad_application_mode();
        set_active_charset(index: CharsetIndex);
        configure_charset(index: CharsetIndex, charset: StandardCharset);
        set_hyperlink(hyperlink: Option<Hyperlink>);
    }

    fn input(&mut self, character: char) {
        match character.width() {
            Some(0) => {
                self.zero_width(character);
                if self.has_many_marks() {
                    let row = self.row();
                    return self.doubts.row(row);
                }
            }
            Some(width) => self.before_print(character, width),
            None => return,
        }
        self.term.input(character);
    }

    fn goto(&mut self, line: i32, column: usize) {
        self.doubts.row_set();
        self.doubts.column_set();
        self.doubts.moved_up();
        self.term.goto(line, column);
        self.check_origin();
    }

    fn goto_line(&mut self, line: i32) {
        self.doubts.row_set();
        self.doubts.moved_up();
        self.move_relatively();
        self.term.goto_line(line);
    }

    fn goto_col(&mut self, column: usize) {
        self.doubts.column_set();
        self.check_origin();
        self.term.goto_col(column);
    }

    fn insert_blank(&mut self, count: usize) {
        self.change_row(true);
        self.doubts.shifted(self.row());
        self.doubt_wide_characters();
        self.term.insert_blank(count);
    }

    fn move_up(&mut self, lines: usize) {
        self.move_relatively();
        self.doubts.moved_up();
        let (top, _) = self.doubts.region;
        let most = if self.row() >= top {
            self.row() - top
        } else {
            self.row()
        };
        self.term.move_up(lines.min(most));
    }

    fn move_down(&mut self, lines: usize) {
        self.move_relatively();
        let (_, bottom) = self.doubts.region;
        let last = if self.row() <= bottom { bottom } else { self.rows() - 1 };
        self.term.move_down(lines.min(last - self.row()));
    }

    fn move_forward(&mut self, columns: usize) {
        self.move_in_row();
        self.term.move_forward(columns);
    }

    fn move_backward(&mut self, columns: usize) {
        self.move_in_row();
        self.term.move_backward(columns);
    }

    fn move_down_and_cr(&mut self, lines: usize) {
        self.move_down(lines);
        self.carriage_return();
    }

    fn move_up_and_cr(&mut self, lines: usize) {
        self.move_up(lines);
        self.carriage_return();
    }

    fn put_tab(&mut self, count: u16) {
        self.move_in_row();
        self.term.put_tab(count);
    }

    fn move_backward_tabs(&mut self, count: u16) {
        self.move_in_row();
        self.term.move_backward_tabs(count);
    }

    fn move_forward_tabs(&mut self, count: u16) {
        self.move_in_row();
        // tmux does not know CHT.
        self.doubts.cursor.column = true;
        self.term.move_forward_tabs(count);
    }

    fn backspace(&mut self) {
        self.move_in_row();
        self.term.backspace();
    }

    fn carriage_return(&mut self) {
        self.doubts.column_set();
        self.term.carriage_return();
    }

    fn linefeed(&mut self) {
        self.move_relatively();
        self.next_line();
        self.term.linefeed();
    }

    fn newline(&mut self) {
        self.move_relatively();
        self.next_line();
        self.term.newline();
    }

    fn reverse_index(&mut self) {
        self.move_relatively();
        self.doubts.moved_up();
        let (top, bottom) = self.doubts.region;
        if self.row() == top {
            self.doubts.scroll_down(top, bottom, 1);
        }
        self.term.reverse_index();
    }

    fn scroll_up(&mut self, lines: usize) {
        let (top, bottom) = self.doubts.region;
        self.doubts.scroll_up(top, bottom, lines);
        self.term.scroll_up(lines);
    }

    fn scroll_down(&mut self, lines: usize) {
        let (top, bottom) = self.doubts.region;
        self.doubts.scroll_down(top, bottom, lines);
        self.term.scroll_down(lines);
    }

    fn insert_blank_lines(&mut self, lines: usize) {
        // Some terminals move the cursor to the first column.
        self.doubts.cursor.column |= self.column() != 0;
        let (row, (top, bottom)) = (self.row(), self.doubts.region);
        if (top..=bottom).contains(&row) {
            self.doubts.scroll_down(row, bottom, lines);
        }
        self.term.insert_blank_lines(lines);
    }

    fn delete_lines(&mut self, lines: usize) {
        self.doubts.cursor.column |= self.column() != 0;
        let (row, (top, bottom)) = (self.row(), self.doubts.region);
        if (top..=bottom).contains(&row) {
            let scrolled = self.doubts.scrolled;
            self.doubts.scroll_up(row, bottom, lines);
            self.doubts.scrolled = scrolled;
        }
        self.term.delete_lines(lines);
    }

    fn erase_chars(&mut self, count: usize) {
        self.change_row(true);
        self.doubt_wide_characters();
        self.term.erase_chars(count);
    }

    fn delete_chars(&mut self, count: usize) {
        self.change_row(true);
        self.doubts.shifted(self.row());
        self.doubt_wide_characters();
        self.term.delete_chars(count);
    }

    fn save_cursor_position(&mut self) {
        self.doubts.saved = self.doubts.cursor;
        self.doubts.saved.wrap |= self.is_pending();
        self.doubts.saved_origin = self.term.mode().contains(TermMode::ORIGIN);
        self.term.save_cursor_position();
    }

    fn restore_cursor_position(&mut self) {
        self.doubts.row_set();
        self.doubts.cursor = self.doubts.saved;
        self.doubts.moved_up();
        let origin = if self.doubts.saved_origin {
            Self::set_origin
        } else {
            |filter: &mut Self, _: bool| filter.term.unset_private_mode(NamedPrivateMode::Origin.into())
        };
        origin(self, true);
        // The saved pen may be one that was in doubt.
        self.term.restore_cursor_position();
    }

    fn clear_line(&mut self, mode: LineClearMode) {
        let (row, column) = (self.row(), self.column());
        match mode {
            LineClearMode::All => {
                if self.is_pending() {
                    self.doubts.cursor.wrap = true;
                }
                self.doubts.erased(row..row + 1);
            }
            LineClearMode::Right if column == 0 && !self.doubts.cursor.column => self.doubts.erased(row..row + 1),
            _ => {
                self.change_row(true);
                if self.is_wide_here() {
                    self.doubts.row(row);
                }
            }
        }
        self.term.clear_line(mode);
    }

    fn clear_screen(&mut self, mode: ClearMode) {
        let (row, rows) = (self.row(), self.rows());
        match mode {
            ClearMode::All => {
                if self.is_pending() {
                    self.doubts.cursor.wrap = true;
                }
                self.doubts.erased(0..rows);
            }
            ClearMode::Below => {
                self.clear_line(LineClearMode::Right);
                self.doubts.erased(row + 1..rows);
            }
            ClearMode::Above => {
                self.clear_line(LineClearMode::Left);
                self.doubts.erased(0..row);
            }
            ClearMode::Saved => {}
        }
        let is_above = matches!(mode, ClearMode::Above);
        self.term.clear_screen(mode);
        // The emulator forgets the first row if the cursor is in the second.
        if is_above && row == 1 {
            self.term.grid_mut().reset_region(Line(0)..Line(1));
        }
    }

    fn reset_state(&mut self) {
        self.term.reset_state();
        let scrolled = self.doubts.scrolled;
        *self.doubts = Doubts::new(self.rows());
        self.doubts.scrolled = scrolled;
    }

    fn terminal_attribute(&mut self, attribute: Attr) {
        if attribute == Attr::Reset {
            self.doubts.pen_reset();
        }
        self.term.terminal_attribute(attribute);
    }

    fn set_private_mode(&mut self, mode: PrivateMode) {
        match mode {
            PrivateMode::Unknown(47 | 1047) => self.swap_with_cursor(true),
            PrivateMode::Named(NamedPrivateMode::SwapScreenAndSetRestoreCursor) => self.swap(true),
            PrivateMode::Named(NamedPrivateMode::Origin) => self.set_origin(true),
            // The tracker says that this is not followed.
            PrivateMode::Named(NamedPrivateMode::ColumnMode) => {}
            mode => self.term.set_private_mode(mode),
        }
    }

    fn unset_private_mode(&mut self, mode: PrivateMode) {
        match mode {
            PrivateMode::Unknown(47 | 1047) => self.swap_with_cursor(false),
            PrivateMode::Named(NamedPrivateMode::SwapScreenAndSetRestoreCursor) => {
                if !self.term.mode().contains(TermMode::ALT_SCREEN) {
                    // Most terminals bring a saved cursor back nevertheless.
                    self.doubts.row_of_cursor();
                    self.doubts.cursor.column = true;
                }
                self.swap(false);
            }
            PrivateMode::Named(NamedPrivateMode::Origin) => self.set_origin(false),
            PrivateMode::Named(NamedPrivateMode::ColumnMode) => {}
            mode => self.term.unset_private_mode(mode),
        }
    }

    fn set_scrolling_region(&mut self, top: usize, bottom: Option<usize>) {
        let rows = self.rows();
        let bottom = bottom.unwrap_or(rows).min(rows);
        let top = top.max(1);
        if top >= bottom {
            return;
        }
        self.doubts.region = (top - 1, bottom - 1);
        self.doubts.row_set();
        self.doubts.column_set();
        self.doubts.moved_up();
        self.term.set_scrolling_region(top, Some(bottom));
    }

    fn decaln(&mut self) {
        self.term.decaln();
        self.set_scrolling_region(1, None);
        self.doubts.erased(0..self.rows());
        self.goto(0, 0);
    }
}
