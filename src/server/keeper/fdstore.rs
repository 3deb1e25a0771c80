//! A store for descriptors that outlives the worker.

use std::{future::Future, io, os::fd::OwnedFd, pin::Pin, sync::Arc};

/// Keeps descriptors beyond the life of this process.
pub trait FdStore: Send + Sync {
    /// Stores descriptors under a name of 1 to 8 characters of `0-9a-z`, in addition to those that are stored there
    /// already. Returns once the keeper (and the service manager, if there is one) has stored them.
    ///
    /// # Errors
    /// See [`FdStoreError`]. Nothing of it is stored then.
    fn put<'a>(
        &'a self,
        name: &'a str,
        descriptors: Vec<Arc<OwnedFd>>,
    ) -> Pin<Box<dyn Future<Output = Result<(), FdStoreError>> + Send + 'a>>;

    /// Removes everything that is stored under this name.
    fn remove(&self, name: &str);
}

/// Why descriptors are not stored.
#[derive(Debug, thiserror::Error)]
pub enum FdStoreError {
    /// The store is full.
    #[error("the descriptor store is full ({limit} descriptors)")]
    Full {
        /// The most descriptors.
        limit: usize,
    },
    /// The keeper has died and is not replaced.
    #[error("the keeper has ended")]
    Gone,
    /// The keeper did not confirm in time.
    #[error("the keeper did not confirm within 5 s that it has stored the session")]
    Timeout,
    /// The message could not be sent; `InvalidInput` means an invalid name or too many descriptors.
    #[error("cannot send descriptors to the keeper")]
    Send(#[source] io::Error),
}
