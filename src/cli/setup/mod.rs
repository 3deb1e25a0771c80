//! `bowline setup`: writes what ssh or a server needs for bowline, and takes it out again.
//!
//! Everything is a change to a file that is shown as a diff, asked about, and made in one step.

mod block;
mod change;
mod client;
mod server;
mod ssh_query;

use std::io::{self, Write};

use super::args::{CommonArgs, SetupArgs};
use super::report::Failure;

pub(crate) use self::block::Damaged;
pub(crate) use self::change::FileError;
pub(crate) use self::ssh_query::SshError;

/// Puts in or takes out what was asked for.
///
/// # Errors
/// It cannot be done, nobody says yes, or it is done and has no effect.
pub(super) fn run(args: &SetupArgs, common: CommonArgs) -> Result<(), Failure> {
    if args.server {
        server::run(&server::ServerSettings::new(args, common)?)
    } else {
        client::run(&client::ClientSettings::new(args)?)
    }
}

/// A closed stdout is not an error.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}
