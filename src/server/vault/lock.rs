//! One worker owns the vault: an fcntl lock on a file that is kept in it.
//!
//! The kernel frees it when its holder dies, in whatever way, and also when the holder closes any descriptor of the
//! same file (fcntl_locking(2)). So nothing here is ever closed while the worker lives.

use super::{Store, VaultError};
use crate::memory::memory_file;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Its name in the store.
pub(super) const NAME: &str = "lock";

/// The lock, held.
pub(super) struct Lock {
    _kept_open: Vec<Arc<OwnedFd>>,
}

impl Lock {
    /// Takes the lock on what was kept, or makes one and keeps it.
    pub(super) async fn take(store: &dyn Store, kept: Vec<Arc<OwnedFd>>) -> Result<Lock, VaultError> {
        let is_new = kept.is_empty();
        let files = match is_new {
            true => vec![Arc::new(memory_file("bowline-lock", 1).map_err(VaultError::Lock)?)],
            false => kept,
        };
        for file in &files {
            match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    // Closing what is not locked frees nothing.
                    return Err(VaultError::Owned);
                }
                Err(error) => return Err(VaultError::Lock(io::Error::from(error))),
            }
        }
        if is_new {
            store.put(NAME, files.clone()).await?;
        }
        Ok(Lock { _kept_open: files })
    }
}
