//! Agent forwarding: a socket that only the user can reach, whose connections go to the client's agent.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use russh::server::Handle;
use tempfile::TempDir;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::channel::Channels;
use super::forward;

/// The socket of one connection. Dropping it removes the socket and its folder.
pub(super) struct AgentSocket {
    path: PathBuf,
    _folder: TempDir,
}

impl AgentSocket {
    /// Opens the socket and serves it until the connection ends; `None`, with a log line, when that is impossible.
    pub(super) fn open(
        handle: Handle,
        channels: &Channels,
        connection: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Option<AgentSocket> {
        let folder = new_folder()
            .inspect_err(|error| warn!(%error, "cannot create a folder for the agent socket"))
            .ok()?;
        let agent = AgentSocket {
            path: folder.path().join("agent"),
            _folder: folder,
        };
        let listener = UnixListener::bind(agent.path())
            .inspect_err(|error| warn!(%error, path = %agent.path().display(), "cannot create the agent socket"))
            .ok()?;
        tasks.spawn(accept(
            listener,
            handle,
            channels.clone(),
            connection.clone(),
            tasks.clone(),
        ));
        Some(agent)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

async fn accept(
    listener: UnixListener,
    handle: Handle,
    channels: Channels,
    connection: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = connection.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(_) if channels.is_full() => debug!("agent refused: too many channels"),
            Ok((stream, _)) => {
                tasks.spawn(bring(stream, handle.clone(), channels.clone(), connection.clone()));
            }
            Err(error) => {
                warn!(%error, "stopped listening on the agent socket");
                return;
            }
        }
    }
}

async fn bring(stream: UnixStream, handle: Handle, channels: Channels, connection: CancellationToken) {
    let opened = tokio::select! {
        opened = handle.channel_open_agent() => opened,
        () = connection.cancelled() => return,
    };
    match opened {
        Ok(channel) => forward::join(channels.claim(channel), stream).await,
        Err(error) => debug!(%error, "the client refused its agent"),
    }
}

/// A new folder that only the user can look into.
fn new_folder() -> io::Result<TempDir> {
    let mut options = tempfile::Builder::new();
    options
        .prefix("bowline-agent-")
        .permissions(Permissions::from_mode(0o700));
    options.tempdir()
}
