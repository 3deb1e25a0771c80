//! The vault: where sessions' descriptors live while a worker is replaced, and how a worker takes them over.
//!
//! Per session the connection to sshd and a file in memory, under one short name; beside them the lock that makes one
//! worker the owner, and the tombstones. Who keeps the descriptors is behind [`Store`]. A worker that ends in good order
//! leaves nothing more behind than one that is killed.

mod book;
mod checksum;
mod counters;
mod fields;
mod header;
mod lock;
mod recovery;
mod slot;
mod stream;
mod tombs;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub(crate) use super::keeper::{Store, StoreError};
pub(crate) use book::MemoryError;
pub(crate) use counters::CountersError;
pub(crate) use header::Identity;
pub(crate) use recovery::{RecoveredSession, Recovery};
pub(crate) use slot::Slot;
pub(crate) use stream::{UpstreamRead, UpstreamWrite};
pub(crate) use tombs::{PLACES, Tombs, Tombstone};

use crate::fault;
use crate::memory::Mapping;
use crate::pump::Ledger;
use crate::session::{Session, SessionConfig, SessionMemory};
use counters::Recovered;
use header::{Fixed, Progress};
use lock::Lock;
use slot::Numbers;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::TcpStream;

/// The worker's hold on everything that outlives it.
pub(crate) struct Vault {
    store: Arc<dyn Store>,
    numbers: Mutex<Numbers>,
    _lock: Lock,
}

/// One session's dealings with the vault, and with sshd.
pub(crate) struct Kept {
    /// The session, in memory that outlives the process.
    pub(crate) session: Session,
    /// What sshd says.
    pub(crate) input: UpstreamRead,
    /// What sshd is told.
    pub(crate) output: UpstreamWrite,
    /// What the pump has to write to.
    pub(crate) ledger: Box<dyn Ledger>,
    /// For [`Vault::forget`].
    pub(crate) slot: Slot,
}

/// The vault cannot be opened, or a session not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    /// Another worker lives.
    #[error("another worker owns the sessions")]
    Owned,
    /// The lock cannot be had.
    #[error("cannot lock the vault")]
    Lock(#[source] io::Error),
    /// The keeper does not keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The session's memory cannot be made.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The connection to sshd cannot be used.
    #[error("cannot use the connection to sshd")]
    Socket(#[source] io::Error),
    /// It was used before.
    #[error("the connection to sshd is not a fresh one")]
    NotFresh,
    /// The kernel does not count its bytes.
    #[error(transparent)]
    Counters(#[from] CountersError),
    /// Every slot is in use.
    #[error("every place in the vault is taken")]
    Full,
}

impl Vault {
    /// Takes the vault over: its lock first, then every session that a predecessor left in `stored`.
    ///
    /// What cannot go on is dropped from the store, with a log line and where possible a tombstone; the rest goes on.
    /// Must be called in a tokio runtime.
    ///
    /// # Errors
    /// `Owned`, and nothing was touched; `Lock`; `Store` or `Memory` where the lock or the tombstones cannot be made.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        stored: Vec<(String, Arc<OwnedFd>)>,
    ) -> Result<(Vault, Recovery), VaultError> {
        let mut found = recovery::Found::sort(stored);
        let lock = Lock::take(&*store, std::mem::take(&mut found.lock)).await?;
        let tombs = recovery::tombs(&*store, &found.tombs).await?;
        let mut numbers = Numbers::default();
        let recovery = found.recover(&*store, tombs, &mut numbers);
        let vault = Vault {
            store,
            numbers: Mutex::new(numbers),
            _lock: lock,
        };
        Ok((vault, recovery))
    }

    /// A session at its beginning, on a fresh connection to sshd. When this returns its successors can be had from the
    /// store, whatever happens to this process. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// All but `Owned`. Nothing is kept then.
    pub(crate) async fn create(
        &self,
        identity: Identity,
        upstream: TcpStream,
        config: &SessionConfig,
    ) -> Result<Kept, VaultError> {
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
        let (file, ring, book) = book::create(&fixed, first)?;
        let place = Place::take(self)?;
        let slot = Slot {
            number: place.number,
            socket: Arc::clone(&socket),
            book: Arc::new(book),
        };
        let memory = memory(ring, &fixed)?;
        let kept = Kept::new(Session::new(memory), slot, 0).map_err(VaultError::Socket)?;
        fault::pass("store-before");
        self.store.put(&kept.slot.name(), vec![socket, Arc::new(file)]).await?;
        fault::pass("store-after");
        place.keep();
        Ok(kept)
    }

    /// The session is over: sshd is told, and no successor hears of it. To be called when its pump has ended and its
    /// tombstone stands.
    pub(crate) fn forget(&self, slot: Slot) {
        slot.end();
        self.release(slot.number);
    }

    fn release(&self, number: u32) {
        self.store.remove(&slot::name(number));
        self.numbers().free(number);
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        // Inserting and removing cannot be left half done.
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn new(session: Session, slot: Slot, consumed: u64) -> io::Result<Kept> {
        let (input, output) = stream::halves(Arc::clone(&slot.socket), Arc::clone(&slot.book), consumed)?;
        Ok(Kept {
            session,
            input,
            output,
            ledger: slot.ledger(),
            slot,
        })
    }
}

/// A number that goes back unless it is kept.
struct Place<'a> {
    vault: &'a Vault,
    number: u32,
    is_kept: bool,
}

impl<'a> Place<'a> {
    fn take(vault: &'a Vault) -> Result<Place<'a>, VaultError> {
        Ok(Place {
            vault,
            number: vault.numbers().take().ok_or(VaultError::Full)?,
            is_kept: false,
        })
    }

    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.vault.release(self.number);
        }
    }
}

/// The connection, in a state from which all counts begin at 0.
fn fresh(upstream: TcpStream) -> Result<Arc<OwnedFd>, VaultError> {
    let socket = OwnedFd::from(upstream.into_std().map_err(VaultError::Socket)?);
    ready_to_count(socket.as_fd()).map_err(VaultError::Socket)?;
    match counters::recover(socket.as_fd(), 0, None)? {
        Recovered { written: 0, .. } => Ok(Arc::new(socket)),
        _ => Err(VaultError::NotFresh),
    }
}

/// Urgent bytes would be counted by none of the counters if they were taken out of line.
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
