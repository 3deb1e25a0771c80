//! Where askers come, and how they are attended to.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SocketType, sockopt};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

use super::{Boxed, KillRequest, Report, Request, Response, json_lines};
use crate::local_socket;

/// Askers that wait for their turn; each has it at once.
const BACKLOG: i32 = 16;

/// Whoever asks says so, and takes the answer, within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long nobody is let in after a failure that would come again at once, such as too many open files.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Somebody who has sessions.
pub(crate) trait ControlHandler: Send + Sync {
    /// What there is now.
    fn report(&self) -> Boxed<'_, Report>;

    /// Tells sessions to end; gives the ids of those that were there.
    fn end(&self, kill: &KillRequest) -> Vec<String>;
}

/// No desk can be had. The sessions go on without.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenSocketError {
    /// Others may write there, so they could put a desk of their own in its place.
    #[error("the folder {folder} is another user's, or others may write there")]
    NotOurs {
        /// The runtime folder.
        folder: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen in the folder {folder}")]
    Listen {
        /// The runtime folder.
        folder: PathBuf,
        /// As `bind(2)`.
        source: io::Error,
    },
}

/// A socket in the runtime folder. Its file goes with it where this process may still remove it then; else it is left to
/// whoever looks next, and is known by refusing.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    file: PathBuf,
    socket: OwnedFd,
}

impl ControlSocket {
    /// Opens one. `name` is unlike that of any other process, such as `client-ID`.
    ///
    /// # Errors
    /// See [`OpenSocketError`].
    pub(crate) fn open(folder: &Path, name: &str) -> Result<ControlSocket, OpenSocketError> {
        let failed = |source| OpenSocketError::Listen {
            folder: folder.to_owned(),
            source,
        };
        let about = fs::metadata(folder).map_err(failed)?;
        if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o022 != 0 {
            let folder = folder.to_owned();
            return Err(OpenSocketError::NotOurs { folder });
        }
        let file = folder.join(name).with_extension("sock");
        let socket = local_socket::listen(&file, SocketType::STREAM, BACKLOG).map_err(failed)?;
        Ok(ControlSocket { file, socket })
    }

    /// Attends to askers, one after the other, for ever.
    pub(crate) async fn run(self, source: Arc<dyn ControlHandler>) {
        let listening = self.socket.try_clone().map(StdListener::from);
        let listener = match listening.and_then(UnixListener::from_std) {
            Ok(listener) => listener,
            Err(error) => return debug!(%error, "no askers can come"),
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) if is_permitted(&stream) => serve_connection(stream, &*source).await,
                Ok(_) => debug!("another user is not heard"),
                Err(error) => {
                    debug!(%error, "cannot let an asker in");
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.file) {
            debug!(file = %self.file.display(), %error, "cannot remove the socket's file");
        }
    }
}

/// Root, or the user whom this process runs as.
fn is_permitted(stream: &impl AsFd) -> bool {
    sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// Hears one request of somebody who may ask, and answers it.
pub(crate) async fn serve_connection(mut stream: UnixStream, source: &dyn ControlHandler) {
    let attended = tokio::time::timeout(REQUEST_TIMEOUT, answer(&mut stream, source)).await;
    match attended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "an asker left"),
        Err(_) => debug!("an asker took too long"),
    }
}

fn all_of(report: Report) -> Vec<Response> {
    let mut answers: Vec<_> = report
        .sessions
        .into_iter()
        .map(Box::new)
        .map(Response::Session)
        .collect();
    if let Some(mut relay) = report.relay {
        let paths = mem::take(&mut relay.paths);
        answers.push(Response::Relay(relay));
        answers.extend(paths.into_iter().map(Response::Path));
    }
    answers
}

async fn answer(stream: &mut UnixStream, source: &dyn ControlHandler) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let answers = match json_lines::read::<Request>(&mut BufReader::new(read)).await {
        Ok(Some(Request::Status)) => all_of(source.report().await),
        Ok(Some(Request::Kill(kill))) => vec![Response::Ended(source.end(&kill))],
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => vec![Response::Unsupported],
        Err(error) => return Err(error),
    };
    for answer in answers.iter().chain([&Response::Done]) {
        write.write_all(&json_lines::of(answer)?).await?;
    }
    write.shutdown().await
}
