//! Limits how often a service manager restarts a server half that cannot start.
//!
//! The unit is restarted at once and without limit, while its sessions wait in the manager's store. After a crash that
//! is right. But an error in the configuration file takes somebody a while to correct.

use std::time::{Duration, Instant};

use crate::cli::args::Command;
use crate::clock;

/// The shortest interval between two failed starts.
const MIN_FAILED_START_INTERVAL: Duration = Duration::from_secs(1);

/// The start time of a command, if a service manager restarts it.
pub(in crate::cli) struct Pause(Option<Instant>);

impl Pause {
    /// To be called before the command removes the service manager's environment variables.
    pub(in crate::cli) fn of(command: &Command) -> Self {
        let is_managed = matches!(command, Command::Serve(_)) && std::env::var_os("NOTIFY_SOCKET").is_some();
        Self(is_managed.then(clock::now))
    }

    /// Waits for the rest of the interval, after the command has failed and printed why.
    pub(in crate::cli) fn wait(self) {
        if let Some(start) = self.0 {
            std::thread::sleep(MIN_FAILED_START_INTERVAL.saturating_sub(clock::now().saturating_duration_since(start)));
        }
    }
}
