//! Sessions of a predecessor, made known again.

use super::Registry;
use super::task::Beginning;
use crate::pump::{Facts, Held};
use crate::server::vault::RecoveredSession;
use crate::wire::Refusal;
use tokio::sync::watch;
use tracing::{debug, info};

impl Registry {
    /// Goes on with sessions. To be called before any carrier comes.
    pub(in crate::server) fn restore(&self, recovered: Vec<RecoveredSession>) {
        // All are counted before one of them runs, or it would take the memory that the others have already.
        let count = |session: &RecoveredSession| self.budget.hold(session.kept.session.memory_held());
        let held: Vec<Held> = recovered.iter().map(count).collect();
        for (session, held) in recovered.into_iter().zip(held) {
            self.restore_one(session, held);
        }
    }

    fn restore_one(&self, recovered: RecoveredSession, held: Held) {
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
        let (entry, task) = self.prepare(&identity, facts, ready, Beginning::Recovered(Box::new(recovered), held));
        entry.epochs.take(epoch);
        info!(session = %id, user = identity.user, key = identity.account.0, remote = %identity.remote, "session goes on");
        // Refused only at the end of this process, which leaves the session in the vault.
        let _ = self.begin(known, entry, task);
    }
}
