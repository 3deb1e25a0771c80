//! The asker's side: which desks there are, and what they answer.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{SocketType, sockopt};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tracing::debug;

use super::{Request, Response, json_lines};
use crate::local_socket;

/// How the names of desks begin.
const NAMES: [&str; 2] = ["client-", "relay-"];
const END: &str = ".sock";

/// Most lines of an answer: far more than a server half has sessions.
const MAX_RESPONSES: usize = 100_000;

/// A desk, as it was found.
#[derive(Debug)]
pub(crate) enum FoundSocket {
    /// Somebody may answer: whoever has opened it, by process id.
    Open { pid: Option<u32>, connection: OwnedFd },
    /// So many wait there already that somebody must hang.
    Full { file: PathBuf },
}

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// Nothing came in time: the process is stopped, or hangs.
    #[error("it does not answer")]
    Silent,
    /// The connection ended before the answer did.
    #[error("it went away")]
    Lost(#[source] io::Error),
    /// It is of another version of bowline.
    #[error("it is of another version of bowline")]
    OtherVersion,
}

/// All desks of a folder. What a dead process has left is removed where that is permitted.
pub(crate) fn control_sockets(folder: &Path) -> Vec<FoundSocket> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.map(|file| file.path()).filter(|path| is_control_socket(path));
    files.filter_map(connect).collect()
}

/// Removes what dead processes have left in a folder. One that has given up root may not do so at its own end.
pub(crate) fn remove_stale_sockets(folder: &Path) {
    drop(control_sockets(folder));
}

fn is_control_socket(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    NAMES.iter().any(|start| name.starts_with(start)) && name.ends_with(END)
}

fn connect(file: PathBuf) -> Option<FoundSocket> {
    match local_socket::connect(&file, SocketType::STREAM) {
        Ok(connection) => {
            let peer = sockopt::socket_peercred(connection.as_fd()).ok();
            let pid = peer.map(|peer| peer.pid.as_raw_nonzero().get().unsigned_abs());
            Some(FoundSocket::Open { pid, connection })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(FoundSocket::Full { file }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            debug!(file = %file.display(), "a dead process has left its socket");
            let _ = fs::remove_file(&file);
            None
        }
        Err(error) => {
            debug!(file = %file.display(), %error, "cannot ask there");
            None
        }
    }
}

/// Asks, and waits for all answers but [`Response::Done`].
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
    let request = json_lines::of(request).map_err(ControlError::Lost)?;
    write.write_all(&request).await.map_err(ControlError::Lost)?;
    let mut read = BufReader::new(read);
    let mut answers = Vec::new();
    while answers.len() < MAX_RESPONSES {
        match json_lines::read(&mut read).await {
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
