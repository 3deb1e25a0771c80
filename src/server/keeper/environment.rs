//! What a service manager starts a keeper with: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

use std::{
    env,
    os::fd::{AsFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use tracing::{info, warn};

use super::{
    holdings::may_be_kept,
    limits::{KEPT_BESIDE, KEPT_PER_SESSION, store_limit},
    listener::Listener,
    manager::{Manager, ManagerTerms, TRIAL_NAME},
    notice::{MOST_NAME, is_name, is_workers_name},
};
use crate::clock;

/// The first descriptor that is passed (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;

/// Most bytes that all names may have together when they come back: one environment variable (MAX_ARG_STRLEN).
const MOST_BYTES_OF_NAMES: usize = 128 * 1024;

/// Read once, by the process that they were meant for, and for none of its children.
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

/// A service manager, and what it has kept since the keeper before.
#[derive(Debug, Default)]
pub struct ServiceManager {
    pub(super) terms: Option<ManagerTerms>,
    pub(super) listeners: Vec<Listener>,
    pub(super) stored: Vec<(String, Arc<OwnedFd>)>,
    /// Names of what it is not to keep any longer: trials that did not come to their end, and everything, if it has no
    /// room for a session.
    pub(super) leftovers: Vec<String>,
}

impl ServiceManager {
    /// Takes what the environment says of it out of there. Without a service manager there is nothing to take.
    ///
    /// To be called once, at the start of the program, before there is a second thread.
    pub fn take() -> Self {
        let [says, count, names, pid, _, address, watchdog_pid, watchdog] = VARIABLES.map(|name| env::var(name).ok());
        for name in VARIABLES {
            // SAFETY: the caller says that there is no other thread which could read the environment meanwhile.
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
            for (number, name) in (FIRST..).take(count).zip(names) {
                // SAFETY: LISTEN_PID says that these are given to us; they are taken once, as it is removed above.
                #[allow(unsafe_code)]
                let descriptor = unsafe { take_descriptor(number) };
                found.sort_in(name, descriptor);
            }
        }
        found.terms = address
            .filter(|address| address.starts_with(['/', '@']))
            .map(|address| ManagerTerms {
                pid: std::process::id(),
                address,
                sign_of_life: watchdog
                    .and_then(|micros| micros.parse().ok())
                    .filter(|&micros| micros > 0 && is_ours(watchdog_pid.as_deref(), true))
                    .map(|micros| Duration::from_micros(micros) / 2),
                says: says.and_then(|most| most.parse().ok()),
                keeps: 0,
            });
        found
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.terms.is_some()
    }

    /// Sockets that are bound already.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// How many sessions it can keep, of `wanted`; `None` if it keeps none. To be asked before a keeper is started.
    pub fn most_sessions(&mut self, wanted: usize) -> Option<usize> {
        let kept = self.stored.len() + self.listeners.len() + self.leftovers.len();
        let terms = self.terms.as_mut()?;
        let fit = most_sessions(terms, wanted, kept)?;
        if fit == 0 && wanted > 0 {
            give_up_store(terms);
            let stored = self.stored.iter().map(|(name, _)| name.clone());
            let listeners = self.listeners.iter().map(|listener| listener.protocol().to_string());
            self.leftovers.extend(stored.chain(listeners));
            return None;
        }
        Some(fit)
    }

    fn sort_in(&mut self, name: &str, descriptor: Option<OwnedFd>) {
        let Some(descriptor) = descriptor else { return };
        match Listener::of(descriptor) {
            // A worker had it kept as a connection, and has made something else of it.
            Ok(_) if is_workers_name(name) => {
                warn!(name, "a socket that listens is kept under a name of sessions: dropped");
                self.leftovers.push(name.to_owned());
            }
            Ok(listener) => self.listeners.push(listener),
            Err(_) if name.starts_with(TRIAL_NAME) => self.leftovers.push(name.to_owned()),
            Err(descriptor) if is_name(name) && may_be_kept(descriptor.as_fd()) => {
                self.stored.push((name.to_owned(), Arc::new(descriptor)));
            }
            Err(_) => warn!(name, "the service manager passes something that is no use here"),
        }
    }
}

/// How many sessions a service manager can keep, beside those descriptors that it has already. It is tried out unless
/// it was already.
pub(super) fn most_sessions(terms: &mut ManagerTerms, wanted: usize, kept: usize) -> Option<usize> {
    let mut manager = Manager::of(terms, clock::now())?;
    // Two names with a colon each.
    let nameable = MOST_BYTES_OF_NAMES / (KEPT_PER_SESSION * (MOST_NAME + 1)) - KEPT_BESIDE;
    let most = wanted.min(nameable);
    let needed = store_limit(most);
    if terms.keeps < needed {
        manager.try_out(needed, kept, terms.says);
    }
    *terms = manager.terms().clone();
    if terms.keeps == 0 {
        info!("the service manager keeps no descriptors: sessions do not outlive a restart of the service");
        return None;
    }
    Some(terms.keeps.saturating_sub(KEPT_BESIDE) / KEPT_PER_SESSION)
}

/// There is no room for a session. A server half that refuses everybody for that is of less use than one whose sessions
/// end at a restart.
pub(super) fn give_up_store(terms: &mut ManagerTerms) {
    warn!(
        kept = terms.keeps,
        needed = store_limit(1),
        "the service manager's store (FileDescriptorStoreMax) has no room for a session: sessions do not outlive a restart \
         of the service"
    );
    terms.keeps = 0;
}

fn is_ours(pid: Option<&str>, is_optional: bool) -> bool {
    pid.map_or(is_optional, |pid| pid.parse() == Ok(std::process::id()))
}

/// # Safety
/// Nobody else may own it.
#[allow(unsafe_code)]
unsafe fn take_descriptor(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: only borrowed for this expression; a closed one fails with EBADF.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).ok()?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).ok()?;
    // SAFETY: open, as seen above, and by the caller's word nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
