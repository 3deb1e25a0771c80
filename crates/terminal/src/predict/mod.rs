//! What typed keys will show, before the server has echoed them.
//!
//! The rules are mosh's. A prediction is a cell or a position of the cursor. It belongs to an epoch, and stays invisible
//! until the server has confirmed one prediction of that epoch: where the server echoes nothing, as at the prompt for a
//! password, nothing is shown. A prediction is judged when the server has echoed its key for certain, never before.
//!
//! If a prediction was wrong, or a key does something unknown, nobody knows where the cursor will be when the keys arrive
//! that are on their way. Then prediction pauses until the screen is known to show all keys up to one of them, and the rest
//! is predicted again from there.

mod keys;
mod line;
mod policy;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::display::{Confirmation, PredictMode};
use crate::screen::{Cell, Position, Screen};
use keys::{Action, KeyParser};
pub(crate) use line::copy_attributes;
use policy::{Policy, SLOW_ANSWER, VERY_SLOW_ANSWER};

/// What a program takes at most to echo a key that it has got.
const ECHO_DELAY: Duration = Duration::from_millis(50);
/// More bytes in one read are a paste.
const MAX_TYPED: usize = 100;
/// Reads that wait for their echo, at most. Beyond, prediction pauses until all of them have arrived.
const MAX_PENDING: usize = 1000;
/// Characters that programs show in place of a password. They confirm nothing.
const MASKS: &[char] = &[
    '*', '#', 'x', 'X', '.', '-', '_', '?', '+', '\u{2022}', '\u{25cf}', '\u{00b7}',
];

/// Predicts keys over a [`Screen`]. Pure: the screen and the present are arguments.
pub struct Predictor {
    policy: Policy,
    confirmation: Confirmation,
    parser: KeyParser,
    is_allowed: bool,
    is_link_up: bool,
    rtt: Option<Duration>,
    epoch: u64,
    confirmed_epoch: u64,
    /// For each place what was predicted there, a later one over an earlier one of another epoch.
    cells: BTreeMap<Place, Vec<CellPrediction>>,
    cursors: VecDeque<CursorPrediction>,
    /// Where the cursor was before the first of them, and the text before it.
    base: Option<(Place, String)>,
    keys: VecDeque<Key>,
    /// Why nothing is predicted until the keys on their way have arrived.
    paused: Option<Pause>,
    /// The echo of everything before this offset is on the screen.
    arrived: u64,
    is_rtt_given: bool,
    /// Where the line that is edited begins: behind the prompt.
    line_start: Option<Place>,
    /// What the screen was after the last output.
    seen: Option<Seen>,
}

/// A cell that stays the same when the screen scrolls: rows are counted from the beginning of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    row: u64,
    column: u16,
}

struct CellPrediction {
    /// `None`: something will be here, nobody knows what.
    cell: Option<Cell>,
    /// What was here before, on the screen and in earlier predictions.
    previous: Vec<char>,
    made: Made,
}

struct CursorPrediction {
    place: Place,
    made: Made,
}

/// By which key, in which epoch and when something was predicted.
#[derive(Debug, Clone, Copy)]
struct Made {
    offset: u64,
    epoch: u64,
    at: Instant,
}

/// Keys of one read.
struct Key {
    actions: Vec<Action>,
    offset: u64,
    at: Instant,
    acknowledged_at: Option<Instant>,
    is_paste: bool,
}

/// Prediction goes on when everything before this offset has arrived.
#[derive(Debug, Clone, Copy)]
struct Pause {
    until: u64,
}

#[derive(PartialEq, Eq)]
struct Seen {
    cursor: Place,
    before_cursor: String,
    is_alternate: bool,
}

/// What is to be drawn over the screen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prediction {
    /// Cells in the order of the screen. A wide character is one cell here.
    pub cells: Vec<(Position, Cell)>,
    /// Where the cursor is shown, if not where the program has it.
    pub cursor: Option<Position>,
    /// Whether the cells are underlined: they may be wrong for a while.
    pub is_underlined: bool,
}

impl Predictor {
    /// Predicts nothing until [`Self::allow`].
    pub fn new(mode: PredictMode, confirmation: Confirmation) -> Self {
        Self {
            policy: Policy::new(mode),
            confirmation,
            parser: KeyParser::default(),
            is_allowed: false,
            is_link_up: true,
            rtt: None,
            epoch: 1,
            confirmed_epoch: 0,
            cells: BTreeMap::new(),
            cursors: VecDeque::new(),
            base: None,
            keys: VecDeque::new(),
            paused: None,
            arrived: 0,
            is_rtt_given: false,
            line_start: None,
            seen: None,
        }
    }

    /// The user is logged in.
    pub fn allow(&mut self) {
        self.is_allowed = true;
    }

    /// Takes the bytes of one read from the keyboard. `offset` is the position in the stream behind them.
    pub fn handle_key(&mut self, bytes: &[u8], offset: u64, now: Instant, screen: &Screen) {
        if !self.is_allowed || self.policy.is_off() || bytes.is_empty() {
            return;
        }
        let key = Key {
            actions: self.parser.parse(bytes),
            offset,
            at: now,
            acknowledged_at: None,
            is_paste: bytes.len() > MAX_TYPED,
        };
        self.note_line_start(screen);
        if self.keys.is_empty() && self.paused.is_some_and(|pause| pause.until <= self.arrived) {
            self.paused = None;
        }
        if self.paused.is_none() && !self.explains(screen) {
            // Output that is no echo, while keys are on their way: this may be a prompt for a password.
            self.pause(offset);
        }
        if self.paused.is_none() {
            self.predict(&key, screen);
        }
        if self.keys.len() >= MAX_PENDING {
            self.keys.clear();
            self.pause(offset);
        }
        self.keys.push_back(key);
    }

    /// Output has been put on `screen`.
    pub fn handle_output(&mut self, now: Instant, screen: &Screen) {
        let seen = self.look(screen);
        let before = self.seen.replace(seen);
        if let (Some(before), Some(seen)) = (before, &self.seen) {
            if before.is_alternate != seen.is_alternate {
                self.forget();
            } else if self.keys.is_empty() && before != *seen {
                // Output that is no echo: this may be a prompt for a password.
                self.begin_epoch();
            }
        }
        self.judge(now, screen);
    }

    /// Everything before `offset` was written to sshd.
    pub fn handle_acknowledged(&mut self, offset: u64, now: Instant) {
        let mut newest = None;
        for key in self.keys.iter_mut().take_while(|key| key.offset <= offset) {
            if key.acknowledged_at.is_none() {
                key.acknowledged_at = Some(now);
                newest = Some(now.saturating_duration_since(key.at));
            }
        }
        if let Some(sample) = newest.filter(|_| !self.is_rtt_given) {
            // As TCP does it (RFC 6298).
            let smoothed = self.rtt.map_or(sample, |rtt| rtt * 7 / 8 + sample / 8);
            self.set_rtt(smoothed);
        }
    }

    /// Whether keys have not been judged yet.
    pub fn is_key_pending(&self) -> bool {
        !self.keys.is_empty()
    }

    /// From now on keys are judged in this way.
    pub fn set_confirmation(&mut self, confirmation: Confirmation) {
        self.confirmation = confirmation;
    }

    /// Takes the smoothed round-trip time. Until it is given, acknowledgements are measured.
    pub fn handle_rtt(&mut self, rtt: Duration) {
        self.is_rtt_given = true;
        self.set_rtt(rtt);
    }

    fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = Some(rtt);
        let is_pending = !self.cells.is_empty() || !self.cursors.is_empty();
        self.policy.handle_rtt(rtt, is_pending);
    }

    /// The path failed, or works again. What the server sent meanwhile takes a round trip.
    pub fn handle_link(&mut self, is_up: bool, now: Instant) {
        if is_up && !self.is_link_up {
            let arrival = now + self.rtt.unwrap_or_default();
            for key in &mut self.keys {
                key.acknowledged_at = key.acknowledged_at.map(|_| arrival);
                if self.confirmation == Confirmation::Estimated {
                    key.at = now;
                }
            }
        }
        self.is_link_up = is_up;
    }

    /// The screen has another size: nothing is where it was.
    pub fn handle_resize(&mut self) {
        self.forget();
        self.line_start = None;
    }

    /// Takes the present. Output that has come by now must be on `screen`.
    pub fn handle_timeout(&mut self, now: Instant, screen: &Screen) {
        self.judge(now, screen);
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let judged = if self.is_link_up {
            self.keys.front().and_then(|key| self.echoed_at(key))
        } else {
            None
        };
        let oldest = self.oldest_prediction();
        let shown = oldest
            .filter(|_| !self.policy.is_displayed())
            .map(|at| at + SLOW_ANSWER);
        let underlined = oldest
            .filter(|_| !self.policy.is_underlined())
            .map(|at| at + VERY_SLOW_ANSWER);
        [judged, shown, underlined].into_iter().flatten().min()
    }

    /// What is to be drawn now.
    pub fn poll_overlay(&self, screen: &Screen) -> Prediction {
        if !self.policy.is_displayed() || !screen.is_certain() {
            return Prediction::default();
        }
        let visible = |made: &Made| made.epoch <= self.confirmed_epoch;
        let cells = self.cells.iter().filter_map(|(place, predictions)| {
            let prediction = predictions.iter().rfind(|prediction| visible(&prediction.made))?;
            let position = position(*place, screen)?;
            let shown = screen.cell(position)?;
            let cell = prediction.cell.clone()?;
            let differs = cell.c != shown.c && !crate::screen::is_spacer(&cell);
            (differs && screen.is_row_certain(position.row)).then_some((position, cell))
        });
        let cursor = self.cursors.iter().rev().find(|prediction| visible(&prediction.made));
        let cursor = cursor.and_then(|prediction| position(prediction.place, screen));
        Prediction {
            cells: cells.collect(),
            cursor: cursor.filter(|cursor| *cursor != screen.cursor() && screen.is_cursor_visible()),
            is_underlined: self.policy.is_underlined(),
        }
    }

    /// Whether the cursor is where some of the predicted keys bring it.
    fn explains(&self, screen: &Screen) -> bool {
        let Some((base, text)) = self.base.as_ref().filter(|_| !self.cursors.is_empty()) else {
            return true;
        };
        let here = place(screen.cursor(), screen);
        let is_predicted = self.cursors.iter().any(|prediction| prediction.place == here);
        // Keys change the line only on the right of the leftmost cursor.
        let columns = self
            .cursors
            .iter()
            .map(|prediction| prediction.place)
            .filter(|at| at.row == base.row);
        let leftmost = columns.map(|at| at.column).fold(base.column, u16::min).into();
        let is_same = |now: String| now.chars().take(leftmost).eq(text.chars().take(leftmost));
        (*base == here || is_predicted) && text_before(*base, screen).is_none_or(is_same)
    }

    fn begin_epoch(&mut self) {
        self.epoch += 1;
    }

    /// Discards all predictions, and predicts nothing until the keys on their way have arrived.
    fn forget(&mut self) {
        self.cells.clear();
        self.cursors.clear();
        self.begin_epoch();
        if let Some(last) = self.keys.back() {
            self.pause(last.offset);
        }
    }

    /// Predicts nothing until everything before `until` has arrived.
    fn pause(&mut self, until: u64) {
        self.begin_epoch();
        self.paused = Some(Pause { until });
    }

    fn oldest_prediction(&self) -> Option<Instant> {
        let cells = self.cells.values().flatten().map(|prediction| prediction.made.at);
        cells
            .chain(self.cursors.iter().map(|prediction| prediction.made.at))
            .min()
    }

    fn look(&self, screen: &Screen) -> Seen {
        let cursor = screen.cursor();
        Seen {
            cursor: place(cursor, screen),
            before_cursor: text_before(place(cursor, screen), screen).unwrap_or_default(),
            is_alternate: screen.is_alternate(),
        }
    }

    fn note_line_start(&mut self, screen: &Screen) {
        let here = place(screen.cursor(), screen);
        if self.keys.is_empty() && self.line_start.is_none_or(|start| start.row != here.row) {
            self.line_start = Some(here);
        }
    }

    /// From when on the screen may show the echo of a key.
    fn may_show_from(&self, key: &Key) -> Instant {
        // Acknowledgements are delayed a little, echoes are not: four fifths of a round trip count.
        key.at + self.rtt.map_or(Duration::ZERO, |rtt| rtt * 4 / 5)
    }

    /// From when on the screen shows the echo of a key, if there is one.
    fn echoed_at(&self, key: &Key) -> Option<Instant> {
        match self.confirmation {
            Confirmation::Exact => key.acknowledged_at.map(|at| at + ECHO_DELAY),
            // Without a round-trip time, one that no path exceeds.
            Confirmation::Estimated => {
                let rtt = self.rtt.unwrap_or(Duration::from_secs(1));
                Some(key.at + rtt + rtt / 2 + ECHO_DELAY)
            }
        }
    }

    /// Judges the predictions of all keys whose echo is on the screen.
    fn judge(&mut self, now: Instant, screen: &Screen) {
        let oldest = self.oldest_prediction();
        if let Some(at) = oldest {
            self.policy.handle_pending(now.saturating_duration_since(at));
        }
        if !self.is_link_up {
            return;
        }
        let mut arrived = None;
        while let Some(key) = self.keys.front()
            && self.echoed_at(key).is_some_and(|at| at <= now)
        {
            arrived = Some(key.offset);
            self.keys.pop_front();
        }
        let Some(arrived) = arrived else { return };
        self.arrived = arrived;
        if !screen.is_certain() {
            self.forget();
        }
        if self.judge_cursor(arrived, now, screen) {
            self.judge_cells(arrived, now, screen);
        }
        self.resume(arrived, now, screen);
        self.seen = Some(self.look(screen));
    }

    /// Whether the cursor is where it was predicted, or cannot be judged. If not, its predictions are gone.
    fn judge_cursor(&mut self, arrived: u64, now: Instant, screen: &Screen) -> bool {
        let mut last = None;
        while let Some(prediction) = self.cursors.front()
            && prediction.made.offset <= arrived
        {
            last = self.cursors.pop_front();
        }
        let Some(last) = last else { return true };
        self.base = text_before(last.place, screen).map(|text| (last.place, text));
        if !screen.is_cursor_visible() {
            return true;
        }
        let here = place(screen.cursor(), screen);
        // The screen may show the echo of later keys as well.
        let later = self.keys.iter().take_while(|key| self.may_show_from(key) <= now);
        let later: Vec<u64> = later.map(|key| key.offset).collect();
        let is_here = |prediction: &CursorPrediction| prediction.place == here;
        let is_correct = is_here(&last)
            || self
                .cursors
                .iter()
                .take_while(|prediction| later.contains(&prediction.made.offset))
                .any(is_here);
        let is_unknown = later
            .iter()
            .any(|offset| !self.cursors.iter().any(|prediction| prediction.made.offset == *offset));
        if is_correct || is_unknown {
            // The newest position stays predicted until keys after it are.
            return true;
        }
        self.handle_wrong(last.made.epoch);
        false
    }

    fn judge_cells(&mut self, arrived: u64, now: Instant, screen: &Screen) {
        for (prediction, place) in self.take_arrived(arrived) {
            match verdict(&prediction, place, screen) {
                Verdict::Correct => {
                    self.confirmed_epoch = self.confirmed_epoch.max(prediction.made.epoch);
                    self.policy
                        .handle_confirmed(now.saturating_duration_since(prediction.made.at), now);
                    self.match_attributes(place, screen);
                }
                Verdict::NoCredit => {}
                Verdict::Wrong => {
                    self.handle_wrong(prediction.made.epoch);
                    return;
                }
            }
        }
    }

    /// The predictions of keys before `arrived`, in the order of the keys: for each place the latest.
    fn take_arrived(&mut self, arrived: u64) -> Vec<(CellPrediction, Place)> {
        let mut judged = Vec::new();
        for (place, predictions) in &mut self.cells {
            let count = predictions
                .iter()
                .take_while(|prediction| prediction.made.offset <= arrived)
                .count();
            judged.extend(
                predictions
                    .drain(..count)
                    .next_back()
                    .map(|prediction| (prediction, *place)),
            );
        }
        self.cells.retain(|_, predictions| !predictions.is_empty());
        judged.sort_by_key(|(prediction, place)| (prediction.made.offset, *place));
        judged
    }

    /// Gives the attributes of a confirmed cell to the predictions on its right.
    fn match_attributes(&mut self, from: Place, screen: &Screen) {
        let Some(actual) = position(from, screen).and_then(|position| screen.cell(position)) else {
            return;
        };
        let end = Place {
            row: from.row,
            column: u16::MAX,
        };
        for prediction in self
            .cells
            .range_mut(from..=end)
            .flat_map(|(_, predictions)| predictions)
        {
            if let Some(cell) = &mut prediction.cell {
                line::copy_attributes(cell, actual);
            }
        }
    }

    /// A prediction of this epoch was wrong. If it was visible, all predictions are discarded, and else those of its epoch.
    fn handle_wrong(&mut self, epoch: u64) {
        if epoch > self.confirmed_epoch {
            for predictions in self.cells.values_mut() {
                predictions.retain(|prediction| prediction.made.epoch < epoch);
            }
            self.cells.retain(|_, predictions| !predictions.is_empty());
            self.cursors.retain(|prediction| prediction.made.epoch < epoch);
        } else {
            self.cells.clear();
            self.cursors.clear();
        }
        self.begin_epoch();
        // Nothing is known of the keys on their way; `resume` finds out how many of them the screen shows.
        self.paused = Some(Pause { until: 0 });
    }

    /// Predicts the keys on their way again, if the screen is known to show those before.
    fn resume(&mut self, arrived: u64, now: Instant, screen: &Screen) {
        let Some(pause) = self.paused else { return };
        if arrived < pause.until || !screen.is_certain() || !screen.is_cursor_visible() {
            return;
        }
        self.cells.clear();
        self.cursors.clear();
        let keys = std::mem::take(&mut self.keys);
        let doubtful = keys.iter().take_while(|key| self.may_show_from(key) <= now).count();
        if let Some(shown) = shown_keys(keys.iter().take(doubtful), screen) {
            self.paused = None;
            for key in keys.iter().skip(shown) {
                if self.paused.is_some() {
                    break;
                }
                self.predict(key, screen);
            }
        }
        self.keys = keys;
    }
}

/// How many of the keys that may be on the screen are there; `None` if that cannot be seen.
fn shown_keys<'a>(keys: impl Iterator<Item = &'a Key>, screen: &Screen) -> Option<usize> {
    let mut typed = Vec::new();
    for key in keys {
        match key.actions.as_slice() {
            [Action::Print(character, 1)] => typed.push(*character),
            _ => return None,
        }
    }
    let cursor = screen.cursor();
    let shows = |count: usize| {
        let start = usize::from(cursor.column).checked_sub(count)?;
        let mut columns = (start..usize::from(cursor.column)).zip(&typed);
        let is_same = columns.all(|(column, character)| {
            let column = u16::try_from(column).unwrap_or(u16::MAX);
            screen
                .cell(Position {
                    row: cursor.row,
                    column,
                })
                .is_some_and(|cell| cell.c == *character)
        });
        is_same.then_some(count)
    };
    (0..=typed.len()).rev().find_map(shows)
}

enum Verdict {
    Correct,
    NoCredit,
    Wrong,
}

fn verdict(prediction: &CellPrediction, place: Place, screen: &Screen) -> Verdict {
    // What has left the screen cannot be judged.
    let Some(shown) = position(place, screen).and_then(|position| screen.cell(position)) else {
        return Verdict::NoCredit;
    };
    let Some(cell) = &prediction.cell else {
        return Verdict::NoCredit;
    };
    if crate::screen::is_blank(cell) || crate::screen::is_spacer(cell) {
        return Verdict::NoCredit;
    }
    match cell.c == shown.c {
        true if prediction.previous.contains(&cell.c) || MASKS.contains(&cell.c) => Verdict::NoCredit,
        true => Verdict::Correct,
        false => Verdict::Wrong,
    }
}

/// The text on the left of a place, if it is on the screen.
fn text_before(place: Place, screen: &Screen) -> Option<String> {
    let Position { row, column } = position(place, screen)?;
    let cells = (0..column).filter_map(|column| screen.cell(Position { row, column }));
    Some(cells.map(|cell| cell.c).collect())
}

fn place(position: Position, screen: &Screen) -> Place {
    Place {
        row: screen.scrolled() + u64::from(position.row),
        column: position.column,
    }
}

/// Where a place is on the screen now; `None` if it has scrolled away, or is still to come.
fn position(place: Place, screen: &Screen) -> Option<Position> {
    let row = place.row.checked_sub(screen.scrolled())?;
    let row = u16::try_from(row).ok().filter(|row| *row < screen.rows())?;
    (place.column < screen.columns()).then_some(Position {
        row,
        column: place.column,
    })
}

#[cfg(test)]
mod tests;
