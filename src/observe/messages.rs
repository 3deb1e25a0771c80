//! The messages on a control socket: one request, then its responses, each one line of JSON.

use serde::{Deserialize, Serialize};

use super::{PathReport, RelayReport, SessionReport};

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Report everything. Answered by one line per session, for a relay and per path of it, and by
    /// [`Response::Done`].
    Status,
    /// End sessions. Answered by [`Response::Ended`] and [`Response::Done`].
    Kill(KillRequest),
}

/// Which sessions to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KillRequest {
    /// Full ids, at most [`KillRequest::MAX_SESSIONS`].
    pub(crate) sessions: Vec<String>,
    /// Ends only sessions that have no carrier at that moment.
    pub(crate) only_detached: bool,
}

impl KillRequest {
    /// As many as fit into a line.
    pub(crate) const MAX_SESSIONS: usize = 500;
}

/// A response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    Session(Box<SessionReport>),
    /// Without its paths, which would not fit into a line.
    Relay(RelayReport),
    /// A path of the preceding relay.
    Path(PathReport),
    /// The ids of the sessions that were told to end.
    Ended(Vec<String>),
    /// The last response.
    Done,
    /// The request is unknown: the other process runs another version.
    Unsupported,
}
