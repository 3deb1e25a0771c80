//! The settings of a running relay that can be changed.

use super::{AllowList, Relay, RelayLimits, RelayState};
use crate::wire::KeyDigest;
use std::sync::Arc;

/// Which connections a relay accepts.
#[derive(Clone)]
pub struct Rules(Arc<RelayState>);

impl Relay {
    /// The rules, to be changed while the relay runs.
    pub fn rules(&self) -> Rules {
        Rules(Arc::clone(&self.state))
    }
}

impl Rules {
    /// Applies new rules. Server halves that are not permitted any more are told to leave and
    /// removed. Lower limits end nothing that is running, and [`RelayLimits::half_open`] does not
    /// change.
    pub fn change(&self, allow: AllowList, limits: RelayLimits) {
        self.0.quotas.change(limits);
        *self.0.allow.write() = allow;
        self.0.registrations.revoke(|keys| !self.0.permits(keys));
    }
}

impl RelayState {
    /// Whether the owner of these keys may register.
    pub(super) fn permits(&self, keys: &[KeyDigest]) -> bool {
        self.allow.read().permits(keys)
    }
}
