//! Detects that the service manager has dropped stored descriptors, and stores again what there is room for.
//!
//! systemd drops stored descriptors silently: `daemon-reload` with a lower `FileDescriptorStoreMax=` closes those
//! above the limit, and systemd 252 and earlier close all of them if the unit's file is missing at that moment.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{super::Keeper, Manager, bus::BusError, unit::Stored};
use crate::server::ipc::{Notification, SENTINEL_NAME, StoreShortage, seqpacket};

/// How often the service manager is asked. If the whole service crashes before, dropped sessions are lost.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// When to check, and the last result.
#[derive(Debug)]
pub(in crate::server::supervisor) struct StoreCheck {
    due: Instant,
    shortage: Option<StoreShortage>,
    /// Hangs up when the service manager drops the other end. It was stored before everything else, so systemd drops
    /// it first.
    sentinel: Option<OwnedFd>,
}

impl StoreCheck {
    pub(in crate::server::supervisor) fn new(now: Instant) -> Self {
        Self {
            due: now + CHECK_INTERVAL,
            shortage: None,
            sentinel: None,
        }
    }

    /// Becomes readable when the sentinel was dropped.
    pub(in crate::server::supervisor) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.sentinel.as_ref().map(AsFd::as_fd)
    }

    /// Stores a sentinel, unless there is one.
    pub(in crate::server::supervisor) fn post_sentinel(&mut self, manager: &Manager) {
        if self.sentinel.is_some() || !manager.has_store() {
            return;
        }
        match seqpacket::pair() {
            Ok((ours, theirs)) => {
                // The sentinel of a previous keeper is of no use to this one.
                self.withdraw_sentinel(manager);
                let name = SENTINEL_NAME.to_owned();
                manager.forward(&Notification::Store { name }, &[theirs.as_fd()]);
                self.sentinel = Some(ours);
            }
            Err(error) => {
                warn!(%error, "cannot store a sentinel: descriptors that the service manager drops are noticed late")
            }
        }
    }

    fn withdraw_sentinel(&mut self, manager: &Manager) {
        let name = SENTINEL_NAME.to_owned();
        manager.forward(&Notification::Remove { name }, &[]);
        self.sentinel = None;
    }

    fn is_sentinel_gone(&self) -> bool {
        self.source().is_some_and(seqpacket::is_hung_up)
    }
}

impl Keeper {
    /// What was missing at the last check.
    pub(in crate::server::supervisor) fn store_shortage(&self) -> Option<StoreShortage> {
        self.store_check.shortage
    }

    /// When the next check is due.
    pub(in crate::server::supervisor) fn store_check_deadline(&self) -> Option<Instant> {
        (self.ending.is_none() && self.manager_has_store()).then_some(self.store_check.due)
    }

    pub(in crate::server::supervisor) fn check_store_if_due(&mut self, now: Instant) {
        let is_due = self.store_check_deadline().is_some_and(|due| due <= now);
        if is_due || self.ending.is_none() && self.store_check.is_sentinel_gone() {
            self.check_store(now);
        }
    }

    /// Checks whether everything is stored, and stores what is missing.
    pub(in crate::server::supervisor) fn check_store(&mut self, now: Instant) {
        self.store_check.due = now + CHECK_INTERVAL;
        let Some(manager) = self.manager.as_ref().filter(|manager| manager.has_store()) else {
            return;
        };
        let is_gone = self.store_check.is_sentinel_gone();
        if is_gone {
            self.store_check.sentinel = None;
        }
        let wanted = self.stored_fds.count() + self.listeners.len();
        match look(manager, wanted, self.store_check.sentinel.is_some()) {
            Ok(stored) if stored.count >= wanted => self.note(None),
            Ok(stored) => self.store_again(wanted, stored),
            Err(error) if is_gone => {
                warn!(%error, "the service manager has dropped stored descriptors: storing them again");
                self.store_as_much_as_fits(manager, usize::MAX);
            }
            Err(error) => {
                debug!(%error, "cannot ask the service manager how many descriptors it has stored");
                self.store_check.post_sentinel(manager);
            }
        }
    }

    /// Stores what is missing, as far as there is room.
    fn store_again(&mut self, wanted: usize, before: Stored) {
        let Some(manager) = &self.manager else { return };
        let mut after = before;
        let is_news = self.store_check.shortage.is_none();
        if is_news || before.count < wanted.min(before.most) {
            warn!(
                missing = wanted - before.count,
                stored = before.count,
                most = before.most,
                "the service manager has dropped stored descriptors: storing them again"
            );
            self.store_check.withdraw_sentinel(manager);
            self.store_as_much_as_fits(manager, before.most);
            after = look(manager, wanted, false).unwrap_or(before);
        }
        self.note((after.count < wanted).then_some(StoreShortage {
            wanted,
            kept: after.count,
            most: after.most,
        }));
    }

    /// Stores everything, or the most useful part if there is no room for all. The manager ignores what it has
    /// already.
    fn store_as_much_as_fits(&self, manager: &Manager, most: usize) {
        let Some(mut room) = most.checked_sub(self.listeners.len()) else {
            return;
        };
        // First the descriptors that all sessions need, which are single; half a session's descriptors would be
        // useless.
        let mut groups: Vec<_> = self.stored_fds.groups().collect();
        groups.sort_by_key(|(name, kept)| (kept.len(), name.len(), *name));
        let (fit, rest): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(_, kept)| {
            let left = room.checked_sub(kept.len());
            room = left.unwrap_or(room);
            left.is_some()
        });
        for (name, _) in rest {
            manager.forward(&Notification::Remove { name: name.to_owned() }, &[]);
        }
        manager.keep_listeners(&self.listeners);
        for (name, kept) in fit {
            let kept: Vec<_> = kept.iter().map(|descriptor| descriptor.as_fd()).collect();
            manager.forward(&Notification::Store { name: name.to_owned() }, &kept);
        }
    }

    fn note(&mut self, shortage: Option<StoreShortage>) {
        let Some(manager) = self.manager.as_ref().filter(|_| self.ending.is_none()) else {
            return;
        };
        if shortage.is_none() {
            self.store_check.post_sentinel(manager);
        }
        if shortage == self.store_check.shortage {
            return;
        }
        self.store_check.shortage = shortage;
        match shortage {
            Some(StoreShortage { wanted, kept, most }) => {
                warn!(
                    wanted,
                    kept,
                    most,
                    "the service manager's store is too small: some sessions will end at the next restart, and new ones are refused; \
                     raise FileDescriptorStoreMax (or bring the unit's file back) and run systemctl daemon-reload"
                );
                manager.still_ready(&format!(
                    "only {kept} of {wanted} descriptors are kept for the next start (FileDescriptorStoreMax={most})"
                ));
            }
            None => {
                info!("the service manager stores everything again");
                manager.ready(self.stored_fds.names());
            }
        }
    }
}

/// What is in the store, without the sentinel. If something seems to be missing, waits until all messages were
/// processed and looks again.
fn look(manager: &Manager, wanted: usize, has_sentinel: bool) -> Result<Stored, BusError> {
    let stored = || {
        let stored = manager.stored()?;
        let count = stored.count.saturating_sub(usize::from(has_sentinel));
        Ok(Stored { count, ..stored })
    };
    match stored()? {
        stored if stored.count >= wanted => Ok(stored),
        _ => {
            manager.barrier()?;
            stored()
        }
    }
}
