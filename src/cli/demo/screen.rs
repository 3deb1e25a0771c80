//! What the user sees: lines that stay, and below them, on a terminal, a few that are drawn anew in place.
//!
//! Plain escape codes that every terminal of the last forty years knows. Where nobody can see them, none is written.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use parking_lot::Mutex;
use rustix::termios::tcgetwinsize;

/// Columns where the terminal does not say, and the most that lines are made for.
const COLUMNS: usize = 80;

/// How text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Bold,
    Dim,
    Good,
    Bad,
}

/// What the terminal can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct TerminalFeatures {
    /// Lines can be drawn anew in place.
    pub(super) live: bool,
    /// Colours are there, and wanted (`NO_COLOR` of no-color.org).
    pub(super) colour: bool,
    /// The locale has more than ASCII.
    pub(super) unicode: bool,
}

/// Stdout.
pub(super) struct Screen {
    features: TerminalFeatures,
    /// Live lines that stand there now.
    drawn: Mutex<usize>,
}

impl TerminalFeatures {
    fn of_stdout() -> TerminalFeatures {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let live = io::stdout().is_terminal() && variable("TERM").is_some_and(|term| term != "dumb");
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(variable);
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        TerminalFeatures {
            live,
            colour: live && variable("NO_COLOR").is_none(),
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// `text` in that style.
    pub(super) fn style(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Bad => "1;31",
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

impl Screen {
    /// Looks at what stdout is.
    pub(super) fn new() -> Screen {
        Screen {
            features: TerminalFeatures::of_stdout(),
            drawn: Mutex::new(0),
        }
    }

    pub(super) fn features(&self) -> TerminalFeatures {
        self.features
    }

    /// Columns of the terminal now, 80 at most.
    pub(super) fn columns(&self) -> usize {
        let size = tcgetwinsize(io::stdout()).ok();
        let columns = size.map_or(0, |size| usize::from(size.ws_col));
        if columns == 0 { COLUMNS } else { columns.min(COLUMNS) }
    }

    /// Writes lines that stay.
    pub(super) fn say(&self, lines: &str) {
        let mut drawn = self.drawn.lock();
        let mut text = erase(*drawn);
        *drawn = 0;
        text.push_str(lines);
        text.push('\n');
        put(&text);
    }

    /// Draws these lines in place of those drawn before. Each must fit into the terminal. Nothing where none is.
    pub(super) fn draw(&self, lines: &[String]) {
        if !self.features.live {
            return;
        }
        let mut drawn = self.drawn.lock();
        let mut text = erase(*drawn);
        for line in lines {
            // A failed write to a String does not exist.
            let _ = writeln!(text, "{line}");
        }
        *drawn = lines.len();
        put(&text);
    }

    /// Takes the live lines away.
    pub(super) fn clear(&self) {
        let mut drawn = self.drawn.lock();
        put(&erase(*drawn));
        *drawn = 0;
    }
}

/// Goes up as many lines and takes all below away.
fn erase(lines: usize) -> String {
    match lines {
        0 => String::new(),
        lines => format!("\x1b[{lines}A\r\x1b[J"),
    }
}

fn put(text: &str) {
    let mut stdout = io::stdout().lock();
    // A stdout that nobody reads is not an error: the exit code says the rest.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_colour_style_leaves_no_mark() {
        let plain = TerminalFeatures {
            live: true,
            colour: false,
            unicode: true,
        };
        assert_eq!(plain.style(Style::Bad, "text"), "text");
        let coloured = TerminalFeatures { colour: true, ..plain };
        assert_eq!(coloured.style(Style::Bad, "text"), "\x1b[1;31mtext\x1b[0m");
    }
}
