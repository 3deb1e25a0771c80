//! A session's memory, and when it is returned to the system.

use super::Pump;
use crate::session::{SessionConfig, SessionMemory};
use std::time::{Duration, Instant};

/// After this long without traffic, the cost of fresh pages is not noticed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Allocates memory for a session. Unused pages are returned to the system when the session is idle.
pub fn session_memory(config: &SessionConfig) -> SessionMemory {
    #[cfg(target_os = "linux")]
    if let Ok(memory) = mapped::memory(config) {
        return memory;
    }
    SessionMemory::heap(config)
}

impl<R, W> Pump<R, W> {
    /// Returns unused memory of an idle session. The latest checkpoint already says that it is empty.
    pub(super) fn give_memory_back(&mut self, now: Instant) {
        // Probes and acknowledgements do not count as traffic.
        let transferred = self.connection.session().transferred();
        if transferred != self.transferred {
            (self.transferred, self.quiet_since) = (transferred, now);
        } else if self.memory_due().is_some_and(|due| due <= now) {
            self.connection.session_mut().release_idle_memory();
        }
    }

    pub(super) fn memory_due(&self) -> Option<Instant> {
        let session = self.connection.session();
        session.is_memory_idle().then(|| self.quiet_since + IDLE_TIMEOUT)
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
