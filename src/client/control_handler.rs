//! Answers `bowline status` and `bowline kill` for the session of a client process.

use super::Control;
use crate::observe::{Boxed, ControlHandler, Half, KillRequest, Report, SessionReport, Terminal, query_all};
use crate::wire::SessionId;
use std::sync::Arc;

/// Shown by ssh.
const KILLED: &str = "`bowline kill` asked for it";

/// A running session.
pub(crate) struct SessionControlHandler {
    /// Its id.
    pub(crate) id: SessionId,
    /// The host as given to ssh.
    pub(crate) host: String,
    /// The user on the server.
    pub(crate) user: Option<String>,
    /// The handle of the session.
    pub(crate) control: Control,
    /// What `bowline ssh` says about its terminal.
    pub(crate) terminal: Terminal,
}

impl ControlHandler for SessionControlHandler {
    fn report(&self) -> Boxed<'_, Report> {
        Box::pin(async {
            let stats = &self.control.stats;
            let stats_of_one = [Arc::clone(stats)];
            let (live_stats, terminal) = tokio::join!(query_all(&stats_of_one), self.terminal.query());
            let live_stats = live_stats.into_iter().next().flatten();
            let session = SessionReport {
                host: Some(self.host.clone()),
                user: self.user.clone(),
                terminal: terminal.name,
                last_key_ms: terminal.key_ms,
                pid: Some(std::process::id()),
                ..SessionReport::new(self.id, Half::Client, stats, live_stats.as_ref())
            };
            Report {
                sessions: vec![session],
                relay: None,
            }
        })
    }

    fn end(&self, kill: &KillRequest) -> Vec<String> {
        let own = format!("{:#}", self.id);
        let is_meant = kill.sessions.contains(&own);
        if !is_meant || (kill.only_detached && self.control.stats.outages().detached_for.is_none()) {
            return Vec::new();
        }
        self.control.end(KILLED);
        vec![own]
    }
}
