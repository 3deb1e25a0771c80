//! Reports a server half's sessions, and ends them on request.

use super::entry::Entry;
use super::{Registry, SessionTable};
use crate::observe::{Boxed, ControlHandler, Half, KillRequest, Report, SessionReport, query_all};
use crate::wire::SessionId;
use std::sync::Arc;
use tracing::info;

/// The reason that the client half is given.
const KILLED: &str = "ended by `bowline kill` on the server";

impl ControlHandler for Registry {
    fn report(&self) -> Boxed<'_, Report> {
        Box::pin(async {
            let entries = self.entries();
            let stats: Vec<_> = entries.iter().map(|(_, entry)| Arc::clone(&entry.stats)).collect();
            let live_stats = query_all(&stats).await;
            let running = entries
                .iter()
                .zip(&live_stats)
                .map(|((id, entry), live_stats)| SessionReport {
                    user: Some(entry.user.clone()),
                    key: Some(entry.account.0.clone()),
                    peer: Some(entry.stats.outages().remote.unwrap_or(entry.opened_from)),
                    alias: entry.upstream_from.get().copied(),
                    ..SessionReport::new(*id, Half::Server, &entry.stats, live_stats.as_ref())
                });
            let mut sessions: Vec<_> = running.collect();
            sessions.extend(gone(&self.table()));
            Report { sessions, relay: None }
        })
    }

    fn end(&self, kill: &KillRequest) -> Vec<String> {
        let table = self.table();
        let mut ended = Vec::new();
        for name in &kill.sessions {
            let Some(id) = SessionId::from_hex(name) else { continue };
            let Some(entry) = table.sessions.get(&id) else { continue };
            if !kill.only_detached || entry.stats.outages().detached_for.is_some() {
                info!(session = %id, "ending the session: requested by `bowline kill`");
                entry.end(KILLED);
                ended.push(name.clone());
            }
        }
        ended
    }
}

impl Registry {
    fn entries(&self) -> Vec<(SessionId, Arc<Entry>)> {
        let table = self.table();
        // A session that is not open yet is not shown.
        let open = table
            .sessions
            .iter()
            .filter(|(_, entry)| matches!(*entry.ready.borrow(), Some(Ok(()))));
        open.map(|(id, entry)| (*id, Arc::clone(entry))).collect()
    }
}

fn gone(table: &SessionTable) -> impl Iterator<Item = SessionReport> {
    table.ended.latest().map(|(session, why, age)| SessionReport {
        age_ms: u64::try_from(age.as_millis()).ok(),
        reason: Some(why.to_owned()),
        ..SessionReport::gone(session, Half::Server)
    })
}
