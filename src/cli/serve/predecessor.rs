//! What exists already when a keeper starts.

use std::os::fd::BorrowedFd;

use crate::server::handover::{Handover, Listener};
use crate::server::ipc::ControlListener;
use crate::server::supervisor::ServiceManager;

/// The source of a keeper's existing sockets and sessions.
pub(super) enum Predecessor<'a> {
    /// A service manager, which may have stored descriptors of the previous keeper.
    Manager(ServiceManager),
    /// Another keeper.
    Keeper(&'a mut Handover),
}

impl Predecessor<'_> {
    /// Bound sockets.
    pub(super) fn listeners(&self) -> &[Listener] {
        match self {
            Predecessor::Manager(manager) => manager.listeners(),
            Predecessor::Keeper(handover) => handover.listeners(),
        }
    }

    /// The built-in SSH server's listening socket.
    pub(super) fn sidecar_input(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Predecessor::Manager(_) => None,
            Predecessor::Keeper(handover) => handover.sidecar_input(),
        }
    }

    /// The socket on which other keepers ask who is running.
    pub(super) fn control_listener(&self) -> Option<&ControlListener> {
        match self {
            Predecessor::Manager(_) => None,
            Predecessor::Keeper(handover) => handover.control_listener(),
        }
    }

    /// How many sessions the service manager can store, of `wanted`; `None` if it stores none.
    pub(super) fn max_stored_sessions(&mut self, wanted: usize) -> Option<usize> {
        match self {
            Predecessor::Manager(manager) => manager.max_stored_sessions(wanted),
            Predecessor::Keeper(handover) => handover.max_stored_sessions(wanted),
        }
    }

    /// The service manager. With another keeper's handover it is part of that.
    pub(super) fn into_manager(self) -> ServiceManager {
        match self {
            Predecessor::Manager(manager) => manager,
            Predecessor::Keeper(_) => ServiceManager::default(),
        }
    }
}
