//! Descriptors of any kind, registered with tokio.
//!
//! Only the registration; reading and writing are up to the caller.

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use tokio::io::{Interest, unix::AsyncFd};

/// An owned descriptor whose readiness tokio watches.
///
/// Operations on it must not block: it is in non-blocking mode, or used with calls that do not block.
#[derive(Debug)]
pub(crate) struct Pollable<T: AsRawFd = OwnedFd>(AsyncFd<T>);

impl Pollable {
    /// Registers the descriptor with the current tokio runtime.
    ///
    /// # Errors
    /// `PermissionDenied` for descriptors that the kernel cannot poll (a regular file, `/dev/null`), which are closed
    /// then. Other errors of registering.
    pub(crate) fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: the descriptor is owned, and only shared references to the `AsyncFd` are given out, so it cannot be
        // closed or replaced while it is registered.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
        Ok(Self(registered?))
    }
}

impl Pollable<Arc<OwnedFd>> {
    /// The same for a shared descriptor.
    ///
    /// # Errors
    /// As [`Pollable::new`].
    pub(crate) fn shared(fd: Arc<OwnedFd>, interest: Interest) -> io::Result<Self> {
        // SAFETY: our `Arc` keeps the descriptor open, and only shared references to it are given out.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
        Ok(Self(registered?))
    }
}

impl<T: AsRawFd> Deref for Pollable<T> {
    type Target = AsyncFd<T>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T: AsRawFd + AsFd> AsFd for Pollable<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
