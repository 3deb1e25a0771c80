//! The table on a screen of its own, which is left as it was found.

use std::io::{self, Stdout};
use std::ops::Range;
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::{Frame, Terminal};

use super::gather::Overview;
use super::table::{self, Kind, Row};
use crate::observe::State;

/// Rows that a page up or down moves.
const PAGE: usize = 10;

/// What somebody wants who pressed a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Quit,
    Redraw,
}

/// The terminal, in our hands until this is dropped.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    /// Rows above the first that is shown.
    above: usize,
}

impl Screen {
    /// # Errors
    /// It is no terminal, or has gone.
    pub(super) fn enter() -> io::Result<Screen> {
        enable_raw_mode()?;
        let terminal = execute!(io::stdout(), EnterAlternateScreen)
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stdout())));
        match terminal {
            Ok(terminal) => Ok(Screen { terminal, above: 0 }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }

    /// What keys have been pressed for, without waiting for one.
    pub(super) fn pressed_action(&mut self) -> io::Result<Option<Action>> {
        let mut action = None;
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match self.handle_key(key) {
                    Some(Action::Quit) => return Ok(Some(Action::Quit)),
                    Some(Action::Redraw) => action = Some(Action::Redraw),
                    None => {}
                },
                Event::Resize(..) => action = Some(Action::Redraw),
                _ => {}
            }
        }
        Ok(action)
    }

    /// Shows it, as much as there is room for.
    pub(super) fn draw(&mut self, overview: &Overview) -> io::Result<()> {
        let above = &mut self.above;
        self.terminal.draw(|frame| draw(frame, overview, above))?;
        Ok(())
    }

    fn handle_key(&mut self, key: KeyEvent) -> Option<Action> {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        self.above = match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Char('c' | 'd') if is_control => return Some(Action::Quit),
            KeyCode::Up | KeyCode::Char('k') => self.above.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.above + 1,
            KeyCode::PageUp => self.above.saturating_sub(PAGE),
            KeyCode::PageDown => self.above + PAGE,
            KeyCode::Home => 0,
            _ => return None,
        };
        Some(Action::Redraw)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        give_back();
    }
}

/// A terminal that has gone needs nothing back.
fn give_back() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen);
    let _ = disable_raw_mode();
}

fn draw(frame: &mut Frame<'_>, overview: &Overview, above: &mut usize) {
    let area = frame.area();
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    frame.render_widget(Text::from(page(overview, above, width, height)), area);
}

/// Lines from top to bottom: what there is, the tables, who else is there, which keys there are.
fn page(overview: &Overview, above: &mut usize, width: usize, height: usize) -> Vec<Line<'static>> {
    let mut last = table::footer(overview);
    // The sessions are what it is about.
    last.truncate(height.saturating_sub(4) / 2);
    let room = height.saturating_sub(4 + last.len());
    let mut rows = table::rows(overview, Some(width)).into_iter();
    // The first heading stays where it is.
    let heading = rows.next().map(styled).unwrap_or_default();
    *above = (*above).min(rows.len().saturating_sub(room));
    let shown = *above..rows.len().min(*above + room);
    let mut lines = vec![plain(title(overview, &shown, rows.len())), heading];
    lines.extend(rows.skip(shown.start).take(shown.len()).map(styled));
    lines.resize(height.saturating_sub(1 + last.len()).max(lines.len()), Line::default());
    lines.extend(last.into_iter().map(plain));
    lines.push(Line::styled(
        "q: quit; up, down, page up, page down: scroll",
        Style::new().add_modifier(Modifier::DIM),
    ));
    lines
}

fn title(overview: &Overview, shown: &Range<usize>, rows: usize) -> String {
    let relayed: u64 = overview.relays.iter().map(|relay| relay.splices).sum();
    let mut title = match (overview.sessions.len(), relayed) {
        (0, 0) => return "no sessions on this machine".to_owned(),
        (0, relayed) => counted(relayed, "path relayed", "paths relayed"),
        (sessions, 0) => counted(sessions as u64, "session", "sessions"),
        (sessions, relayed) => {
            counted(sessions as u64, "session", "sessions") + ", " + &counted(relayed, "path relayed", "paths relayed")
        }
    };
    if shown.len() < rows {
        title += &format!(", {} to {} shown", shown.start + 1, shown.end);
    }
    title
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn plain(text: String) -> Line<'static> {
    Line::raw(text)
}

fn styled(row: Row) -> Line<'static> {
    Line::styled(row.text, style(row.kind))
}

/// What waits, and what is over, is seen at once; words say it too.
fn style(kind: Kind) -> Style {
    match kind {
        Kind::Heading => Style::new().add_modifier(Modifier::REVERSED),
        Kind::Session(State::Probing | State::Detached) => Style::new().fg(Color::Yellow),
        Kind::Session(State::Gone) => Style::new().add_modifier(Modifier::DIM),
        Kind::Session(State::Connected) | Kind::Path | Kind::Gap => Style::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Half, PathReport, RelayReport, SessionReport};
    use crate::wire::SessionId;

    fn overview(sessions: u8) -> Overview {
        let session = |byte| SessionReport::gone(SessionId::new([byte; 16]), Half::Server);
        Overview {
            sessions: (0..sessions).map(session).collect(),
            ..Overview::default()
        }
    }

    fn text(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_page_fits_the_terminal_and_moves_no_further_than_its_end() {
        for height in [5, 24, 60] {
            for sessions in [0, 1, 30] {
                let mut above = 1000;
                let lines = page(&overview(sessions), &mut above, 80, height);
                assert_eq!(lines.len(), height, "{sessions} sessions");
                assert!(text(&lines).iter().all(|line| line.chars().count() <= 80));
            }
        }
        let mut above = 1000;
        let lines = text(&page(&overview(30), &mut above, 80, 24));
        assert_eq!((above, lines[0].as_str()), (10, "30 sessions, 11 to 30 shown"));
        assert!(
            lines[2].starts_with("0a0a0a0a") && lines[21].starts_with("1d1d1d1d"),
            "{lines:?}"
        );
    }

    #[test]
    fn paths_of_a_relay_follow_the_sessions_and_move_with_them() {
        let path = PathReport {
            peer: "192.0.2.7:1".parse().expect("an address"),
            transport: "tls".to_owned(),
            host_key: "SHA256:abcdefghijk".to_owned(),
            bytes_up: 0,
            bytes_down: 0,
            age_ms: 0,
        };
        let relay = RelayReport {
            pid: 1,
            udp: Vec::new(),
            tls: Vec::new(),
            registered: 1,
            splices: 40,
            bytes_up: 0,
            bytes_down: 0,
            paths: vec![path; 40],
        };
        let overview = Overview {
            relays: vec![relay],
            ..overview(1)
        };
        let mut above = 0;
        let lines = text(&page(&overview, &mut above, 80, 24));
        assert_eq!(lines[0], "1 session, 40 paths relayed, 1 to 19 shown");
        assert!(lines[1].starts_with("ID") && lines[4].starts_with("FROM"), "{lines:?}");
        assert!(lines[5].starts_with("192.0.2.7:1"), "{lines:?}");
        above = 1000;
        page(&overview, &mut above, 80, 24);
        assert_eq!(above, 43 - 19);
    }
}
