//! Agent forwarding: a socket that only the user can reach, whose connections go to the client's agent.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use russh::server::Handle;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::channel::Channels;
use super::forward;

/// The socket of one connection. Dropping it removes the socket and its folder.
pub(super) struct AgentSocket {
    folder: Folder,
}

struct Folder(PathBuf);

impl AgentSocket {
    /// Opens the socket and serves it until the connection ends; `None`, with a log line, when that is impossible.
    pub(super) fn open(
        handle: Handle,
        channels: &Channels,
        connection: &CancellationToken,
        tasks: &TaskTracker,
    ) -> Option<AgentSocket> {
        let folder = Folder::create()
            .inspect_err(|error| warn!(%error, "cannot create a folder for the agent socket"))
            .ok()?;
        let agent = AgentSocket { folder };
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
        &self.folder.0
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

impl Folder {
    /// A new folder, ours alone, and the socket's path in it.
    fn create() -> io::Result<Folder> {
        let mut name = [0; 8];
        aws_lc_rs::rand::fill(&mut name).map_err(|_| io::Error::other("no randomness"))?;
        let name = format!("bowline-agent-{:016x}", u64::from_ne_bytes(name));
        let folder = std::env::temp_dir().join(name);
        // Fails when the name exists, whosever it is.
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Folder(folder.join("agent")))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        if let Some(folder) = self.0.parent() {
            let _ = std::fs::remove_dir(folder);
        }
    }
}
