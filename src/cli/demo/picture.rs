//! The live lines: the counter, the file, the path, and the timeline of all that was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::counter::{COUNT_INTERVAL, Reading};
use super::outage::Outage;
use super::screen::{Screen, Style, TerminalFeatures};
use super::timeline::{Moment, Timeline};
use super::transfer::{Progress, SIZE};
use crate::clock;

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
