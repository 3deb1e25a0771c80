//! Descriptors of any kind, registered with tokio.
//!
//! Only the registration; what is read or written, and how, is the caller's.

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// An owned descriptor whose readiness tokio watches.
///
/// What is done with it must not block: it is either in non-blocking mode or used with calls that say so.
#[derive(Debug)]
pub(crate) struct Pollable(AsyncFd<OwnedFd>);

impl Pollable {
    /// Registers the descriptor with the current tokio runtime.
    ///
    /// # Errors
    /// `PermissionDenied` for what the kernel cannot poll (a regular file, `/dev/null`); the descriptor is
    /// closed then. Whatever registering may fail with otherwise.
    pub(crate) fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        // SAFETY: the descriptor is owned, and as only shared references to the `AsyncFd` are given out,
        // nobody can close or replace it while it is registered.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
        Ok(Self(registered?))
    }
}

impl Deref for Pollable {
    type Target = AsyncFd<OwnedFd>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl AsFd for Pollable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
