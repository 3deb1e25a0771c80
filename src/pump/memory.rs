//! The memory of a session, and when it goes back to the system.

use super::Pump;
use crate::session::{SessionConfig, SessionMemory};
use std::time::{Duration, Instant};

/// A session at rest for so long is not in the middle of anything: fresh pages will cost nothing that is felt.
const QUIET: Duration = Duration::from_secs(5);

/// Memory of this process for a session. What is empty goes back to the system when the session rests.
pub fn session_memory(config: &SessionConfig) -> SessionMemory {
    #[cfg(target_os = "linux")]
    if let Ok(memory) = mapped::memory(config) {
        return memory;
    }
    SessionMemory::heap(config)
}

impl<R, W> Pump<R, W> {
    /// Gives back what a quiet session does not need. A successor knows by now that nothing is left in it.
    pub(super) fn give_memory_back(&mut self, now: Instant) {
        // Probes and acknowledgements are no reason to keep it.
        let carried = self.session.carried();
        if carried != self.carried {
            (self.carried, self.quiet_since) = (carried, now);
        } else if self.memory_due().is_some_and(|due| due <= now) {
            self.session.release_idle_memory();
        }
    }

    pub(super) fn memory_due(&self) -> Option<Instant> {
        self.session.is_memory_idle().then(|| self.quiet_since + QUIET)
    }
}

#[cfg(target_os = "linux")]
mod mapped {
    use crate::memory::Mapping;
    use crate::session::{RingMemory, SessionConfig, SessionMemory};
    use std::io;
    use std::ops::Range;
    use tracing::debug;

    pub(super) fn memory(config: &SessionConfig) -> io::Result<SessionMemory> {
        Ok(SessionMemory {
            replay: Box::new(Mapping::anonymous(config.replay_buffer.max(SessionConfig::MIN_BUFFER))?),
            receive: Box::new(Mapping::anonymous(
                config.receive_window.max(SessionConfig::MIN_BUFFER),
            )?),
        })
    }

    impl RingMemory for Mapping {
        fn bytes(&self) -> &[u8] {
            self
        }

        fn bytes_mut(&mut self) -> &mut [u8] {
            self
        }

        fn release(&mut self, range: Range<usize>) {
            if let Err(error) = self.release(range) {
                debug!(%error, "memory could not be given back");
            }
        }
    }
}
