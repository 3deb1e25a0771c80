//! What of a running relay's settings can change.

use super::{AllowList, House, Relay, RelayLimits};
use crate::wire::KeyDigest;
use std::sync::{Arc, PoisonError};

/// By which rules a relay takes who comes.
#[derive(Clone)]
pub struct Rules(Arc<House>);

impl Relay {
    /// Its rules, to be changed while it runs.
    pub fn rules(&self) -> Rules {
        Rules(Arc::clone(&self.house))
    }
}

impl Rules {
    /// Goes by these from now on. Whoever is listed and may not be any more is told to leave and taken off the list.
    /// Lower limits end nothing that runs, and [`RelayLimits::half_open`] stays as it was.
    pub fn change(&self, allow: AllowList, limits: RelayLimits) {
        self.0.quotas.change(limits);
        *self.0.allow.write().unwrap_or_else(PoisonError::into_inner) = allow;
        self.0.listings.dismiss(|keys| !self.0.permits(keys));
    }
}

impl House {
    /// Whether somebody with these keys may be listed.
    pub(super) fn permits(&self, keys: &[KeyDigest]) -> bool {
        // A plain value: a panic elsewhere cannot have left it half written.
        self.allow.read().unwrap_or_else(PoisonError::into_inner).permits(keys)
    }
}
