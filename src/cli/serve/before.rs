//! What there is already when a keeper prepares itself.

use std::os::fd::BorrowedFd;

use crate::server::keeper::{Door, Estate, Listener, ServiceManager};

/// Where it comes from.
pub(super) enum Before<'a> {
    /// A service manager, perhaps with what the keeper before has stored with it.
    Manager(ServiceManager),
    /// Another keeper.
    Keeper(&'a mut Estate),
}

impl Before<'_> {
    /// Bound sockets.
    pub(super) fn listeners(&self) -> &[Listener] {
        match self {
            Before::Manager(manager) => manager.listeners(),
            Before::Keeper(estate) => estate.listeners(),
        }
    }

    /// The built-in SSH server's listening socket.
    pub(super) fn companion_input(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Before::Manager(_) => None,
            Before::Keeper(estate) => estate.companion_input(),
        }
    }

    /// Where others ask who is running.
    pub(super) fn door(&self) -> Option<&Door> {
        match self {
            Before::Manager(_) => None,
            Before::Keeper(estate) => estate.door(),
        }
    }

    /// How many sessions the service manager keeps, of `wanted`, if it keeps any.
    pub(super) fn most_sessions(&mut self, wanted: usize) -> Option<usize> {
        match self {
            Before::Manager(manager) => manager.most_sessions(wanted),
            Before::Keeper(estate) => estate.most_sessions(wanted),
        }
    }

    /// The service manager, where it is not the other keeper's already.
    pub(super) fn into_manager(self) -> ServiceManager {
        match self {
            Before::Manager(manager) => manager,
            Before::Keeper(_) => ServiceManager::default(),
        }
    }
}
