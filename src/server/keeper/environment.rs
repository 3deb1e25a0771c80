//! Reads what a service manager passes to a keeper: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

use std::{
    env,
    os::fd::{AsFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use tracing::{info, warn};

use super::{
    limits::{STORED_BESIDE, STORED_PER_SESSION, store_limit},
    listener::Listener,
    manager::{Manager, ManagerConfig, TRIAL_NAME},
    sd_notify::{MAX_NAME, is_name, is_worker_name},
    stored_fds::may_be_stored,
};
use crate::clock;

/// The first passed descriptor (SD_LISTEN_FDS_START).
const FIRST_PASSED_FD: RawFd = 3;

/// The most bytes of all names together: a service manager passes them in one environment variable (MAX_ARG_STRLEN).
const MAX_BYTES_OF_NAMES: usize = 128 * 1024;

/// Removed from the environment, because they are meant for this process and not for its children.
const VARIABLES: [&str; 8] = [
    "FDSTORE",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// A service manager, and the descriptors that it has stored.
#[derive(Debug, Default)]
pub struct ServiceManager {
    pub(super) config: Option<ManagerConfig>,
    pub(super) listeners: Vec<Listener>,
    pub(super) stored: Vec<(String, Arc<OwnedFd>)>,
    /// Names that it is to remove from its store: tests that were interrupted, and everything, if it has no room for a
    /// session.
    pub(super) obsolete_names: Vec<String>,
}

impl ServiceManager {
    /// Reads and removes the variables of the service manager. Without a service manager there are none.
    ///
    /// To be called once, at the start of the program, before there is a second thread.
    pub fn take() -> Self {
        let [says, count, names, pid, _, address, watchdog_pid, watchdog] = VARIABLES.map(|name| env::var(name).ok());
        for name in VARIABLES {
            // SAFETY: the caller guarantees that there is no other thread that could read the environment meanwhile.
            #[allow(unsafe_code)]
            unsafe {
                env::remove_var(name);
            }
        }
        let mut found = Self::default();
        if is_ours(pid.as_deref(), false) {
            let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
            let names = names.unwrap_or_default();
            let names = names.split(':').chain(std::iter::repeat(""));
            for (number, name) in (FIRST_PASSED_FD..).take(count).zip(names) {
                // SAFETY: LISTEN_PID says that these are given to this process; they are taken once, because it was
                // removed above.
                #[allow(unsafe_code)]
                let descriptor = unsafe { take_descriptor(number) };
                found.sort_in(name, descriptor);
            }
        }
        found.config = address
            .filter(|address| address.starts_with(['/', '@']))
            .map(|address| ManagerConfig {
                pid: std::process::id(),
                address,
                watchdog_interval: watchdog
                    .and_then(|micros| micros.parse().ok())
                    .filter(|&micros| micros > 0 && is_ours(watchdog_pid.as_deref(), true))
                    .map(|micros| Duration::from_micros(micros) / 2),
                advertised: says.and_then(|most| most.parse().ok()),
                capacity: 0,
            });
        found
    }

    /// Whether this process has a service manager.
    pub fn is_there(&self) -> bool {
        self.config.is_some()
    }

    /// Listening sockets that it has stored.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// How many sessions it can store, of `wanted`; `None` if it stores none. To be called before a keeper is started.
    pub fn max_stored_sessions(&mut self, wanted: usize) -> Option<usize> {
        let kept = self.stored.len() + self.listeners.len() + self.obsolete_names.len();
        let config = self.config.as_mut()?;
        let fit = max_stored_sessions(config, wanted, kept)?;
        if fit == 0 && wanted > 0 {
            give_up_store(config);
            let stored = self.stored.iter().map(|(name, _)| name.clone());
            let listeners = self.listeners.iter().map(|listener| listener.protocol().to_string());
            self.obsolete_names.extend(stored.chain(listeners));
            return None;
        }
        Some(fit)
    }

    fn sort_in(&mut self, name: &str, descriptor: Option<OwnedFd>) {
        let Some(descriptor) = descriptor else { return };
        match Listener::of(descriptor) {
            // A worker stored it as a connection, and something else was made of it.
            Ok(_) if is_worker_name(name) => {
                warn!(
                    name,
                    "a listening socket is stored under the name of a session: removed"
                );
                self.obsolete_names.push(name.to_owned());
            }
            Ok(listener) => self.listeners.push(listener),
            Err(_) if name.starts_with(TRIAL_NAME) => self.obsolete_names.push(name.to_owned()),
            Err(descriptor) if is_name(name) && may_be_stored(descriptor.as_fd()) => {
                self.stored.push((name.to_owned(), Arc::new(descriptor)));
            }
            Err(_) => warn!(name, "ignored a descriptor of the service manager"),
        }
    }
}

/// How many sessions a service manager can store, beside those descriptors that it has already. Tests its store unless
/// that was done before.
pub(super) fn max_stored_sessions(config: &mut ManagerConfig, wanted: usize, kept: usize) -> Option<usize> {
    let mut manager = Manager::of(config, clock::now())?;
    // Two descriptors, each with its name and a colon.
    let nameable = MAX_BYTES_OF_NAMES / (STORED_PER_SESSION * (MAX_NAME + 1)) - STORED_BESIDE;
    let most = wanted.min(nameable);
    let needed = store_limit(most);
    if config.capacity < needed {
        manager.try_out(needed, kept, config.advertised);
    }
    *config = manager.config().clone();
    if config.capacity == 0 {
        info!("the service manager stores no descriptors: sessions end when the service is restarted");
        return None;
    }
    Some(config.capacity.saturating_sub(STORED_BESIDE) / STORED_PER_SESSION)
}

/// Stops using a store that has no room for a session. A server half whose sessions end at a restart is better than
/// one that refuses all sessions.
pub(super) fn give_up_store(config: &mut ManagerConfig) {
    warn!(
        kept = config.capacity,
        needed = store_limit(1),
        "the service manager's store (FileDescriptorStoreMax) has no room for a session: sessions end when the service is \
         restarted"
    );
    config.capacity = 0;
}

fn is_ours(pid: Option<&str>, is_optional: bool) -> bool {
    pid.map_or(is_optional, |pid| pid.parse() == Ok(std::process::id()))
}

/// # Safety
/// The descriptor must have no other owner.
#[allow(unsafe_code)]
unsafe fn take_descriptor(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: only borrowed for this expression; a closed one fails with EBADF.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).ok()?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, as checked above, and the caller guarantees that it has no other owner.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
