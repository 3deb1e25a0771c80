//! `bowline status --watch`: the same again and again. On a terminal a screen of its own, else one table after the other.

use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::gather::overview;
use super::screen::{Action, Screen};
use super::{Overview, StatusSettings, table};
use crate::cli::report::{self, Failure};
use crate::cli::signals::Signals;
use crate::clock;

/// Between looks.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// How long a key may wait: nobody notices.
const KEY_INTERVAL: Duration = Duration::from_millis(50);

/// Shows everything until told to stop, or until nobody reads it.
///
/// # Errors
/// The terminal cannot be used.
pub(super) async fn run(settings: &StatusSettings) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| report::cannot_start(&error))?;
    let shown = if io::stdout().is_terminal() && !settings.json {
        show(settings, &mut signals).await
    } else {
        tokio::select! {
            ended = print(settings) => ended.map(|never| match never {}),
            () = signals.recv() => Ok(()),
        }
    };
    match shown {
        // Whoever read it has seen enough: `bowline status --watch | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => shown.map_err(|error| report::cannot_show(&error)),
    }
}

/// For a pipe or a file. Ends only by an error.
async fn print(settings: &StatusSettings) -> io::Result<Infallible> {
    loop {
        let overview = overview(&settings.folders).await;
        let text = match settings.json {
            true => overview.to_json_line() + "\n",
            false => table::text(&overview, None) + "\n",
        };
        let mut stdout = io::stdout();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        tokio::time::sleep(REFRESH_INTERVAL).await;
    }
}

/// For a terminal, which is as it was afterwards.
async fn show(settings: &StatusSettings, signals: &mut Signals) -> io::Result<()> {
    let mut screen = Screen::enter()?;
    let mut shown = Overview::default();
    let mut keys = tokio::time::interval(KEY_INTERVAL);
    keys.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut due = clock::now();
    loop {
        let look = async move {
            clock::sleep_until(due).await;
            overview(&settings.folders).await
        };
        tokio::pin!(look);
        shown = loop {
            tokio::select! {
                found = &mut look => break found,
                () = signals.recv() => return Ok(()),
                _ = keys.tick() => match screen.pressed_action()? {
                    Some(Action::Quit) => return Ok(()),
                    Some(Action::Redraw) => screen.draw(&shown)?,
                    None => {}
                },
            }
        };
        due = next(due);
        screen.draw(&shown)?;
    }
}

/// Looks do not queue up behind a slow one.
fn next(due: Instant) -> Instant {
    (due + REFRESH_INTERVAL).max(clock::now() + KEY_INTERVAL)
}
