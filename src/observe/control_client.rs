//! Finds control sockets and sends requests to them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::SocketType;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tracing::debug;

use super::{Request, Response, messages};
use crate::local_socket;

/// File name prefixes of control sockets.
const PREFIXES: [&str; 2] = ["client-", "relay-"];

/// Most lines of a response: far more than a server half has sessions.
const MAX_RESPONSES: usize = 100_000;

/// A control socket that was found.
#[derive(Debug)]
pub(crate) enum FoundSocket {
    /// A connection to it, and the process id of its owner.
    Open { pid: Option<u32>, connection: OwnedFd },
    /// Its backlog is full, so its owner hangs.
    Full { file: PathBuf },
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// No response in time: the process is stopped or hangs.
    #[error("the process does not answer")]
    Silent,
    /// The connection was closed before the response was complete.
    #[error("the process closed the connection")]
    Lost(#[source] io::Error),
    /// The process runs another version of bowline.
    #[error("the process runs another version of bowline")]
    OtherVersion,
}

/// Connects to all control sockets in a folder. Removes sockets of dead processes if permitted.
pub(crate) fn control_sockets(folder: &Path) -> Vec<FoundSocket> {
    let files = local_socket::files(folder, &PREFIXES).into_iter();
    files.filter_map(connect).collect()
}

/// Removes sockets of dead processes. A process that has dropped root privileges cannot remove its own.
pub(crate) fn remove_stale_sockets(folder: &Path) {
    drop(control_sockets(folder));
}

fn connect(file: PathBuf) -> Option<FoundSocket> {
    match local_socket::connect(&file, SocketType::STREAM) {
        Ok(connection) => {
            let pid = local_socket::peer(&connection).ok().map(|peer| peer.pid);
            Some(FoundSocket::Open { pid, connection })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(FoundSocket::Full { file }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            debug!(file = %file.display(), "removing the socket of a dead process");
            let _ = fs::remove_file(&file);
            None
        }
        Err(error) => {
            debug!(file = %file.display(), %error, "cannot connect to the control socket");
            None
        }
    }
}

/// Sends a request and returns all responses before [`Response::Done`].
///
/// # Errors
/// See [`ControlError`].
pub(crate) async fn send_request(
    connection: OwnedFd,
    request: &Request,
    timeout: Duration,
) -> Result<Vec<Response>, ControlError> {
    let asked = tokio::time::timeout(timeout, exchange(connection, request)).await;
    asked.unwrap_or(Err(ControlError::Silent))
}

async fn exchange(connection: OwnedFd, request: &Request) -> Result<Vec<Response>, ControlError> {
    let stream = StdStream::from(connection);
    let prepared = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
    let (read, mut write) = prepared.map_err(ControlError::Lost)?.into_split();
    let request = messages::of(request).map_err(ControlError::Lost)?;
    write.write_all(&request).await.map_err(ControlError::Lost)?;
    let mut read = BufReader::new(read);
    let mut answers = Vec::new();
    while answers.len() < MAX_RESPONSES {
        match messages::read(&mut read).await {
            Ok(Some(Response::Done)) => return Ok(answers),
            Ok(Some(Response::Unsupported)) => return Err(ControlError::OtherVersion),
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return Err(ControlError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(ControlError::OtherVersion),
            Err(error) => return Err(ControlError::Lost(error)),
        }
    }
    Err(ControlError::OtherVersion)
}
