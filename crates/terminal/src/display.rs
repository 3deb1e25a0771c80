//! The terminal as one object: shadow screen, modes, predictor and overlay together.

use std::time::{Duration, Instant};

use alacritty_terminal::term::cell::Flags;

use crate::modes::ModeTracker;
use crate::overlay::{self, Drawing, Overlay};
use crate::predict::Predictor;
use crate::screen::{Position, Screen};

/// When predictions are displayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PredictMode {
    /// Above 60 ms of round-trip time until it is below 40 ms, and while answers are late. The default.
    #[default]
    Adaptive,
    /// At any round-trip time.
    Always,
    /// Never; the link line is still shown.
    Never,
}

/// How the predictor knows that the server has echoed a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Confirmation {
    /// By [`Display::handle_acknowledged`]: the bytes up to an offset were written to sshd. The default.
    #[default]
    Exact,
    /// By time: a key is echoed after one round trip and the time that a program needs. For a connection that does not say
    /// what was delivered, such as plain TCP.
    Estimated,
}

/// What a [`Display`] is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Columns of the terminal.
    pub columns: u16,
    /// Rows of the terminal.
    pub rows: u16,
    /// When predictions are displayed.
    pub predict: PredictMode,
    /// How a prediction is judged.
    pub confirmation: Confirmation,
    /// Whether anything may be drawn over the screen: `false` for a terminal without cursor addressing (TERM is `dumb` or
    /// unknown). Then there are no predictions and no link line.
    pub overlays: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            columns: 80,
            rows: 24,
            predict: PredictMode::default(),
            confirmation: Confirmation::default(),
            overlays: true,
        }
    }
}

/// A terminal that shows the output of a server, predicted keys and the link line.
///
/// ```
/// use bowline_terminal::{Display, Settings};
/// use std::time::Instant;
///
/// let mut display = Display::new(Settings::default());
/// let now = Instant::now();
/// assert_eq!(display.handle_server_output(b"login: ", now), b"login: ");
/// ```
pub struct Display {
    modes: ModeTracker,
    screen: Screen,
    predictor: Predictor,
    overlay: Overlay,
    has_overlays: bool,
    /// Whether the server has written anything.
    has_output: bool,
    /// Whether output was not put on the shadow screen.
    has_gap: bool,
    flood: Option<Flood>,
    link_line: Option<String>,
}

/// A flood that has not ended, as far as is known.
struct Flood {
    /// Its last bytes, which neither the modes nor the shadow screen have got yet.
    end: Vec<u8>,
    /// When the last of it came.
    at: Instant,
}

/// So much of the end of a flood is put on the shadow screen: a screenful in most cases, so that it is certain again.
const FLOOD_END_BYTES: usize = 8 * 1024;
/// A flood has ended if nothing came for so long.
const FLOOD_PAUSE: Duration = Duration::from_millis(20);

impl Display {
    /// A terminal that shows something already, with the cursor somewhere. Nothing is drawn until it is certain what the
    /// terminal shows: by [`Self::handle_cursor_report`], or by output that clears the screen or fills it. Predictions begin
    /// after [`Self::handle_login`].
    pub fn new(settings: Settings) -> Self {
        let mut screen = Screen::new(settings.columns, settings.rows);
        screen.doubt_everything();
        Self {
            modes: ModeTracker::new(settings.rows),
            screen,
            predictor: Predictor::new(settings.predict, settings.confirmation),
            overlay: Overlay::default(),
            has_overlays: settings.overlays,
            has_output: false,
            has_gap: false,
            flood: None,
            link_line: None,
        }
    }

    /// The terminal's answer to `CSI 6 n`, which the caller asked when nothing of the server was on its way to the terminal: at
    /// the beginning, or after a resize. From here on the cursor is certain.
    ///
    /// At the beginning, with the cursor in the first column, the rows from there on are taken as empty.
    pub fn handle_cursor_report(&mut self, cursor: Position) {
        self.end_flood();
        self.screen.place_cursor(cursor, !self.has_output);
    }

    /// The terminal shows nothing, and the cursor is in the first row and column: it has just been cleared.
    pub fn handle_cleared(&mut self) {
        self.end_flood();
        self.screen.trust_everything();
    }

    /// Something else has written to the terminal, as the shell does while the program is stopped: nothing is known about
    /// what the terminal shows. Call it after [`Self::hide`] and what the other wrote.
    pub fn handle_foreign_output(&mut self) {
        self.end_flood();
        self.overlay.forget();
        self.screen.doubt_everything();
        self.predictor.handle_resize();
    }

    /// Like [`Self::handle_foreign_output`], for a program that has been continued, in a terminal of this size: the returned
    /// bytes show the program's screen again. What the other wrote moves up into the terminal's scrollback.
    ///
    /// Empty if it is not certain what the program's screen was. Then it is as after [`Self::handle_foreign_output`].
    pub fn handle_continued(&mut self, columns: u16, rows: u16) -> Vec<u8> {
        self.end_flood();
        let is_known = self.has_overlays
            && !self.has_gap
            && self.modes.is_between_sequences()
            && self.modes.is_plain()
            && self.screen.is_cursor_certain();
        self.handle_foreign_output();
        let mut written = Vec::new();
        if is_known {
            if !self.modes.is_alternate_screen() {
                written.extend_from_slice(b"\x1b[m\r");
                written.resize(written.len() + usize::from(rows), b'\n');
            }
            self.set_size(columns, rows);
            overlay::repaint(&self.screen, &self.modes, &mut written);
            self.screen.trust_everything();
            self.draw(&mut written);
        } else {
            self.set_size(columns, rows);
        }
        written
    }

    /// The user is logged in: from now on keys are predicted. Before, they are answers to prompts of ssh.
    pub fn handle_login(&mut self) {
        self.predictor.allow();
    }

    /// Takes output of the server and returns what to write to the terminal: `bytes` unchanged, between what erases the
    /// overlay and what draws it again.
    pub fn handle_server_output(&mut self, bytes: &[u8], now: Instant) -> Vec<u8> {
        self.end_flood();
        let mut written = Vec::with_capacity(bytes.len());
        self.overlay.erase(&self.screen, &self.modes, &mut written);
        written.extend_from_slice(bytes);
        self.has_output |= !bytes.is_empty();
        self.show(bytes, now);
        self.draw(&mut written);
        written
    }

    /// Like [`Self::handle_server_output`], for a flood: only the modes are followed, at many times the speed, and nothing is
    /// drawn. When the flood has ended (nothing came for 20 ms, or a key was typed), its end is put on the shadow screen.
    ///
    /// For a caller whose terminal is faster than the shadow screen.
    pub fn handle_flood(&mut self, bytes: &[u8], now: Instant) -> Vec<u8> {
        let mut written = Vec::with_capacity(bytes.len());
        self.overlay.erase(&self.screen, &self.modes, &mut written);
        written.extend_from_slice(bytes);
        self.has_output |= !bytes.is_empty();
        if !std::mem::replace(&mut self.has_gap, true) {
            self.screen.doubt_everything();
            self.predictor.handle_output(now, &self.screen);
        }
        let mut end = self.flood.take().map_or_else(Vec::new, |flood| flood.end);
        let (older, newest) = bytes.split_at(bytes.len().saturating_sub(FLOOD_END_BYTES));
        let kept = FLOOD_END_BYTES - newest.len();
        if end.len() > 2 * kept {
            let older = end.len() - kept;
            self.modes.handle_output(&end[..older]);
            end.drain(..older);
        }
        self.modes.handle_output(older);
        end.extend_from_slice(newest);
        self.flood = Some(Flood { end, at: now });
        written
    }

    /// Whether a flood has not ended, so that [`Self::modes`] and [`Self::screen`] are behind the terminal.
    pub fn is_flooded(&self) -> bool {
        self.flood.is_some()
    }

    /// Puts the end of a flood on the shadow screen, as of when it came.
    fn end_flood(&mut self) {
        if let Some(Flood { end, at }) = self.flood.take() {
            self.show(&end, at);
        }
    }

    /// Puts output on the shadow screen.
    fn show(&mut self, bytes: &[u8], now: Instant) {
        let mut rest = bytes;
        if self.has_gap && !self.modes.is_between_sequences() {
            let (end, after) = bytes.split_at(self.modes.sequence_end(bytes));
            self.modes.handle_output(end);
            rest = after;
        }
        if self.has_gap && rest.is_empty() {
            return;
        }
        if std::mem::take(&mut self.has_gap) {
            let mut modes = Vec::new();
            self.modes.write_screen_modes(&mut modes);
            self.screen.handle_gap(&modes);
            // Of what was not followed. Everything is in doubt already.
            self.modes.take_repeated();
            self.modes.take_soft_reset();
            self.modes.take_probe();
            self.modes.take_unknown();
        }
        for piece in ends_apart(rest) {
            self.modes.handle_output(piece);
            self.screen.handle_output(piece);
            let repeated = self.modes.take_repeated();
            if repeated > 0 && repeated >= self.screen.cursor().column {
                // It went on in the next row, which not all terminals do. The character itself is on its left.
                self.screen.doubt_everything();
            }
            if self.modes.take_soft_reset() {
                self.screen.handle_soft_reset();
            }
            if self.modes.take_probe() {
                self.screen.handle_probe();
            }
        }
        if self.modes.take_unknown() {
            self.screen.doubt_everything();
        }
        self.predictor.handle_output(now, &self.screen);
    }

    /// Takes the bytes of one read from the keyboard, which the caller has sent (or queued) to the server.
    ///
    /// `offset` is the position in the client's stream behind the last byte that carries this key. If ssh delays keys
    /// (`ObscureKeystrokeTiming`), it is the offset after the pipe has been quiet for one interval.
    pub fn handle_key(&mut self, bytes: &[u8], offset: u64, now: Instant) -> Vec<u8> {
        self.end_flood();
        if self.has_overlays {
            self.predictor.handle_key(bytes, offset, now, &self.screen);
        }
        self.drawn()
    }

    /// The server half has written all bytes before `offset` to sshd. A lower offset than before is ignored.
    ///
    /// Output that arrived before this acknowledgement must have been passed to [`Self::handle_server_output`] already.
    pub fn handle_acknowledged(&mut self, offset: u64, now: Instant) {
        self.predictor.handle_acknowledged(offset, now);
    }

    /// Whether a key has not been judged yet, so that [`Self::handle_acknowledged`] is waited for.
    pub fn is_acknowledgement_awaited(&self) -> bool {
        self.predictor.is_key_pending()
    }

    /// From now on keys are judged in this way.
    pub fn set_confirmation(&mut self, confirmation: Confirmation) {
        self.predictor.set_confirmation(confirmation);
    }

    /// The round-trip time of the path, smoothed. Until it is set, it is measured by the acknowledgements.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.predictor.handle_rtt(rtt);
    }

    /// Whether the path works. While it does not, no prediction is judged.
    pub fn handle_link(&mut self, is_up: bool, now: Instant) {
        self.predictor.handle_link(is_up, now);
    }

    /// Shows a line about the connection, or takes it away: on the last row, or on the first if the cursor is on the last. If
    /// it is not certain what these show, on the row that is farthest from the cursor among those that are certain.
    /// Control characters are left out; what is wider than the screen is cut.
    ///
    /// The line is not shown while it could not be taken away again: in the middle of a sequence, or if it is not certain
    /// what the terminal shows. It appears as soon as it can.
    pub fn set_link_line(&mut self, line: Option<String>, _now: Instant) -> Vec<u8> {
        self.end_flood();
        self.link_line = line;
        self.drawn()
    }

    /// Takes the new size of the terminal, which has been resized already.
    ///
    /// If an overlay was visible, the terminal has moved it in a way of its own: then the screen is painted again, if it is
    /// certain what it showed.
    pub fn handle_resize(&mut self, columns: u16, rows: u16, _now: Instant) -> Vec<u8> {
        if (columns, rows) == (self.screen.columns(), self.screen.rows()) {
            return Vec::new();
        }
        self.end_flood();
        let mut written = Vec::new();
        let was_visible = self.overlay.is_visible();
        let was_certain = (0..self.screen.rows()).all(|row| self.screen.is_row_certain(row));
        self.overlay.forget();
        self.set_size(columns, rows);
        if was_visible && was_certain {
            overlay::repaint(&self.screen, &self.modes, &mut written);
            self.screen.trust_everything();
        } else if was_visible {
            self.screen.doubt_everything();
        }
        self.draw(&mut written);
        written
    }

    fn set_size(&mut self, columns: u16, rows: u16) {
        if (columns, rows) != (self.screen.columns(), self.screen.rows()) {
            self.modes.handle_resize(rows);
            self.screen.handle_resize(columns, rows);
            self.predictor.handle_resize();
        }
    }

    /// When [`Self::handle_timeout`] is due, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let flood_ends = self.flood.as_ref().map(|flood| flood.at + FLOOD_PAUSE);
        self.predictor.poll_timeout().into_iter().chain(flood_ends).min()
    }

    /// Takes the present. Output that has arrived by now must have been passed on already.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<u8> {
        self.end_flood();
        self.predictor.handle_timeout(now, &self.screen);
        self.drawn()
    }

    /// The bytes that bring the terminal back to what it was: they erase the overlay and switch off every mode that the
    /// program left on. Nothing if there is nothing to undo.
    pub fn restore(&mut self) -> Vec<u8> {
        self.end_flood();
        let mut written = Vec::new();
        self.overlay.erase(&self.screen, &self.modes, &mut written);
        written.extend(self.modes.restore());
        written
    }

    /// Erases the overlay, as before the program stops. The next call of another method draws it again.
    pub fn hide(&mut self) -> Vec<u8> {
        self.end_flood();
        let mut written = Vec::new();
        self.overlay.erase(&self.screen, &self.modes, &mut written);
        written
    }

    /// The modes that the program has set.
    pub fn modes(&self) -> &ModeTracker {
        &self.modes
    }

    /// What the terminal shows below the overlay.
    pub fn screen(&self) -> &Screen {
        &self.screen
    }

    /// Whether anything is drawn over the screen.
    pub fn is_overlay_visible(&self) -> bool {
        self.overlay.is_visible()
    }

    /// The cells that are drawn over at present, in the order of the screen.
    pub fn covered(&self) -> &[Position] {
        self.overlay.covered()
    }

    fn drawn(&mut self) -> Vec<u8> {
        let mut written = Vec::new();
        self.draw(&mut written);
        written
    }

    fn draw(&mut self, written: &mut Vec<u8>) {
        let drawing = if self.has_overlays {
            self.drawing()
        } else {
            Drawing::default()
        };
        self.overlay.draw(drawing, &self.screen, &self.modes, written);
    }

    fn drawing(&self) -> Drawing {
        let prediction = self.predictor.poll_overlay(&self.screen);
        let mut cells = prediction.cells;
        if prediction.is_underlined {
            cells
                .iter_mut()
                .for_each(|(_, cell)| cell.flags.insert(Flags::UNDERLINE));
        }
        let cursor = prediction.cursor.unwrap_or(self.screen.cursor());
        if let Some((row, line)) = self
            .link_line
            .as_deref()
            .and_then(|line| Some((self.link_row(cursor)?, line)))
        {
            cells.retain(|(position, _)| position.row != row);
            cells.extend(overlay::line_cells(line, row, self.screen.columns()));
            cells.sort_by_key(|(position, _)| *position);
        }
        Drawing {
            cells,
            cursor: prediction.cursor,
        }
    }

    /// The row for the link line: the last, or the first, or that which is farthest from the cursor; never the cursor's,
    /// and only one that is certain.
    fn link_row(&self, cursor: Position) -> Option<u16> {
        let rows = self.screen.rows();
        let last = rows.checked_sub(1)?;
        let is_free =
            |row: &u16| *row != cursor.row && *row != self.screen.cursor().row && self.screen.is_row_certain(*row);
        let farthest = || (0..rows).filter(is_free).max_by_key(|row| row.abs_diff(cursor.row));
        [last, 0].into_iter().find(is_free).or_else(farthest)
    }
}

/// Pieces of `bytes` that each end behind what may be a soft reset (`CSI ! p`), a repetition (`CSI 5 b`) or a question of vim's
/// (`CSI 0 % m`, `DCS z`).
fn ends_apart(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    // The last byte of such a sequence may come first.
    let mut before = None;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|byte| {
            let is_end = matches!(
                (before, *byte),
                (None | Some(b'!'), b'p')
                    | (None | Some(b'0'..=b'9' | b'[' | b';'), b'b')
                    | (None | Some(b'%'), b'm')
                    | (None | Some(b'0'..=b'9' | b'P' | b';'), b'z')
            );
            before = Some(*byte);
            is_end
        });
        let (piece, after) = rest.split_at(end.map_or(rest.len(), |at| at + 1));
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests;
