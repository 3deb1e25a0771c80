//! The live lines: the counter, the file, the path, and the timeline of all that was.

use super::counter::{COUNT_INTERVAL, Reading};
use super::outage::Outage;
use super::screen::{Screen, Style, TerminalFeatures};
use super::transfer::{Progress, SIZE};
use crate::clock;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Time between two drawings.
const FRAME: Duration = Duration::from_millis(100);

/// Frames that make one cell of the timeline: 25 s fit into a line of 80.
const FRAMES_PER_CELL: u32 = 4;

/// Where nothing can be drawn anew, a line is written this often.
const FRAMES_PER_LINE: u32 = 20;

/// Columns before each line's content.
const MARGIN: usize = 11;

/// Columns of the file's bar.
const BAR: usize = 30;

/// What is known for drawing.
pub(super) struct Picture {
    readings: watch::Receiver<Reading>,
    progress: Arc<Progress>,
    begun: Instant,
    /// The outage that goes on, and since when.
    outage: Mutex<Option<(Outage, Instant)>>,
    /// Whether there was one since the last look; some are over at once.
    was_broken: AtomicBool,
    timeline: Mutex<Timeline>,
}

impl Picture {
    pub(super) fn new(readings: watch::Receiver<Reading>, progress: Arc<Progress>) -> Picture {
        Picture {
            readings,
            progress,
            begun: clock::now(),
            outage: Mutex::default(),
            was_broken: AtomicBool::new(false),
            timeline: Mutex::default(),
        }
    }

    /// Since the beginning.
    pub(super) fn elapsed(&self) -> Duration {
        clock::now() - self.begun
    }

    /// An outage has begun, or is over.
    pub(super) fn set_outage(&self, outage: Option<Outage>) {
        self.was_broken.store(true, Relaxed);
        *self.outage.lock() = outage.map(|outage| (outage, clock::now()));
    }

    /// Never returns.
    pub(super) async fn keep_drawing(&self, screen: &Screen) {
        let mut frames = tokio::time::interval(FRAME);
        let mut shown = self.number();
        for frame in 1u32.. {
            frames.tick().await;
            if frame.is_multiple_of(FRAMES_PER_CELL) {
                let number = self.number();
                self.timeline.lock().push(Moment {
                    broken: self.was_broken.swap(self.outage().is_some(), Relaxed),
                    numbers: number - shown,
                });
                shown = number;
            }
            if screen.features().live {
                screen.draw(&self.lines(screen));
            } else if frame.is_multiple_of(FRAMES_PER_LINE) {
                screen.say(&self.line());
            }
        }
    }

    /// The timeline so far: the path, and below it what came out of the remote shell.
    pub(super) fn timeline_lines(&self, screen: &Screen) -> [String; 2] {
        let usual = u64::from(FRAMES_PER_CELL * FRAME.as_millis() as u32) / COUNT_INTERVAL.as_millis() as u64;
        let (path, shell) = self.timeline.lock().lines(room(screen), usual, screen.features());
        [labelled("", &path), labelled("", &shell)]
    }

    fn lines(&self, screen: &Screen) -> Vec<String> {
        let (features, room) = (screen.features(), room(screen));
        let state = match self.outage() {
            Some((outage, since)) => {
                let state = format!("{}, {}", outage.name(), seconds(since));
                features.style(Style::Bad, clipped(&state, room))
            }
            None => features.style(Style::Good, "open"),
        };
        let numbers = format!("{:<6} none missing, none twice", self.number());
        let mut lines = vec![
            String::new(),
            labelled("path", &state),
            labelled("counter", clipped(&numbers, room)),
            labelled("file", &self.bar(room, features)),
        ];
        lines.extend(self.timeline_lines(screen));
        lines
    }

    fn bar(&self, room: usize, features: TerminalFeatures) -> String {
        let (full, empty) = if features.unicode { ("█", "░") } else { ("#", ".") };
        let done = self.progress.returned();
        let text = format!(" {:4.1} of {} MiB there and back", mebibytes(done), SIZE >> 20);
        let bar = BAR.min(room.saturating_sub(text.len()));
        let cells = (done * bar as u64 / SIZE) as usize;
        let bar = format!("{}{}", full.repeat(cells), empty.repeat(bar - cells));
        format!("{bar}{}", clipped(&text, room))
    }

    /// All of it in one line, for a log.
    fn line(&self) -> String {
        let state = match self.outage() {
            Some((outage, since)) => format!("{}, {}", outage.name(), seconds(since)),
            None => "open".to_owned(),
        };
        format!(
            "{:>7}  counter {}; file {:.1} MiB up, {:.1} MiB back; path {state}",
            seconds(self.elapsed()),
            self.number(),
            mebibytes(self.progress.sent()),
            mebibytes(self.progress.returned()),
        )
    }

    fn number(&self) -> u64 {
        self.readings.borrow().number
    }

    fn outage(&self) -> Option<(Outage, Duration)> {
        let outage = *self.outage.lock();
        outage.map(|(outage, since)| (outage, clock::now() - since))
    }
}

/// `4.0 s`.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn labelled(label: &str, content: &str) -> String {
    format!("  {label:<width$}{content}", width = MARGIN - 2)
}

/// Columns beside the labels. The last one stays free: some terminals wrap when it is written.
fn room(screen: &Screen) -> usize {
    screen.columns().saturating_sub(MARGIN + 1)
}

/// No more than fits.
fn clipped(text: &str, room: usize) -> &str {
    text.char_indices().nth(room).map_or(text, |(end, _)| &text[..end])
}

/// What one moment was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// Whether the path was broken.
    pub(super) broken: bool,
    /// Numbers that came.
    pub(super) numbers: u64,
}

/// All moments so far.
#[derive(Debug, Default)]
pub(super) struct Timeline(Vec<Moment>);

/// From nothing to a flood.
const BARS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BARS: [char; 9] = ['.', '_', '_', '-', '-', '=', '=', '#', '#'];

/// A bar this high is what comes in an ordinary moment.
const USUAL_BAR: usize = 3;

impl Timeline {
    /// Adds a moment.
    pub(super) fn push(&mut self, moment: Moment) {
        self.0.push(moment);
    }

    /// The latest moments, as two lines of at most `columns`. `usual` numbers come in an ordinary one.
    pub(super) fn lines(&self, columns: usize, usual: u64, features: TerminalFeatures) -> (String, String) {
        let shown = &self.0[self.0.len().saturating_sub(columns)..];
        let (up, down, bars) = match features.unicode {
            true => ('━', '×', &BARS),
            false => ('-', 'x', &ASCII_BARS),
        };
        let (mut path, mut shell) = (String::new(), String::new());
        for same in shown.chunk_by(|one, other| one.broken == other.broken) {
            let broken = same[0].broken;
            let (cell, style) = if broken { (down, Style::Bad) } else { (up, Style::Good) };
            path.push_str(&features.style(style, &String::from_iter(vec![cell; same.len()])));
            shell.extend(same.iter().map(|moment| bars[height(moment.numbers, usual)]));
        }
        (path, shell)
    }
}

/// Usual moments are low enough that a flood still stands out.
fn height(numbers: u64, usual: u64) -> usize {
    match numbers {
        0 => 0,
        few if few <= usual => ((few as usize * USUAL_BAR).div_ceil(usual.max(1) as usize)).max(1),
        many => (USUAL_BAR + (many / usual.max(1)) as usize).min(BARS.len() - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: TerminalFeatures = TerminalFeatures {
        live: true,
        colour: false,
        unicode: true,
    };

    fn timeline(moments: &[(bool, u64)]) -> Timeline {
        let moments = moments.iter().map(|(broken, numbers)| Moment {
            broken: *broken,
            numbers: *numbers,
        });
        Timeline(moments.collect())
    }

    #[test]
    fn an_outage_and_the_flood_after_it_can_be_seen() {
        let seen = timeline(&[(false, 8), (true, 0), (true, 0), (false, 80), (false, 7)]);
        let (path, shell) = seen.lines(80, 8, BARE);
        assert_eq!((path.as_str(), shell.as_str()), ("━××━━", "▃··█▃"));
        let ascii = TerminalFeatures { unicode: false, ..BARE };
        let (path, shell) = seen.lines(80, 8, ascii);
        assert_eq!((path.as_str(), shell.as_str()), ("-xx--", "-..#-"));
    }

    #[test]
    fn only_the_latest_moments_are_shown_where_there_is_little_room() {
        let (path, shell) = timeline(&[(true, 0), (false, 8), (false, 8)]).lines(2, 8, BARE);
        assert_eq!((path.as_str(), shell.as_str()), ("━━", "▃▃"));
    }
}
