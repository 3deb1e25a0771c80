//! How many file descriptors a process may have, and how many sessions that allows.

use rustix::process::Resource;
use tracing::debug;

/// Descriptors that a worker, which needs the most, needs for each session: the connection to sshd, the memory, a
/// timer, the carrier, and a standby carrier if those are over TCP.
const PER_SESSION: usize = 5;

/// Descriptors for everything else: sockets, questions to sshd (at most 16 at a time), handshakes, log files, the
/// runtime.
const RESERVE: usize = 256;

/// Descriptors stored for each session.
pub(super) const STORED_PER_SESSION: usize = 2;

/// Descriptors stored for other purposes, with some to spare.
pub(super) const STORED_BESIDE: usize = 16;

/// Raises the soft limit to the hard one: the usual soft limit of 1024 exists for programs that use select(2). Returns
/// the new limit; `None`: there is none.
pub fn raise_descriptor_limit() -> Option<usize> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        debug!(%error, "cannot raise the limit of open files");
        limit.current = before;
    }
    limit.current.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many descriptors are stored for this many sessions.
pub fn store_limit(sessions: usize) -> usize {
    sessions
        .saturating_mul(STORED_PER_SESSION)
        .saturating_add(STORED_BESIDE)
}

/// How many sessions keeper and worker can have with this many descriptors.
pub fn sessions_within(descriptors: usize) -> usize {
    descriptors.saturating_sub(RESERVE) / PER_SESSION
}

/// How many descriptors a process needs for this many sessions.
pub fn descriptors_for(sessions: usize) -> usize {
    sessions.saturating_mul(PER_SESSION).saturating_add(RESERVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_limits_allow_the_usual_number_of_sessions() {
        assert_eq!((sessions_within(5256), descriptors_for(1000)), (1000, 5256));
        assert_eq!(
            (sessions_within(260), sessions_within(261), descriptors_for(1)),
            (0, 1, 261)
        );
        assert_eq!(sessions_within(100), 0);
        assert_eq!(store_limit(1000), 2016);
    }
}
