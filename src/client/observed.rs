//! What a client half tells of its one session, and how that is ended from outside.

use super::Control;
use crate::observe::{Boxed, Ending, Half, Report, SessionReport, Source, look_at_all};
use crate::wire::SessionId;
use std::sync::Arc;

/// What ssh shows.
const KILLED: &str = "`bowline kill` asked for it";

/// A running session, for `bowline status`.
pub(crate) struct Observed {
    /// Its id.
    pub(crate) id: SessionId,
    /// As ssh was given it.
    pub(crate) host: String,
    /// Who logs in there.
    pub(crate) user: Option<String>,
    /// The session itself.
    pub(crate) control: Control,
}

impl Source for Observed {
    fn report(&self) -> Boxed<'_, Report> {
        Box::pin(async {
            let facts = &self.control.facts;
            let vitals = look_at_all(&[Arc::clone(facts)]).await.pop().flatten();
            let session = SessionReport {
                host: Some(self.host.clone()),
                user: self.user.clone(),
                pid: Some(std::process::id()),
                ..SessionReport::new(self.id, Half::Client, facts, vitals.as_ref())
            };
            Report {
                sessions: vec![session],
                relay: None,
            }
        })
    }

    fn end(&self, ending: &Ending) -> Vec<String> {
        let own = format!("{:#}", self.id);
        let is_meant = ending.sessions.contains(&own);
        if !is_meant || (ending.only_detached && self.control.facts.snapshot().detached_for.is_none()) {
            return Vec::new();
        }
        self.control.end(KILLED);
        vec![own]
    }
}
