//! Notices when the service manager has dropped what it was given to keep, and gives it again what there is room for.
//!
//! systemd drops stored descriptors without a word: `daemon-reload` with a lower `FileDescriptorStoreMax=` closes what is
//! too many, and up to systemd 252 at least one that does not find the unit's file any more closes all.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use super::{
    Keeper,
    bus::BusError,
    manager::Manager,
    notice::{Notice, SENTINEL_NAME},
    packet,
    unit::Stored,
};

/// How often it is asked. Until then a crash of the whole service costs what was dropped.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// What the service manager does not keep of what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreShortage {
    /// Descriptors that it should keep.
    pub wanted: usize,
    /// Those that it does keep.
    pub kept: usize,
    /// The most that it keeps, by its present settings.
    pub most: usize,
}

/// When to look, and what was seen.
#[derive(Debug)]
pub(super) struct StoreCheck {
    due: Instant,
    shortage: Option<StoreShortage>,
    /// Hung up when the other end, which the service manager has, is dropped. It is older than all else in the store,
    /// which by the order of systemd's makes it the first to go.
    sentinel: Option<OwnedFd>,
}

impl StoreCheck {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now + CHECK_INTERVAL,
            shortage: None,
            sentinel: None,
        }
    }

    /// Readable when the sentinel is gone.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.sentinel.as_ref().map(AsFd::as_fd)
    }

    /// Has the service manager keep a sentinel, unless it does.
    pub(super) fn post_sentinel(&mut self, manager: &Manager) {
        if self.sentinel.is_some() || !manager.keeps_things() {
            return;
        }
        match packet::pair() {
            Ok((ours, theirs)) => {
                // One of a keeper before says nothing to this one.
                self.withdraw_sentinel(manager);
                let name = SENTINEL_NAME.to_owned();
                manager.pass_on(&Notice::Store { name }, &[theirs.as_fd()]);
                self.sentinel = Some(ours);
            }
            Err(error) => warn!(%error, "what the service manager drops is noticed late"),
        }
    }

    fn withdraw_sentinel(&mut self, manager: &Manager) {
        let name = SENTINEL_NAME.to_owned();
        manager.pass_on(&Notice::Remove { name }, &[]);
        self.sentinel = None;
    }

    fn is_sentinel_gone(&self) -> bool {
        self.source().is_some_and(packet::is_hung_up)
    }
}

impl Keeper {
    /// What the service manager lacks, as of the last look.
    pub(super) fn store_shortage(&self) -> Option<StoreShortage> {
        self.store_check.shortage
    }

    /// When to look again.
    pub(super) fn store_check_deadline(&self) -> Option<Instant> {
        (self.ending.is_none() && self.is_kept_above()).then_some(self.store_check.due)
    }

    pub(super) fn check_store_if_due(&mut self, now: Instant) {
        let is_due = self.store_check_deadline().is_some_and(|due| due <= now);
        if is_due || self.ending.is_none() && self.store_check.is_sentinel_gone() {
            self.check_store(now);
        }
    }

    /// Looks whether all is there, and stores again what is not.
    pub(super) fn check_store(&mut self, now: Instant) {
        self.store_check.due = now + CHECK_INTERVAL;
        let Some(manager) = self.manager.as_ref().filter(|manager| manager.keeps_things()) else {
            return;
        };
        let is_gone = self.store_check.is_sentinel_gone();
        if is_gone {
            self.store_check.sentinel = None;
        }
        let wanted = self.holdings.count() + self.listeners.len();
        match look(manager, wanted, self.store_check.sentinel.is_some()) {
            Ok(stored) if stored.count >= wanted => self.note(None),
            Ok(stored) => self.store_again(wanted, stored),
            Err(error) if is_gone => {
                warn!(%error, "the service manager has dropped descriptors that it was to keep: storing them again");
                self.store_what_fits(manager, usize::MAX);
            }
            Err(error) => {
                debug!(%error, "cannot ask the service manager what it keeps");
                self.store_check.post_sentinel(manager);
            }
        }
    }

    /// Has it keep what is missing, as far as there is room.
    fn store_again(&mut self, wanted: usize, before: Stored) {
        let Some(manager) = &self.manager else { return };
        let mut after = before;
        let is_news = self.store_check.shortage.is_none();
        if is_news || before.count < wanted.min(before.most) {
            warn!(
                missing = wanted - before.count,
                stored = before.count,
                most = before.most,
                "the service manager has dropped descriptors that it was to keep: storing them again"
            );
            self.store_check.withdraw_sentinel(manager);
            self.store_what_fits(manager, before.most);
            after = look(manager, wanted, false).unwrap_or(before);
        }
        self.note((after.count < wanted).then_some(StoreShortage {
            wanted,
            kept: after.count,
            most: after.most,
        }));
    }

    /// Stores everything, or the most useful part of it if there is no room for all: it takes no notice of what it has
    /// already.
    fn store_what_fits(&self, manager: &Manager, most: usize) {
        let Some(mut room) = most.checked_sub(self.listeners.len()) else {
            return;
        };
        // First what all sessions need, which is single; a session without its other descriptor is worth nothing.
        let mut groups: Vec<_> = self.holdings.groups().collect();
        groups.sort_by_key(|(name, kept)| (kept.len(), name.len(), *name));
        let (fit, rest): (Vec<_>, Vec<_>) = groups.into_iter().partition(|(_, kept)| {
            let left = room.checked_sub(kept.len());
            room = left.unwrap_or(room);
            left.is_some()
        });
        for (name, _) in rest {
            manager.pass_on(&Notice::Remove { name: name.to_owned() }, &[]);
        }
        manager.keep_listeners(&self.listeners);
        for (name, kept) in fit {
            let kept: Vec<_> = kept.iter().map(|descriptor| descriptor.as_fd()).collect();
            manager.pass_on(&Notice::Store { name: name.to_owned() }, &kept);
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
                    "sessions that the service manager does not keep end with the next restart, and it takes no new ones: \
                     raise FileDescriptorStoreMax (or bring the unit's file back) and run systemctl daemon-reload"
                );
                manager.still_ready(&format!(
                    "only {kept} of {wanted} descriptors are kept for the next start (FileDescriptorStoreMax={most})"
                ));
            }
            None => {
                info!("the service manager keeps everything again");
                manager.ready(self.holdings.names());
            }
        }
    }
}

/// What is in the store, beside a sentinel. If something seems to be missing: once all is done that it was told.
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
