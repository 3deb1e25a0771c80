//! What a client half tells the `bowline ssh` in front of it about the link.
//!
//! `bowline ssh` listens on a socket in the runtime folder, and the client half connects to it. The client half reports when
//! its lead changes or is suspected, and when it is asked; an idle session exchanges nothing. Lines of JSON.

use std::fs;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::net::SocketType;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tracing::debug;

use super::control_socket::is_permitted;
use super::{json_lines, milliseconds, query_all};
use crate::local_socket;
use crate::pump::SessionStats;

/// Reports that wait for `bowline ssh`; with more, the client half waits.
const MAX_REPORTS: usize = 4;

/// Connections that may wait. A jump host and its target have one client half between them.
const BACKLOG: i32 = 4;

/// The only request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LinkRequest {
    Report,
}

/// The state of the link at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkReport {
    /// Milliseconds since the server half was heard; unknown while there is no lead.
    pub(crate) heard_ms: Option<u64>,
    /// Round-trip time of the lead in microseconds.
    pub(crate) rtt_us: Option<u64>,
    /// Whether other carriers are being dialed because the lead is lost or silent.
    pub(crate) is_suspect: bool,
    /// The transport of the lead, and what it goes through: `quic`, `tls via r1.example.org`.
    pub(crate) path: Option<String>,
    /// What is dialed in an outage: `quic`, `relay r1.example.org`.
    pub(crate) trying: Vec<String>,
    /// Milliseconds until the session is given up, if there is no path until then.
    pub(crate) ends_in_ms: Option<u64>,
    /// There is no session: ssh is connected by plain TCP.
    pub(crate) is_plain_tcp: bool,
}

/// What comes from client halves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    Report(LinkReport),
    /// The client half has closed its connection.
    Closed,
}

/// Where a `bowline ssh` waits for its client half. Its file is removed on drop.
pub(crate) struct LinkListener {
    file: PathBuf,
    socket: OwnedFd,
}

impl LinkListener {
    /// Listens in the runtime folder.
    ///
    /// # Errors
    /// As `bind(2)`.
    pub(crate) fn open(folder: &Path) -> io::Result<LinkListener> {
        let file = folder.join(format!("terminal-{}.sock", std::process::id()));
        let socket = local_socket::listen(&file, SocketType::STREAM, BACKLOG)?;
        Ok(LinkListener { file, socket })
    }

    /// For the client half.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Serves client halves, one after the other, for ever. Each notification of `requests` asks for a report.
    pub(crate) async fn run(self, requests: Arc<Notify>, events: mpsc::Sender<LinkEvent>) {
        let listening = self.socket.try_clone().map(StdListener::from);
        let listener = match listening.and_then(UnixListener::from_std) {
            Ok(listener) => listener,
            Err(error) => return debug!(%error, "cannot listen for the client half"),
        };
        while let Ok((stream, _)) = listener.accept().await {
            if !is_permitted(&stream) {
                continue;
            }
            let (read, write) = stream.into_split();
            tokio::select! {
                () = receive(read, &events) => {}
                () = ask(write, &requests) => {}
            }
            if events.send(LinkEvent::Closed).await.is_err() {
                return;
            }
        }
    }

    /// A channel of events with its bound.
    pub(crate) fn channel() -> (mpsc::Sender<LinkEvent>, mpsc::Receiver<LinkEvent>) {
        mpsc::channel(MAX_REPORTS)
    }
}

impl Drop for LinkListener {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

async fn receive(read: impl AsyncRead + Unpin, events: &mpsc::Sender<LinkEvent>) {
    let mut read = BufReader::new(read);
    while let Ok(Some(report)) = json_lines::read::<LinkReport>(&mut read).await {
        if events.send(LinkEvent::Report(report)).await.is_err() {
            return;
        }
    }
}

async fn ask(mut write: impl AsyncWrite + Unpin, requests: &Notify) {
    let Ok(line) = json_lines::of(&LinkRequest::Report) else {
        return;
    };
    loop {
        requests.notified().await;
        if write.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Reports about a session until `bowline ssh` has gone.
pub(crate) struct LinkReporter {
    pub(crate) stats: Arc<SessionStats>,
    /// [`LinkReport::trying`].
    pub(crate) trying: Vec<String>,
    /// The longest outage.
    pub(crate) detach_timeout: std::time::Duration,
}

impl LinkReporter {
    /// Runs until the session or `bowline ssh` ends.
    pub(crate) async fn run(self, file: PathBuf) {
        let Some(stream) = connect(&file) else { return };
        let (read, write) = stream.into_split();
        let asked = Notify::new();
        tokio::select! {
            () = listen(read, &asked) => {}
            () = self.report(write, &asked) => {}
        }
    }

    async fn report(&self, mut write: impl AsyncWrite + Unpin, asked: &Notify) {
        let (mut paths, mut suspicion) = (self.stats.active_paths(), self.stats.suspicion());
        loop {
            let report = self.present().await;
            let Ok(line) = json_lines::of(&report) else { return };
            if write.write_all(&line).await.is_err() {
                return;
            }
            let is_over = tokio::select! {
                () = asked.notified() => false,
                changed = paths.changed() => changed.is_err(),
                changed = suspicion.changed() => changed.is_err(),
            };
            if is_over {
                return;
            }
        }
    }

    async fn present(&self) -> LinkReport {
        let live = query_all(&[Arc::clone(&self.stats)]).await.pop().flatten();
        let detached_for = self.stats.outages().detached_for;
        let lead = self.stats.active_paths().borrow().lead.clone();
        let stats = live.as_ref().and_then(|live| live.lead.as_ref());
        let rtt = stats.and_then(|stats| stats.rtt);
        LinkReport {
            heard_ms: stats.map(|stats| milliseconds(stats.heard_for)),
            rtt_us: rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            is_suspect: detached_for.is_some() || live.is_some_and(|live| live.is_suspect),
            path: lead.map(|lead| match &lead.via {
                Some(via) => format!("{} via {via}", lead.kind),
                None => lead.kind.to_string(),
            }),
            trying: self.trying.clone(),
            ends_in_ms: detached_for.map(|time| milliseconds(self.detach_timeout.saturating_sub(time))),
            is_plain_tcp: false,
        }
    }
}

/// Says that there is no session. Keeps the connection as long as it is polled.
pub(crate) async fn report_plain_tcp(file: PathBuf) {
    let Some(mut stream) = connect(&file) else { return };
    let report = LinkReport {
        is_plain_tcp: true,
        ..LinkReport::default()
    };
    if let Ok(line) = json_lines::of(&report) {
        let _ = stream.write_all(&line).await;
    }
    pending().await
}

async fn listen(read: impl AsyncRead + Unpin, asked: &Notify) {
    let mut read = BufReader::new(read);
    while let Ok(Some(LinkRequest::Report)) = json_lines::read(&mut read).await {
        asked.notify_one();
    }
}

fn connect(file: &Path) -> Option<UnixStream> {
    let connected = local_socket::connect(file, SocketType::STREAM).map(StdStream::from);
    let stream = connected.and_then(UnixStream::from_std);
    stream
        .inspect_err(|error| debug!(%error, "cannot reach `bowline ssh`"))
        .ok()
}
