//! The session store: keeps the descriptors of sessions while a worker is replaced, and lets the next worker take them
//! over.
//!
//! For each session it has the connection to sshd and a memfd, under one short name. Besides it has the lock that
//! makes one worker the owner, and the list of closed sessions. [`FdStore`] is where the descriptors are. A worker
//! that ends gracefully leaves no more behind than one that is killed.

mod closed_sessions;
mod counters;
mod fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod header;
mod lock;
mod recovery;
mod session_record;
mod slot;
mod stream;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub(crate) use super::handover::{FdStore, FdStoreError};
pub(crate) use closed_sessions::{ClosedSession, ClosedSessions, MAX_CLOSED_SESSIONS};
pub(crate) use counters::CountersError;
pub(crate) use header::Identity;
pub(crate) use recovery::{RecoveredSession, Recovery};
pub(crate) use session_record::MemoryError;
pub(crate) use slot::Slot;
pub(crate) use stream::{UpstreamRead, UpstreamWrite};

use crate::fault;
use crate::memory::Mapping;
use crate::pump::CheckpointStore;
use crate::session::{Session, SessionConfig, SessionMemory};
use counters::Recovered;
use header::{Fixed, Progress};
use lock::Lock;
use parking_lot::Mutex;
use slot::UsedSlots;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::net::TcpStream;

/// A worker's access to the session store.
pub(crate) struct SessionStore {
    store: Arc<dyn FdStore>,
    numbers: Mutex<UsedSlots>,
    _lock: Lock,
}

/// A session in the session store.
pub(crate) struct StoredSession {
    /// The session, in memory that outlives the process.
    pub(crate) session: Session,
    /// Reads from sshd.
    pub(crate) input: UpstreamRead,
    /// Writes to sshd.
    pub(crate) output: UpstreamWrite,
    /// Where the pump records its progress.
    pub(crate) checkpoints: Box<dyn CheckpointStore>,
    /// For [`SessionStore::forget`].
    pub(crate) slot: Slot,
}

/// Why the session store cannot be opened, or a session not be stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionStoreError {
    /// Another worker is running.
    #[error("another worker owns the sessions")]
    Owned,
    /// The lock cannot be taken.
    #[error("cannot lock the session store")]
    Lock(#[source] io::Error),
    /// The keeper did not store it.
    #[error(transparent)]
    Store(#[from] FdStoreError),
    /// The session's memory cannot be created.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The connection to sshd cannot be used.
    #[error("cannot use the connection to sshd")]
    Socket(#[source] io::Error),
    /// It was used before.
    #[error("the connection to sshd was used before")]
    NotFresh,
    /// The kernel's counters cannot be used.
    #[error(transparent)]
    Counters(#[from] CountersError),
    /// All slots are in use.
    #[error("the session store is full ({} sessions)", slot::MAX_SLOTS)]
    Full,
}

impl SessionStore {
    /// Opens the session store: takes its lock first, then takes over every session that a previous worker left in
    /// `stored`.
    ///
    /// A session that cannot continue is removed from the store, logged, and added to the closed sessions if its owner
    /// is known; the others continue. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// `Owned` if another worker runs; nothing was changed then. `Lock`, `Store` or `Memory` if the lock or the list
    /// of closed sessions cannot be created.
    pub(crate) async fn open(
        store: Arc<dyn FdStore>,
        stored: Vec<(String, Arc<OwnedFd>)>,
    ) -> Result<(SessionStore, Recovery), SessionStoreError> {
        let mut found = recovery::StoredParts::sort(stored);
        let lock = Lock::take(&*store, std::mem::take(&mut found.lock)).await?;
        let closed_sessions = recovery::closed_sessions(&*store, &found.closed_sessions).await?;
        let mut numbers = UsedSlots::default();
        let recovery = found.recover(&*store, closed_sessions, &mut numbers);
        let session_store = SessionStore {
            store,
            numbers: Mutex::new(numbers),
            _lock: lock,
        };
        Ok((session_store, recovery))
    }

    /// Creates a session on a fresh connection to sshd. When this returns, the next worker can take the session over,
    /// whatever happens to this process. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// All except `Owned`. Nothing is stored then.
    pub(crate) async fn create(
        &self,
        identity: Identity,
        upstream: TcpStream,
        config: &SessionConfig,
    ) -> Result<StoredSession, SessionStoreError> {
        let fixed = Fixed {
            replay: config.replay_buffer.max(SessionConfig::MIN_BUFFER) as u64,
            window: config
                .receive_window
                .clamp(SessionConfig::MIN_BUFFER, SessionConfig::MAX_RECEIVE_WINDOW) as u64,
            identity,
        };
        let socket = fresh(upstream)?;
        let first = Progress {
            detached_since: Some(fixed.identity.opened),
            ..Progress::default()
        };
        let (file, ring, session_record) = session_record::create(&fixed, first)?;
        let place = SlotReservation::take(self)?;
        let slot = Slot {
            number: place.number,
            socket: Arc::clone(&socket),
            session_record: Arc::new(session_record),
        };
        let memory = memory(ring, &fixed)?;
        let kept = StoredSession::new(Session::new(memory), slot, 0).map_err(SessionStoreError::Socket)?;
        fault::pass("store-before");
        self.store.put(&kept.slot.name(), vec![socket, Arc::new(file)]).await?;
        fault::pass("store-after");
        place.keep();
        Ok(kept)
    }

    /// Removes a session that is over, and closes its connection to sshd. To be called after its pump has ended and
    /// the session was added to the closed ones.
    pub(crate) fn forget(&self, slot: Slot) {
        slot.end();
        self.release(slot.number);
    }

    fn release(&self, number: u32) {
        self.store.remove(&slot::name(number));
        self.numbers.lock().free(number);
    }
}

impl StoredSession {
    fn new(session: Session, slot: Slot, consumed: u64) -> io::Result<StoredSession> {
        let (input, output) = stream::halves(Arc::clone(&slot.socket), Arc::clone(&slot.session_record), consumed)?;
        Ok(StoredSession {
            session,
            input,
            output,
            checkpoints: slot.checkpoints(),
            slot,
        })
    }
}

/// A slot number that is freed unless it is kept.
struct SlotReservation<'a> {
    session_store: &'a SessionStore,
    number: u32,
    is_kept: bool,
}

impl<'a> SlotReservation<'a> {
    fn take(session_store: &'a SessionStore) -> Result<SlotReservation<'a>, SessionStoreError> {
        Ok(SlotReservation {
            session_store,
            number: session_store.numbers.lock().take().ok_or(SessionStoreError::Full)?,
            is_kept: false,
        })
    }

    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for SlotReservation<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.session_store.release(self.number);
        }
    }
}

/// The connection, after checking that all its counters start at 0.
fn fresh(upstream: TcpStream) -> Result<Arc<OwnedFd>, SessionStoreError> {
    let socket = OwnedFd::from(upstream.into_std().map_err(SessionStoreError::Socket)?);
    ready_to_count(socket.as_fd()).map_err(SessionStoreError::Socket)?;
    match counters::recover(socket.as_fd(), 0, None)? {
        Recovered { written: 0, .. } => Ok(Arc::new(socket)),
        _ => Err(SessionStoreError::NotFresh),
    }
}

/// Urgent bytes must be read in line: otherwise no counter counts them.
fn ready_to_count(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_oobinline(socket, true)?)
}

fn memory(ring: Mapping, fixed: &Fixed) -> Result<SessionMemory, MemoryError> {
    let window = usize::try_from(fixed.window).unwrap_or(usize::MAX);
    Ok(SessionMemory {
        replay: Box::new(ring),
        receive: Box::new(Mapping::anonymous(window)?),
    })
}
