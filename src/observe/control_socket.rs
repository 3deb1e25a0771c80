//! The control socket: answers requests about this process's sessions.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketType;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

use super::{Boxed, KillRequest, Report, Request, Response, messages};
use crate::local_socket::{self, is_permitted};

/// Connections that may wait; each is accepted at once.
const BACKLOG: i32 = 16;

/// Limit for one request and its response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Delay after a failed accept that would fail again at once, for example with too many open files.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// A process that has sessions.
pub(crate) trait ControlHandler: Send + Sync {
    /// The current state.
    fn report(&self) -> Boxed<'_, Report>;

    /// Ends sessions; returns the ids of those that existed.
    fn end(&self, kill: &KillRequest) -> Vec<String>;
}

/// Why there is no control socket. Sessions run without one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenSocketError {
    /// Other users may write to the folder, so they could replace the socket.
    #[error("the folder {folder} is another user's, or others may write there")]
    NotOurs {
        /// The runtime folder.
        folder: PathBuf,
    },
    /// The socket cannot be created.
    #[error("cannot listen in the folder {folder}")]
    Listen {
        /// The runtime folder.
        folder: PathBuf,
        /// As `bind(2)`.
        source: io::Error,
    },
}

/// A socket in the runtime folder. Its file is removed on drop if this process may still do so; otherwise the next
/// process that looks removes it, because it refuses connections.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    file: PathBuf,
    socket: OwnedFd,
}

impl ControlSocket {
    /// Opens a socket. `name` must be unique to this process, for example `client-ID`.
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

    /// Serves connections one after the other, forever.
    pub(crate) async fn run(self, source: Arc<dyn ControlHandler>) {
        let listening = self.socket.try_clone().map(StdListener::from);
        let listener = match listening.and_then(UnixListener::from_std) {
            Ok(listener) => listener,
            Err(error) => return debug!(%error, "cannot serve the control socket"),
        };
        loop {
            match listener.accept().await {
                Ok((stream, _)) if is_permitted(&stream) => serve_connection(stream, &*source).await,
                Ok(_) => debug!("rejected a connection from another user"),
                Err(error) => {
                    debug!(%error, "cannot accept a control connection");
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

/// Reads one request from an authorized peer and answers it.
pub(crate) async fn serve_connection(mut stream: UnixStream, source: &dyn ControlHandler) {
    let served = tokio::time::timeout(REQUEST_TIMEOUT, answer(&mut stream, source)).await;
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "control connection failed"),
        Err(_) => debug!("control connection timed out"),
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
    let answers = match messages::read::<Request>(&mut BufReader::new(read)).await {
        Ok(Some(Request::Status)) => all_of(source.report().await),
        Ok(Some(Request::Kill(kill))) => vec![Response::Ended(source.end(&kill))],
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => vec![Response::Unsupported],
        Err(error) => return Err(error),
    };
    for answer in answers.iter().chain([&Response::Done]) {
        write.write_all(&messages::of(answer)?).await?;
    }
    write.shutdown().await
}
