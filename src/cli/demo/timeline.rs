//! The picture of the show: a cell per moment, the path above, what came out of the remote shell below.

use super::screen::{Style, TerminalFeatures};

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
