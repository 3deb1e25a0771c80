//! What a client half tells the `bowline ssh` in front of it about the link.
//!
//! `bowline ssh` listens on a socket in the runtime folder, and the client half connects to it. The client half reports when
//! its paths change, when the pump asks for a dial or repeats that, and when it is asked. It says which keys were written to
//! sshd, if `bowline ssh` has marked them. For `bowline status` it asks about the terminal. An idle session exchanges
//! nothing. Lines of JSON.

use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};
use tracing::debug;

use super::marks::Marks;
use super::{messages, milliseconds, query_all};
use crate::clock::{self, Timer};
use crate::local_socket::{self, is_permitted};
use crate::pump::SessionStats;
use crate::tcp_info::TcpInfo;

/// Reports that wait for `bowline ssh`; with more, the client half waits.
const MAX_REPORTS: usize = 4;

/// Requests that wait for the client half's answer; with more, `bowline ssh` joins them.
const MAX_REQUESTS: usize = 4;

/// Limit for what `bowline ssh` says about its terminal. It may have been stopped.
const TERMINAL_TIMEOUT: Duration = Duration::from_millis(250);

/// The name of the socket of a `bowline ssh`, around its process id.
const PREFIX: &str = "terminal-";

/// Connections that may wait. A jump host and its target have one client half between them.
const BACKLOG: i32 = 4;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LinkRequest {
    Report,
    /// A key was written to ssh. Marks grow.
    Mark(u64),
    /// What this terminal is: at the beginning, and as the answer to [`LinkMessage::Terminal`].
    Terminal(TerminalReport),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LinkMessage {
    Report(LinkReport),
    Arrived(LinkArrival),
    /// Asks about the terminal.
    Terminal,
}

/// The terminal in front of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TerminalReport {
    /// As `ps` and `w` name it: `pts/3`.
    pub(crate) name: Option<String>,
    /// Milliseconds since the last key was typed.
    pub(crate) key_ms: Option<u64>,
}

/// Keys have arrived at sshd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkArrival {
    /// The last of them. What the server had sent until then was written to ssh.
    pub(crate) mark: u64,
    /// [`LinkReport::rtt_us`].
    pub(crate) rtt_us: Option<u64>,
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
    /// Whether bytes that ssh has written have not arrived at sshd.
    pub(crate) has_unacknowledged: bool,
}

/// What comes from client halves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    Report(LinkReport),
    Arrived(LinkArrival),
    /// The client half has closed its connection.
    Closed,
}

/// What client halves are asked. Requests that could not be sent yet are joined.
#[derive(Debug, Default)]
pub(crate) struct LinkRequests {
    report: Notify,
    mark: watch::Sender<u64>,
    /// A client half has asked about the terminal.
    terminal: Notify,
    key_at: Mutex<Option<Instant>>,
}

impl LinkRequests {
    /// Asks for a report.
    pub(crate) fn request_report(&self) {
        self.report.notify_one();
    }

    /// A key was written to ssh: asks when it has arrived at sshd. Marks grow.
    pub(crate) fn mark(&self, mark: u64) {
        self.mark.send_replace(mark);
    }

    /// A key was typed.
    pub(crate) fn handle_key(&self, now: Instant) {
        *self.key_at.lock() = Some(now);
    }

    fn terminal(&self, name: Option<&String>) -> TerminalReport {
        let key_at = *self.key_at.lock();
        let key_for = key_at.map(|at| clock::now().saturating_duration_since(at));
        TerminalReport {
            name: name.cloned(),
            key_ms: key_for.map(milliseconds),
        }
    }
}

/// Where a `bowline ssh` waits for its client half. Its file is removed on drop.
pub(crate) struct LinkListener {
    file: PathBuf,
    socket: OwnedFd,
    terminal: Option<String>,
}

impl LinkListener {
    /// Listens in the runtime folder. Removes the sockets of killed processes. `terminal`: [`TerminalReport::name`].
    ///
    /// # Errors
    /// As `bind(2)`.
    pub(crate) fn open(folder: &Path, terminal: Option<String>) -> io::Result<LinkListener> {
        remove_stale(folder);
        let file = folder.join(format!("{PREFIX}{}{}", std::process::id(), local_socket::SUFFIX));
        let socket = local_socket::listen(&file, SocketType::STREAM, BACKLOG)?;
        Ok(LinkListener { file, socket, terminal })
    }

    /// For the client half.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Serves client halves, one after the other, for ever.
    pub(crate) async fn run(self, requests: Arc<LinkRequests>, events: mpsc::Sender<LinkEvent>) {
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
                () = receive(read, &requests, &events) => {}
                () = ask(write, &requests, self.terminal.as_ref()) => {}
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

/// Removes the sockets of processes that were killed.
fn remove_stale(folder: &Path) {
    for file in local_socket::files(folder, &[PREFIX]) {
        let pid = file.file_stem().and_then(|name| name.to_str()?.strip_prefix(PREFIX));
        let pid = pid.and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        // One that lives in another container refuses nothing. Any other is not connected to: it would take that for its
        // client half.
        let is_gone = pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(Errno::SRCH));
        if is_gone
            && let Err(error) = local_socket::connect(&file, SocketType::STREAM)
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            debug!(file = %file.display(), "removing the socket of a dead process");
            let _ = fs::remove_file(&file);
        }
    }
}

async fn receive(read: impl AsyncRead + Unpin, requests: &LinkRequests, events: &mpsc::Sender<LinkEvent>) {
    let mut read = BufReader::new(read);
    while let Ok(Some(message)) = messages::read::<LinkMessage>(&mut read).await {
        let event = match message {
            LinkMessage::Report(report) => LinkEvent::Report(report),
            LinkMessage::Arrived(arrival) => LinkEvent::Arrived(arrival),
            LinkMessage::Terminal => {
                requests.terminal.notify_one();
                continue;
            }
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

async fn ask(mut write: impl AsyncWrite + Unpin, requests: &LinkRequests, terminal: Option<&String>) {
    let mut mark = requests.mark.subscribe();
    requests.terminal.notify_one();
    loop {
        let request = tokio::select! {
            () = requests.terminal.notified() => LinkRequest::Terminal(requests.terminal(terminal)),
            () = requests.report.notified() => LinkRequest::Report,
            changed = mark.changed() => match changed {
                Ok(()) => LinkRequest::Mark(*mark.borrow_and_update()),
                Err(_) => return,
            },
        };
        if send(&mut write, &request).await.is_err() {
            return;
        }
    }
}

async fn send(write: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    write.write_all(&messages::of(value)?).await
}

/// The terminal in front of a session, as `bowline ssh` tells the [`LinkReporter`] about it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terminal {
    asked: Arc<Notify>,
    report: Arc<watch::Sender<TerminalReport>>,
}

impl Terminal {
    /// What it is now. Nothing is known without a `bowline ssh`, and only the name if that does not answer.
    pub(crate) async fn query(&self) -> TerminalReport {
        let mut report = self.report.subscribe();
        let name = report.borrow_and_update().name.clone();
        if name.is_some() {
            self.asked.notify_one();
            if let Ok(Ok(())) = tokio::time::timeout(TERMINAL_TIMEOUT, report.changed()).await {
                return report.borrow().clone();
            }
        }
        TerminalReport { name, key_ms: None }
    }
}

/// Reports about a session until `bowline ssh` has gone.
pub(crate) struct LinkReporter {
    pub(crate) terminal: Terminal,
    pub(crate) stats: Arc<SessionStats>,
    /// [`LinkReport::trying`].
    pub(crate) trying: Vec<String>,
    /// The longest outage.
    pub(crate) detach_timeout: Duration,
}

impl LinkReporter {
    /// Runs until the session or `bowline ssh` ends.
    pub(crate) async fn run(self, file: PathBuf) {
        let Some(stream) = connect(&file) else { return };
        let (read, write) = stream.into_split();
        let (requests, received) = mpsc::channel(MAX_REQUESTS);
        tokio::select! {
            () = listen(read, requests) => {}
            () = self.report(write, received) => {}
        }
    }

    async fn report(&self, mut write: impl AsyncWrite + Unpin, mut requests: mpsc::Receiver<LinkRequest>) {
        let mut paths = self.stats.active_paths();
        let (mut marks, mut timer) = (Marks::default(), Timer::new());
        let (mut is_asked, mut asks_terminal) = (true, false);
        loop {
            let progress_changed = self.stats.progress_changed();
            let progress = self.stats.progress();
            marks.handle_progress(progress, clock::now());
            if std::mem::take(&mut is_asked) {
                let report = LinkMessage::Report(self.present().await);
                if send(&mut write, &report).await.is_err() {
                    return;
                }
            }
            if std::mem::take(&mut asks_terminal) && send(&mut write, &LinkMessage::Terminal).await.is_err() {
                return;
            }
            if let Some(mark) = marks.poll_arrived(progress) {
                let rtt_us = self.rtt_us().await;
                let arrival = LinkMessage::Arrived(LinkArrival { mark, rtt_us });
                if send(&mut write, &arrival).await.is_err() {
                    return;
                }
            }
            timer.set(marks.poll_timeout());
            tokio::select! {
                request = requests.recv() => match request {
                    Some(LinkRequest::Report) => is_asked = true,
                    Some(LinkRequest::Mark(mark)) => marks.handle_mark(mark, clock::now()),
                    Some(LinkRequest::Terminal(report)) => drop(self.terminal.report.send_replace(report)),
                    None => return,
                },
                () = self.terminal.asked.notified() => asks_terminal = true,
                changed = paths.changed() => match changed {
                    Ok(()) => is_asked = true,
                    Err(_) => return,
                },
                () = progress_changed, if marks.is_pending() => {}
                () = poll_fn(|cx| timer.poll(cx)) => {}
            }
        }
    }

    async fn rtt_us(&self) -> Option<u64> {
        let live = query_all(&[Arc::clone(&self.stats)]).await.pop().flatten();
        live.and_then(|live| live.lead?.rtt).map(microseconds)
    }

    async fn present(&self) -> LinkReport {
        let live = query_all(&[Arc::clone(&self.stats)]).await.pop().flatten();
        let detached_for = self.stats.outages().detached_for;
        let lead = self.stats.active_paths().borrow().lead.clone();
        let stats = live.as_ref().and_then(|live| live.lead.as_ref());
        let rtt = stats.and_then(|stats| stats.rtt);
        let progress = self.stats.progress();
        LinkReport {
            heard_ms: stats.map(|stats| milliseconds(stats.heard_for)),
            rtt_us: rtt.map(microseconds),
            is_suspect: detached_for.is_some() || live.is_some_and(|live| live.is_suspect),
            path: lead.map(|lead| match &lead.via {
                Some(via) => format!("{} via {via}", lead.kind),
                None => lead.kind.to_string(),
            }),
            trying: self.trying.clone(),
            ends_in_ms: detached_for.map(|time| milliseconds(self.detach_timeout.saturating_sub(time))),
            is_plain_tcp: false,
            has_unacknowledged: progress.acknowledged < progress.taken,
        }
    }
}

/// Says that there is no session, and again with the round-trip time of `connection` when a key is marked. Keeps its own
/// connection as long as it is polled.
pub(crate) async fn report_plain_tcp(file: PathBuf, connection: io::Result<OwnedFd>) {
    let Some(stream) = connect(&file) else { return };
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let info = connection.as_ref().ok().and_then(|fd| TcpInfo::of(fd.as_fd()).ok());
        let report = LinkReport {
            rtt_us: info.map(|info| microseconds(info.rtt)),
            is_plain_tcp: true,
            ..LinkReport::default()
        };
        if send(&mut write, &LinkMessage::Report(report)).await.is_err() {
            return;
        }
        loop {
            match messages::read::<LinkRequest>(&mut read).await {
                // There is no session that `bowline status` would show it for.
                Ok(Some(LinkRequest::Terminal(_))) => {}
                Ok(Some(LinkRequest::Report | LinkRequest::Mark(_))) => break,
                Ok(None) | Err(_) => return,
            }
        }
    }
}

async fn listen(read: impl AsyncRead + Unpin, requests: mpsc::Sender<LinkRequest>) {
    let mut read = BufReader::new(read);
    while let Ok(Some(request)) = messages::read(&mut read).await {
        if requests.send(request).await.is_err() {
            return;
        }
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn connect(file: &Path) -> Option<UnixStream> {
    let connected = local_socket::connect(file, SocketType::STREAM).map(StdStream::from);
    let stream = connected.and_then(UnixStream::from_std);
    stream
        .inspect_err(|error| debug!(%error, "cannot reach `bowline ssh`"))
        .ok()
}
