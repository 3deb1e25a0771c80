//! The messages on a control socket: one request, then its responses, each one line of JSON.

use super::{PathReport, RelayReport, SessionReport};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

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

/// Longest line: 500 session ids, or one session with all its paths.
const MAX_LINE_BYTES: u64 = 64 * 1024;

/// The next line; `None` at the end.
///
/// # Errors
/// `InvalidData` if the line is too long or has no such value.
pub(super) async fn read<T: DeserializeOwned>(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if !line.ends_with(b"\n") {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Encodes a value as one line.
pub(super) fn of(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::super::{KillRequest, Request};
    use super::*;

    #[tokio::test]
    async fn what_is_too_long_torn_or_garbage_is_refused() {
        let long = [&vec![b' '; MAX_LINE_BYTES as usize][..], b"1\n"].concat();
        for bad in [&long[..], b"\"Report\"", b"{nonsense}\n"] {
            let error = read::<u32>(&mut &bad[..]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(read::<u32>(&mut &b""[..]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_longest_request_fits_a_line() {
        let request = Request::Kill(KillRequest {
            sessions: vec!["0".repeat(32); KillRequest::MAX_SESSIONS],
            only_detached: true,
        });
        let line = of(&request).unwrap();
        assert_eq!(read::<Request>(&mut &line[..]).await.unwrap(), Some(request));
    }
}
