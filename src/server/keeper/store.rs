//! What a worker needs of somebody who outlives it.

use std::{future::Future, io, os::fd::OwnedFd, pin::Pin, sync::Arc};

/// Keeps descriptors beyond the life of this process.
pub trait Store: Send + Sync {
    /// Keeps descriptors under a name of 1 to 8 characters of `0-9a-z`, beside what is kept there already. Returns once
    /// the keeper (and the service manager above, where there is one) has them.
    ///
    /// # Errors
    /// See [`StoreError`]. Nothing of it is kept then.
    fn put<'a>(
        &'a self,
        name: &'a str,
        descriptors: Vec<Arc<OwnedFd>>,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>>;

    /// Keeps nothing more under this name.
    fn remove(&self, name: &str);
}

/// Why something is not kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no room.
    #[error("there is no room for more than {limit} descriptors")]
    Full {
        /// Most descriptors.
        limit: usize,
    },
    /// The keeper is gone, and there will be no other.
    #[error("the keeper is gone")]
    Gone,
    /// The keeper did not confirm in time.
    #[error("the keeper did not confirm within 5 s that it keeps the session")]
    Timeout,
    /// It could not be sent; `InvalidInput` means a name or a number that cannot be.
    #[error("cannot hand anything to the keeper")]
    Send(#[source] io::Error),
}
