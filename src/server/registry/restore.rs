//! Sessions of a predecessor, made known again.

use super::task::Beginning;
use super::{Registry, lock};
use crate::pump::Facts;
use crate::server::vault::RecoveredSession;
use crate::wire::Refusal;
use tokio::sync::watch;
use tracing::{debug, info};

impl Registry {
    /// Goes on with a session. To be called before any carrier comes.
    pub(in crate::server) fn restore(&self, recovered: RecoveredSession) {
        let known = self.known();
        let id = recovered.identity.session;
        if known.ended.holds(id) || known.sessions.contains_key(&id) {
            debug!(session = %id, "a session that had ended is let go");
            if let Some(vault) = &self.vault {
                vault.forget(recovered.kept.slot);
            }
            return;
        }
        let facts = Facts::of_restored(&recovered.kept.session, recovered.detached_since);
        // Connected, and kept: what an `Open` that is repeated now waits for.
        let (_, ready) = watch::channel(Some(Ok::<(), Refusal>(())));
        let (identity, epoch) = (recovered.identity.clone(), recovered.kept.session.epoch());
        let (entry, task) = self.prepare(&identity, facts, ready, Beginning::Recovered(Box::new(recovered)));
        *lock(&entry.lead) = epoch;
        info!(session = %id, user = identity.user, key = identity.account.0, remote = %identity.remote, "session goes on");
        // Refused only at the end of this process, which leaves the session in the vault.
        let _ = self.begin(known, entry, task);
    }
}
