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

use super::{Answer, Request, line};
use crate::local_socket;

/// How the names of desks begin.
const NAMES: [&str; 2] = ["client-", "relay-"];
const END: &str = ".sock";

/// Most lines of an answer: far more than a server half has sessions.
const MOST_ANSWERS: usize = 100_000;

/// A desk, as it was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// Somebody may answer: whoever has opened it, by process id.
    Open { pid: Option<u32>, connection: OwnedFd },
    /// So many wait there already that somebody must hang.
    Full { file: PathBuf },
}

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nothing came in time: the process is stopped, or hangs.
    #[error("it does not answer")]
    Silent,
    /// The connection ended before the answer did.
    #[error("it went away")]
    Lost(#[source] io::Error),
    /// It is of another version of bowline.
    #[error("it is of another version of bowline")]
    NotUnderstood,
}

/// All desks of a folder. What a dead process has left is removed where that is permitted.
pub(crate) fn desks(folder: &Path) -> Vec<Found> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.map(|file| file.path()).filter(|path| is_desk(path));
    files.filter_map(knock).collect()
}

/// Removes what dead processes have left in a folder. One that has given up root may not do so at its own end.
pub(crate) fn sweep(folder: &Path) {
    drop(desks(folder));
}

fn is_desk(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    NAMES.iter().any(|start| name.starts_with(start)) && name.ends_with(END)
}

fn knock(file: PathBuf) -> Option<Found> {
    match local_socket::connect(&file, SocketType::STREAM) {
        Ok(connection) => {
            let peer = sockopt::socket_peercred(connection.as_fd()).ok();
            let pid = peer.map(|peer| peer.pid.as_raw_nonzero().get().unsigned_abs());
            Some(Found::Open { pid, connection })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Found::Full { file }),
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

/// Asks, and waits for all answers but [`Answer::Done`].
///
/// # Errors
/// See [`AskError`].
pub(crate) async fn ask(connection: OwnedFd, request: &Request, within: Duration) -> Result<Vec<Answer>, AskError> {
    let asked = tokio::time::timeout(within, exchange(connection, request)).await;
    asked.unwrap_or(Err(AskError::Silent))
}

async fn exchange(connection: OwnedFd, request: &Request) -> Result<Vec<Answer>, AskError> {
    let stream = StdStream::from(connection);
    let prepared = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
    let (read, mut write) = prepared.map_err(AskError::Lost)?.into_split();
    let request = line::of(request).map_err(AskError::Lost)?;
    write.write_all(&request).await.map_err(AskError::Lost)?;
    let mut read = BufReader::new(read);
    let mut answers = Vec::new();
    while answers.len() < MOST_ANSWERS {
        match line::read(&mut read).await {
            Ok(Some(Answer::Done)) => return Ok(answers),
            Ok(Some(Answer::NotUnderstood)) => return Err(AskError::NotUnderstood),
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return Err(AskError::Lost(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(AskError::NotUnderstood),
            Err(error) => return Err(AskError::Lost(error)),
        }
    }
    Err(AskError::NotUnderstood)
}
