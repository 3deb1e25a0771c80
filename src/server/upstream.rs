//! The connection to sshd that carries a session.

use super::ask_sshd::{AskError, Source};
use super::authority::refusal;
use super::connect_sshd::{Client, ConnectSshd, Purpose};
use super::startups::Startups;
use crate::wire::{ErrorChain, PeerText, Refusal, RefusalCode};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::warn;

use parking_lot::{Mutex, MutexGuard};

use crate::clock;

/// On loopback connecting takes microseconds. A target on another machine may lose a few packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for sshd's greeting before the session is opened without it. An sshd that drops a connection does
/// so at once.
const GREETING_TIMEOUT: Duration = Duration::from_millis(250);

/// The same for a target that has greeted before. With many unfinished logins it is slow, and a session that it drops must
/// not count as open.
const SLOW_GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// If a target did not greet in time, no session waits for its greeting for this long: with `--auth none` a target may
/// expect the client to speak first.
const UNGREETED_TTL: Duration = Duration::from_secs(60);

/// How often received bytes are checked for the greeting. sshd takes some milliseconds.
const GREETING_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How long to remember that sshd did not greet a client: the longest penalty of PerSourcePenalties by default.
const DROPPED_TTL: Duration = Duration::from_secs(600);

/// The most such clients, about 50 bytes each.
const MAX_DROPPED: usize = 4 * 1024;

/// Opens connections for sessions.
pub(super) struct Upstream {
    sshd: Arc<dyn ConnectSshd>,
    dropped: Arc<DroppedClients>,
    /// When a greeting did not come in time.
    ungreeted: Mutex<Option<Instant>>,
    /// It has greeted a session or a question.
    has_greeted: AtomicBool,
    startups: Startups,
}

/// Clients whose last session sshd dropped without a greeting.
#[derive(Debug, Default)]
pub(super) struct DroppedClients(Mutex<HashMap<Source, Instant>>);

impl Upstream {
    pub(super) fn new(sshd: Arc<dyn ConnectSshd>) -> Upstream {
        Upstream {
            sshd,
            dropped: Arc::default(),
            ungreeted: Mutex::default(),
            has_greeted: AtomicBool::new(false),
            startups: Startups::default(),
        }
    }

    /// Why sessions of clients at `source` wait for room in sshd, if any does.
    pub(super) fn why_full(&self, source: IpAddr) -> Option<PeerText> {
        self.startups.why(source)
    }

    /// The target has greeted: from now on sessions wait longer for its greeting.
    pub(super) fn handle_greeted(&self) {
        self.has_greeted.store(true, Relaxed);
        *self.ungreeted.lock() = None;
    }

    /// The sshd that sessions are connected to.
    pub(super) fn sshd(&self) -> Arc<dyn ConnectSshd> {
        Arc::clone(&self.sshd)
    }

    /// The clients that sshd did not greet.
    pub(super) fn dropped(&self) -> Arc<DroppedClients> {
        Arc::clone(&self.dropped)
    }

    /// Connects for a client. sshd has greeted, or needs more time. Nothing is read from the connection. Waits while sshd
    /// drops connections because of MaxStartups and the session `is_wanted`.
    pub(super) async fn connect(&self, client: Client, is_wanted: impl Fn() -> bool) -> Result<TcpStream, Refusal> {
        let target = self.sshd.target();
        let (mut startup, mut refused) = (self.startups.begin(client.remote.ip()), None);
        loop {
            startup.turn().await;
            if let Some(refused) = refused.take()
                && !is_wanted()
            {
                return Err(refused);
            }
            let stream = self.reach(client).await?;
            let Some(said) = self.dropped_with(&stream).await else {
                self.dropped.handle_greeted(client.remote.ip());
                return Ok(stream);
            };
            self.dropped.handle_dropped(client.remote.ip(), clock::now());
            if !startup.has_waited() {
                warn!(event = "refused", %target, remote = %client.remote, said = said.as_str(), "sshd closed the connection before its greeting");
            }
            let error = AskError::Dropped { target, said };
            let refusal = refusal(RefusalCode::RetryLater, error.to_string());
            if !is_wanted() || !startup.waits_after(&error).await {
                return Err(refusal);
            }
            refused = Some(refusal);
        }
    }

    async fn reach(&self, client: Client) -> Result<TcpStream, Refusal> {
        let connecting = self.sshd.connect(Purpose::Session(client));
        let stream = match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(stream) => stream,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let target = self.sshd.target();
        stream.map_err(|error| {
            warn!(event = "refused", %target, error = %ErrorChain(&error), "sshd cannot be reached");
            refusal(
                RefusalCode::UpstreamDown,
                format!("the SSH server at {target} cannot be reached: {error}"),
            )
        })
    }

    /// What the target said before it closed the connection without a greeting; `None` once it has greeted, or needs more
    /// time.
    async fn dropped_with(&self, stream: &TcpStream) -> Option<PeerText> {
        if self.is_ungreeted(clock::now()) {
            return None;
        }
        let limit = if self.has_greeted.load(Relaxed) {
            SLOW_GREETING_TIMEOUT
        } else {
            GREETING_TIMEOUT
        };
        match timeout(limit, hang_up_message(stream)).await {
            Ok(None) => {
                self.handle_greeted();
                None
            }
            Ok(said) => said,
            Err(_) => {
                if !self.has_greeted.load(Relaxed) {
                    *self.ungreeted.lock() = Some(clock::now());
                }
                None
            }
        }
    }

    fn is_ungreeted(&self, now: Instant) -> bool {
        self.ungreeted
            .lock()
            .is_some_and(|at| now.saturating_duration_since(at) < UNGREETED_TTL)
    }
}

/// What sshd said before it closed the connection without a greeting; `None` once it has greeted.
async fn hang_up_message(stream: &TcpStream) -> Option<PeerText> {
    let mut said = [0; 255];
    loop {
        // Checked first: after the end has been seen, everything before it is there.
        let is_over = stream
            .ready(Interest::READABLE)
            .await
            .is_ok_and(|ready| ready.is_read_closed());
        let count = stream.peek(&mut said).await.unwrap_or(0);
        let lines = &said[..count];
        let is_greeting = |line: &[u8]| line.starts_with(b"SSH-");
        if lines.split(|byte| *byte == b'\n').any(is_greeting) {
            return None;
        }
        if is_over || count == 0 {
            let first = lines.split(|byte| *byte == b'\n').next().unwrap_or_default();
            return Some(PeerText::from_bytes(first.strip_suffix(b"\r").unwrap_or(first)));
        }
        sleep(GREETING_POLL_INTERVAL).await;
    }
}

impl DroppedClients {
    fn handle_dropped(&self, client: IpAddr, now: Instant) {
        let mut dropped = self.lock();
        if dropped.len() >= MAX_DROPPED {
            dropped.retain(|_, at| now.saturating_duration_since(*at) < DROPPED_TTL);
        }
        if dropped.len() < MAX_DROPPED {
            dropped.insert(client.into(), now);
        }
    }

    pub(super) fn handle_greeted(&self, client: IpAddr) {
        self.lock().remove(&client.into());
    }

    /// Whether sshd did not greet the last session of this client.
    pub(super) fn holds(&self, client: IpAddr, now: Instant) -> bool {
        let at = self.lock().get(&client.into()).copied();
        at.is_some_and(|at| now.saturating_duration_since(at) < DROPPED_TTL)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, Instant>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::super::connect_sshd::FromLoopback;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// The result of a session with a server that says this, and then closes the connection or does not.
    async fn before(said: &str, stays: bool) -> (Result<String, Refusal>, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::new(Arc::new(FromLoopback::new(listener.local_addr().unwrap())));
        let client = Client::new(([192, 0, 2, 1], 40_123).into(), None);
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            if !stays {
                stream.shutdown().await.unwrap();
            }
            stream
        };
        let (connected, _kept) = tokio::join!(upstream.connect(client, || false), serving);
        let read = match connected {
            Ok(mut stream) => {
                let mut there = vec![0; said.len()];
                stream.read_exact(&mut there).await.unwrap();
                Ok(String::from_utf8(there).unwrap())
            }
            Err(refused) => Err(refused),
        };
        (read, upstream.dropped().holds(client.remote.ip(), clock::now()))
    }

    #[tokio::test]
    async fn nothing_is_taken_from_an_sshd_that_greets_or_takes_its_time() {
        for said in ["SSH-2.0-here\r\n", "hello\r\nSSH-2.0-here\r\n", ""] {
            let (read, is_dropped) = before(said, true).await;
            assert_eq!((read.unwrap().as_str(), is_dropped), (said, false));
        }
        // As dropbear may do if the client is fast.
        let (read, _) = before("SSH-2.0-here\r\n", false).await;
        assert!(read.is_ok());
    }

    #[tokio::test]
    async fn what_sshd_says_before_it_hangs_up_is_told() {
        for said in ["Not allowed at this time\r\n", "Exceeded MaxStartups\r\n", ""] {
            let (read, is_dropped) = before(said, false).await;
            let refused = read.unwrap_err();
            assert_eq!((refused.code, is_dropped), (RefusalCode::RetryLater, true));
            assert!(refused.message.contains(said.trim_end()), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_slow_greeting_is_waited_for_once_sshd_has_greeted_a_question() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::new(Arc::new(FromLoopback::new(listener.local_addr().unwrap())));
        let client = Client::new(([192, 0, 2, 1], 40_123).into(), None);
        upstream.handle_greeted();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // As slow as sshd may be with many unfinished logins.
            sleep(GREETING_TIMEOUT * 2).await;
            stream.write_all(b"Exceeded MaxStartups\r\n").await.unwrap();
        };
        let (connected, ()) = tokio::join!(upstream.connect(client, || false), serving);
        let refused = connected.unwrap_err();
        assert!(refused.message.contains("Exceeded MaxStartups"), "{refused}");
    }

    #[tokio::test]
    async fn a_session_waits_for_room_in_sshd_as_long_as_it_is_wanted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Upstream::new(Arc::new(FromLoopback::new(listener.local_addr().unwrap())));
        let client = Client::new(([192, 0, 2, 1], 40_123).into(), None);
        let serving = async {
            let mut streams = Vec::new();
            for said in [
                "Exceeded MaxStartups\r\n",
                "Exceeded MaxStartups\r\n",
                "SSH-2.0-here\r\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(said.as_bytes()).await.unwrap();
                if said.starts_with("Exceeded") {
                    stream.shutdown().await.unwrap();
                }
                streams.push(stream);
            }
            let why = upstream.why_full(client.remote.ip());
            (streams, why)
        };
        let (connected, (_streams, why)) = tokio::join!(upstream.connect(client, || true), serving);
        assert!(connected.is_ok());
        assert!(why.is_some_and(|why| why.contains("Exceeded MaxStartups")));
        assert_eq!(upstream.why_full(client.remote.ip()), None);
        assert!(!upstream.dropped().holds(client.remote.ip(), clock::now()));
    }
}
