//! The lock that makes one worker the owner of the session store: an fcntl lock on a memfd that is stored there.
//!
//! The kernel releases it when its owner dies, and also when the owner closes any descriptor of the same file
//! (fcntl_locking(2)). Therefore no such descriptor is ever closed while the worker runs.

use super::{FdStore, SessionStoreError};
use crate::memory::memory_file;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Its name in the descriptor store.
pub(super) const NAME: &str = "lock";

/// The lock, held until the process ends.
pub(super) struct Lock {
    _kept_open: Vec<Arc<OwnedFd>>,
}

impl Lock {
    /// Locks the stored file, or creates and stores one.
    pub(super) async fn take(store: &dyn FdStore, kept: Vec<Arc<OwnedFd>>) -> Result<Lock, SessionStoreError> {
        let is_new = kept.is_empty();
        let files = match is_new {
            true => vec![Arc::new(
                memory_file("bowline-lock", 1).map_err(SessionStoreError::Lock)?,
            )],
            false => kept,
        };
        for file in &files {
            match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::AGAIN | Errno::ACCESS) => {
                    // Closing a descriptor on which this process holds no lock releases nothing.
                    return Err(SessionStoreError::Owned);
                }
                Err(error) => return Err(SessionStoreError::Lock(io::Error::from(error))),
            }
        }
        if is_new {
            store.put(NAME, files.clone()).await?;
        }
        Ok(Lock { _kept_open: files })
    }
}
