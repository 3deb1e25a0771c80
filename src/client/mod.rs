//! The client half: dials carriers and connects a local pipe to a session.
//!
//! [`open`] opens a session; [`open_with`] saves a round trip. [`OpenSession::run`] connects it to any reader and
//! writer until it ends; [`OpenSession::into_stream`] returns it as one stream instead.

mod address_rules;
pub mod check;
mod dialer;
mod early_data;
mod failures;
pub mod fallback;
mod handshake;
pub mod journal;
pub mod network_watch;
mod opening;
mod paths;
mod redial;
mod ssh_credentials;
mod ssh_trust;
mod standby;
pub mod stdio;
mod stream;

pub use address_rules::refuses_keys_of_sessions;
pub use early_data::EarlyData;
pub use failures::{AttemptError, Failed, SmallMtu};
pub use handshake::{ReapError, reap};
pub use opening::OpenError;
pub use paths::{Family, Port, ResolveError, Target};
pub use ssh_credentials::{Notice, SshCredentials};
pub use ssh_trust::{SshTrust, TrustError};
pub use stream::ResumableStream;

use crate::carrier;
use crate::clock;
use crate::connection::Role;
use crate::identity::statement::ProvenKey;
use crate::observe::{ControlHandler, Half, KillRequest, Report, SessionReport, Terminal, query_all};
use crate::pump::{
    Budget, Epochs, MAX_PATH_EVENTS, NewLead, Outcome, PathEvent, Pump, PumpParts, SessionCommand, SessionStats,
    session_memory,
};
use crate::session::{Session, SessionConfig};
use crate::tasks::Tasks;
use crate::transport::quic::MtuCap;
use crate::wire::{Authorization, CloseCode, SessionId, UserName};
use bytes::Bytes;
use dialer::Dialer;
use network_watch::NetworkWatch;
use paths::Paths;
use redial::Redialer;
use russh::keys::ssh_key::Fingerprint;
use standby::Standby;
use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tracing::{Instrument, debug, info_span};

/// A boxed future.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Decides whether the keys that a server half proved belong to the host.
pub trait HostTrust: Send + Sync {
    /// `Ok` lets the session open. `tls_key` is the SPKI DER of the server half's TLS key.
    ///
    /// # Errors
    /// Why the host is not trusted; shown to the user unchanged.
    fn verify<'a>(
        &'a self,
        proven: &'a [ProvenKey],
        tls_key: &'a [u8],
    ) -> Boxed<'a, Result<(), Box<dyn Error + Send + Sync>>>;

    /// SHA-256 fingerprints of trusted host keys. Relays find the host by these. Default: none.
    fn known_keys(&self) -> Vec<Fingerprint> {
        Vec::new()
    }

    /// Types of the known keys of this host, if none of them is supported. Default: none.
    fn unsupported_types(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The user's keys, in rounds, in the order in which they are offered.
pub trait Credentials: Send + Sync {
    /// Signs `message` with the keys of round `round`, which counts from 0: at most 8. Empty if no key of the round
    /// can sign; `None` if there are no more rounds. May ask the user.
    fn sign<'a>(&'a self, round: usize, message: &'a [u8]) -> Boxed<'a, Option<Vec<Authorization>>>;

    /// Keys of round `round` that the server half is asked about before one of them signs, because signing may ask
    /// the user: SSH wire format, at most 8. Default: none; then the round signs at once.
    fn keys_to_query(&self, _round: usize) -> Vec<Bytes> {
        Vec::new()
    }

    /// Signs `message` with one of the keys of [`keys_to_query`](Self::keys_to_query); `None` if it cannot sign. May
    /// ask the user.
    fn sign_with<'a>(&'a self, _round: usize, _key: &'a [u8], _message: &'a [u8]) -> Boxed<'a, Option<Authorization>> {
        Box::pin(async { None })
    }

    /// The server half accepted this key (SSH wire format).
    fn handle_accepted(&self, key: &[u8]);

    /// What was tried and with what result, one line each. Shown if no key was accepted.
    fn describe(&self) -> Vec<String>;

    /// Whether there are keys that were not offered, and that ssh itself may be able to use. Default: no.
    fn ssh_has_more(&self) -> bool {
        false
    }
}

/// Settings of a session.
#[derive(Clone)]
pub struct ClientConfig {
    /// Where the server half is.
    pub target: Target,
    /// Folder that remembers which path worked, for the next open. Default: none.
    pub state_dir: Option<PathBuf>,
    /// User name on the server's machine.
    pub user: UserName,
    /// Verifies the host.
    pub trust: Arc<dyn HostTrust>,
    /// Proves the user.
    pub credentials: Arc<dyn Credentials>,
    /// Buffer sizes.
    pub session: SessionConfig,
    /// Limit for finding the server half. Default 10 s; up to four times as long while handshakes with it go on, and
    /// up to `answer_timeout` while it answers.
    pub connect_timeout: Duration,
    /// Limit for opening while the server half is asking sshd. Default 120 s, sshd's default LoginGraceTime.
    pub answer_timeout: Duration,
    /// Longest outage before the session ends; at most the server half's ttl. Default: that ttl.
    pub patience: Option<Duration>,
    /// Largest UDP payload in bytes.
    pub mtu_cap: MtuCap,
}

/// A session that a server half has accepted.
pub struct OpenSession {
    config: ClientConfig,
    id: SessionId,
    dialer: Dialer,
    server_key: Vec<u8>,
    reap_token: [u8; 32],
    paths: Paths,
    first: NewLead,
    ttl: Duration,
    /// The early data that was sent with the open.
    early_data: Bytes,
    control: Control,
    commands: mpsc::Receiver<SessionCommand>,
}

/// A handle to a running session.
#[derive(Clone)]
pub struct Control {
    commands: mpsc::Sender<SessionCommand>,
    stats: Arc<SessionStats>,
}

impl Control {
    /// Ends the session after the remaining input has been delivered.
    pub fn hang_up(&self) {
        // A full channel already holds an order to end.
        let _ = self.commands.try_send(SessionCommand::HangUp);
    }

    /// Ends the session now, and tells the server half the reason if there is a path.
    pub fn end(&self, why: &str) {
        // A full channel already holds an order to end.
        let _ = self.commands.try_send(SessionCommand::End(why.to_owned()));
    }

    /// Statistics of the session.
    pub fn stats(&self) -> &SessionStats {
        &self.stats
    }

    /// The same, shared.
    pub(crate) fn shared_stats(&self) -> Arc<SessionStats> {
        Arc::clone(&self.stats)
    }
}

/// Opens a session: dials every address, verifies the host, proves the user.
///
/// # Errors
/// See [`OpenError`].
pub async fn open(config: ClientConfig) -> Result<OpenSession, OpenError> {
    open_with(config, &mut EarlyData::new(tokio::io::empty())).await
}

/// Like [`open`], and sends the first bytes of `input` along. The rest of `input` is for [`OpenSession::run`]. If no
/// session is opened, no byte of `input` is lost.
///
/// # Errors
/// See [`OpenError`].
pub async fn open_with<R>(config: ClientConfig, input: &mut EarlyData<R>) -> Result<OpenSession, OpenError>
where
    R: AsyncRead + Unpin,
{
    let opened = opening::open(config, input).await;
    if opened.is_err() {
        // Tells a server half that is still asking sshd that nobody waits any more.
        carrier::flush_transport().await;
    }
    opened
}

impl OpenSession {
    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The server half's TLS key (SPKI DER). The session is only resumed with this key.
    pub fn server_key(&self) -> &[u8] {
        &self.server_key
    }

    /// Authorizes ending this session after this process has died, and nothing else.
    pub fn reap_token(&self) -> &[u8; 32] {
        &self.reap_token
    }

    /// Paths to the server half, the best first.
    pub fn paths(&self) -> Vec<carrier::Path> {
        self.paths.all()
    }

    /// The longest outage before the session ends.
    pub(crate) fn detach_timeout(&self) -> Duration {
        longest_outage(&self.config, self.ttl)
    }

    /// A handle that stays valid after [`OpenSession::run`] has taken the session.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Runs the session between `input` and `output` until it ends, and resumes it on new carriers.
    pub async fn run<R, W>(self, input: R, output: W) -> Outcome
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let span = info_span!("session", id = %self.id);
        self.pump(input, output).instrument(span).await
    }

    async fn pump<R, W>(self, input: R, output: W) -> Outcome
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let (path_events, received) = mpsc::channel(MAX_PATH_EVENTS);
        let epochs = Arc::new(Epochs::after(self.first.accepted.epoch));
        // The channel is new, so the first carrier fits.
        let _ = path_events.try_send(PathEvent::Lead(Box::new(self.first)));
        let tasks = Tasks::new();
        tasks.spawn("network watch", watch_network(path_events.clone()));
        let redialer = Redialer {
            session: self.id,
            dialer: self.dialer.clone(),
            server_key: self.server_key.clone(),
            paths: self.paths.clone(),
            epochs: Arc::clone(&epochs),
            stats: Arc::clone(&self.control.stats),
            path_events: path_events.clone(),
        };
        tasks.spawn("redial", redialer.run().in_current_span());
        let standby = Standby {
            session: self.id,
            dialer: self.dialer,
            server_key: self.server_key,
            paths: self.paths,
            stats: Arc::clone(&self.control.stats),
            path_events,
        };
        tasks.spawn("standby", standby.run().in_current_span());
        let mut session = Session::new(session_memory(&self.config.session));
        session.begin(&self.early_data);
        let pump = Pump::new(PumpParts {
            session,
            input,
            output,
            pipe_closed: CloseCode::PipeClosed,
            input_ends_itself: false,
            role: Role::Client,
            path_events: received,
            epochs,
            commands: self.commands,
            stats: self.control.stats,
            checkpoints: None,
            detached_since: clock::now(),
            confirmed: false,
            unconfirmed_timeout: Duration::MAX,
            detach_timeout: longest_outage(&self.config, self.ttl),
            budget: Budget::new(usize::MAX),
        });
        let outcome = pump.run().await;
        debug!(?outcome, "session ended");
        outcome
    }
}

fn longest_outage(config: &ClientConfig, ttl: Duration) -> Duration {
    config.patience.map_or(ttl, |patience| patience.min(ttl))
}

/// Forwards changes of addresses and routes, and wake-ups, to the pump.
async fn watch_network(path_events: mpsc::Sender<PathEvent>) {
    let mut watch = NetworkWatch::new();
    loop {
        let what = watch.changed().await;
        debug!(?what, "network changed");
        if path_events.send(PathEvent::NetworkChanged).await.is_err() {
            return;
        }
    }
}

/// Shown by ssh.
const KILLED: &str = "`bowline kill` asked for it";

/// A running session.
pub(crate) struct SessionControlHandler {
    /// Its id.
    pub(crate) id: SessionId,
    /// The host as given to ssh.
    pub(crate) host: String,
    /// The user on the server.
    pub(crate) user: Option<String>,
    /// The handle of the session.
    pub(crate) control: Control,
    /// What `bowline ssh` says about its terminal.
    pub(crate) terminal: Terminal,
}

impl ControlHandler for SessionControlHandler {
    fn report(&self) -> Boxed<'_, Report> {
        Box::pin(async {
            let stats = &self.control.stats;
            let stats_of_one = [Arc::clone(stats)];
            let (live_stats, terminal) = tokio::join!(query_all(&stats_of_one), self.terminal.query());
            let live_stats = live_stats.into_iter().next().flatten();
            let session = SessionReport {
                host: Some(self.host.clone()),
                user: self.user.clone(),
                terminal: terminal.name,
                last_key_ms: terminal.key_ms,
                pid: Some(std::process::id()),
                ..SessionReport::new(self.id, Half::Client, stats, live_stats.as_ref())
            };
            Report {
                sessions: vec![session],
                relay: None,
            }
        })
    }

    fn end(&self, kill: &KillRequest) -> Vec<String> {
        let own = format!("{:#}", self.id);
        let is_meant = kill.sessions.contains(&own);
        if !is_meant || (kill.only_detached && self.control.stats.outages().detached_for.is_none()) {
            return Vec::new();
        }
        self.control.end(KILLED);
        vec![own]
    }
}
