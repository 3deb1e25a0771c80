//! `bowline demo`: its settings, and the show.

use super::args::DemoArgs;
use super::report::{Exit, Failure};

/// What `bowline demo` works by. It reads and writes nothing outside a temporary folder.
#[derive(Debug, Clone)]
pub(crate) struct DemoSettings {
    /// Give the user the shell, and keys that break the path. Default: false, a show of under 30 s.
    pub(crate) shell: bool,
}

impl From<DemoArgs> for DemoSettings {
    fn from(args: DemoArgs) -> Self {
        DemoSettings { shell: args.shell }
    }
}

/// Runs the show.
///
/// # Errors
/// Something on this machine does not let it run, or the session did not survive.
pub(super) async fn run(settings: DemoSettings) -> Result<(), Failure> {
    let kind = if settings.shell { "shell" } else { "show" };
    Err(Failure::new(
        Exit::Internal,
        format_args!("the demo's {kind} is not wired up yet"),
    ))
}
