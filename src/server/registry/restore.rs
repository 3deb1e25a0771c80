//! Restores the sessions of a previous worker.

use super::Registry;
use super::task::SessionStart;
use crate::pump::{Reservation, SessionStats};
use crate::server::session_store::RecoveredSession;
use crate::wire::Refusal;
use tokio::sync::watch;
use tracing::{debug, info};

impl Registry {
    /// Restores sessions. To be called before any carrier arrives.
    pub(in crate::server) fn restore(&self, recovered: Vec<RecoveredSession>) {
        // All are counted before one of them runs, which otherwise could take memory that the others already use.
        let count = |session: &RecoveredSession| self.budget.reserve(session.kept.session.memory_held());
        let held: Vec<Reservation> = recovered.iter().map(count).collect();
        for (session, held) in recovered.into_iter().zip(held) {
            self.restore_one(session, held);
        }
    }

    fn restore_one(&self, recovered: RecoveredSession, held: Reservation) {
        let table = self.table();
        let id = recovered.identity.session;
        if table.ended.holds(id) || table.sessions.contains_key(&id) {
            debug!(session = %id, "removed a stored session that had ended");
            if let Some(session_store) = &self.session_store {
                session_store.forget(recovered.kept.slot);
            }
            return;
        }
        let stats = SessionStats::restored(&recovered.kept.session, recovered.detached_since);
        // Connected and stored: a repeated `Open` need not wait.
        let (_, ready) = watch::channel(Some(Ok::<(), Refusal>(())));
        let (identity, epoch) = (recovered.identity.clone(), recovered.kept.session.epoch());
        let (entry, task) = self.prepare(
            &identity,
            stats,
            ready,
            SessionStart::Recovered(Box::new(recovered), held),
        );
        entry.epochs.take(epoch);
        info!(session = %id, user = identity.user, key = identity.account.0, remote = %identity.remote, "session restored");
        // Refused only while this process ends; the session stays in the session store.
        let _ = self.begin(table, entry, task);
    }
}
