//! What is said at a desk: one request, and its answers. One line of JSON each.

use serde::{Deserialize, Serialize};

use super::{PathReport, RelayReport, SessionReport};

/// What somebody asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// What is there? Answered by a line for each session, for a relay and each of its paths, and [`Response::Done`].
    Status,
    /// End sessions. Answered by [`Response::Ended`] and [`Response::Done`].
    Kill(KillRequest),
}

/// Which sessions are to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KillRequest {
    /// Full ids, at most [`KillRequest::MAX_SESSIONS`].
    pub(crate) sessions: Vec<String>,
    /// Those only that have no carrier at that moment.
    pub(crate) only_detached: bool,
}

impl KillRequest {
    /// As many as fit a line.
    pub(crate) const MAX_SESSIONS: usize = 500;
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    Session(Box<SessionReport>),
    /// Without its paths, which would not fit a line.
    Relay(RelayReport),
    /// One of the relay before.
    Path(PathReport),
    /// The ids of those that were told to end.
    Ended(Vec<String>),
    /// Nothing more comes.
    Done,
    /// It is of another version of bowline.
    Unsupported,
}
