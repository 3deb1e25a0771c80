//! `bowline status`: asks every process of bowline that may be asked, and shows what they tell.

mod gather;
mod human;
mod screen;
mod table;
mod watch;

use std::io::{self, Write};
use std::path::PathBuf;

pub(super) use self::gather::{Overview, ask_all, overview};
pub(super) use self::human::who;
use super::args::StatusArgs;
use super::report::Failure;
use super::settings::{Context, SettingsError};
use super::wrap::width;

/// What `bowline status` works by.
#[derive(Debug, Clone)]
pub(crate) struct StatusSettings {
    /// Where sockets may be. Default: the user's runtime folder, and the machine's.
    pub(crate) folders: Vec<PathBuf>,
    /// One JSON document, not a table.
    pub(crate) json: bool,
    /// Again and again.
    pub(crate) watch: bool,
}

impl StatusSettings {
    /// # Errors
    /// This user has no folders, and none is given.
    pub(super) fn new(args: StatusArgs, context: &Context) -> Result<Self, SettingsError> {
        Ok(StatusSettings {
            folders: context.runtime_folders()?,
            json: args.json,
            watch: args.watch,
        })
    }
}

/// Shows everything, once or until told to stop.
///
/// # Errors
/// The terminal cannot be used.
pub(super) async fn run(settings: StatusSettings) -> Result<(), Failure> {
    if settings.watch {
        return watch::run(&settings).await;
    }
    let overview = overview(&settings.folders).await;
    let text = if settings.json {
        format!("{}\n", overview.to_json())
    } else {
        table::text(&overview, width())
    };
    // A closed stdout is not an error: `bowline status | head -1`.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(())
}
