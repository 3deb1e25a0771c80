//! What keeps a service manager from starting a server half that cannot start fifty times a second.
//!
//! The unit is started anew at once, and without end: its sessions wait in the manager's store meanwhile. After a crash
//! that is wanted. Somebody has to mend a configuration file first, and that takes a while.

use std::time::{Duration, Instant};

use crate::cli::args::Command;
use crate::clock;

/// The least time between two starts that fail.
const LEAST: Duration = Duration::from_secs(1);

/// A command's start, if it is one that a service manager starts again.
pub(in crate::cli) struct Pause(Option<Instant>);

impl Pause {
    /// To be asked before the command takes what the manager has put into the environment.
    pub(in crate::cli) fn of(command: &Command) -> Self {
        let is_managed = matches!(command, Command::Serve(_)) && std::env::var_os("NOTIFY_SOCKET").is_some();
        Self(is_managed.then(clock::now))
    }

    /// Waits for what is left of the time, once the command has failed and said why.
    pub(in crate::cli) fn wait(self) {
        if let Some(start) = self.0 {
            std::thread::sleep(LEAST.saturating_sub(clock::now().saturating_duration_since(start)));
        }
    }
}
