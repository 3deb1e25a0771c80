//! The client half: produces carriers, and joins a local pipe to a session.
//!
//! [`open`] makes a session, [`open_with`] a round trip sooner; [`OpenSession::run`] carries it between any reader and writer until it ends, and
//! [`OpenSession::into_stream`] gives it as one stream instead.

pub mod check;
mod dialer;
mod failures;
pub mod fallback;
mod first_words;
mod improvement;
pub mod journal;
mod key_query;
pub mod network_watch;
mod observed;
mod opening;
mod path_mtu;
mod paths;
mod reaping;
mod redial;
mod ssh_credentials;
mod ssh_trust;
mod standby;
pub mod stdio;
mod stream;
mod unreachable;
mod waiting;

pub use failures::{AttemptError, Failed};
pub use first_words::FirstWords;
pub(crate) use observed::Observed;
pub use opening::OpenError;
pub use path_mtu::SmallMtu;
pub use paths::{Family, Place, Port, ResolveError};
pub use reaping::{ReapError, reap};
pub use ssh_credentials::{Notice, SshCredentials};
pub use ssh_trust::{SshTrust, TrustError};
pub use stream::ResumableStream;

use crate::carrier;
use crate::carrier::quic::MtuCap;
use crate::clock;
use crate::identity::statement::ProvenKey;
use crate::pump::{
    ARRIVALS, Arrival, Budget, Epochs, Facts, Need, Order, Outcome, Pump, PumpParts, STANDBYS, Vigil, session_memory,
};
use crate::session::{Session, SessionConfig};
use crate::tasks::Tasks;
use crate::wire::{Authorization, CloseCode, Epoch, SessionId, UserName};
use bytes::Bytes;
use dialer::Dialer;
use improvement::Improvement;
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
use tokio::sync::{mpsc, watch};
use tracing::{Instrument, debug, info_span};

/// Hints that may wait for the pump; they all say the same.
const HINTS: usize = 1;

/// What a boxed asynchronous method gives.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Decides whether the keys that a server half proved are those of the host.
pub trait HostTrust: Send + Sync {
    /// `Ok` lets the session open. `tls_key` is the SPKI DER of the server half's own key.
    ///
    /// # Errors
    /// Why the host is not trusted; shown to the user as it is.
    fn judge<'a>(
        &'a self,
        proven: &'a [ProvenKey],
        tls_key: &'a [u8],
    ) -> Boxed<'a, Result<(), Box<dyn Error + Send + Sync>>>;

    /// SHA-256 fingerprints of host keys that would be trusted: by these a relay finds the host. None by default.
    fn known_keys(&self) -> Vec<Fingerprint> {
        Vec::new()
    }

    /// Types of the keys that are known for this host, if none of these is supported here. None by default.
    fn unsupported_types(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The user's keys, in the order in which they are offered.
pub trait Credentials: Send + Sync {
    /// Signs `message` with the keys of round `round` (from 0): at most 8, none if the round has none, `None` when
    /// there are no more rounds. May ask the user.
    fn sign<'a>(&'a self, round: usize, message: &'a [u8]) -> Boxed<'a, Option<Vec<Authorization>>>;

    /// Keys of round `round` that are to be asked about before one of them signs, SSH wire form, at most 8: signing may ask
    /// the user. None by default: then the round signs at once.
    fn to_ask(&self, _round: usize) -> Vec<Bytes> {
        Vec::new()
    }

    /// Signs `message` with this one of the keys [`to_ask`](Self::to_ask); `None` if it cannot. May ask the user.
    fn sign_with<'a>(&'a self, _round: usize, _key: &'a [u8], _message: &'a [u8]) -> Boxed<'a, Option<Authorization>> {
        Box::pin(async { None })
    }

    /// The server half accepted this key, SSH wire form.
    fn handle_accepted(&self, key: &[u8]);

    /// What was tried and how it went, one line each, for the message that says that none was accepted.
    fn describe(&self) -> Vec<String>;

    /// Whether there are keys that were not offered and that ssh itself may be able to use. No by default.
    fn ssh_has_more(&self) -> bool {
        false
    }
}

/// What a client half needs to open a session.
#[derive(Clone)]
pub struct ClientConfig {
    /// Where the server half is.
    pub place: Place,
    /// Folder where it is remembered which path worked, for the next open. Default: none.
    pub state_dir: Option<PathBuf>,
    /// User name on the server's machine.
    pub user: UserName,
    /// Who the host must be.
    pub trust: Arc<dyn HostTrust>,
    /// Who the user is.
    pub credentials: Arc<dyn Credentials>,
    /// Buffers.
    pub session: SessionConfig,
    /// How long the server half is looked for. Default 10 s.
    pub connect_timeout: Duration,
    /// Bounds the open while the server half says that it is still asking sshd. Default 120 s, as long as sshd waits for a
    /// login by default (LoginGraceTime).
    pub answer_timeout: Duration,
    /// The longest outage that is waited for; the server half's ttl if that is less. Default: that ttl.
    pub patience: Option<Duration>,
    /// Most bytes of a UDP payload.
    pub mtu_cap: MtuCap,
}

/// A session that a server half accepted.
pub struct OpenSession {
    config: ClientConfig,
    id: SessionId,
    dialer: Dialer,
    server_key: Vec<u8>,
    reap_token: [u8; 32],
    paths: Paths,
    epoch: Epoch,
    first: Arrival,
    ttl: Duration,
    /// What the local program had said when it was opened, and the server half was told.
    said: Bytes,
    control: Control,
    orders: mpsc::Receiver<Order>,
}

/// Looks at a running session and gives it orders.
#[derive(Clone)]
pub struct Control {
    orders: mpsc::Sender<Order>,
    facts: Arc<Facts>,
}

impl Control {
    /// The local pipe's owner leaves: what it still says is delivered, then the session ends.
    pub fn hang_up(&self) {
        // A full channel holds an order to end already.
        let _ = self.orders.try_send(Order::HangUp);
    }

    /// Ends the session now, and tells the server half why where there is a path to it.
    pub fn end(&self, why: &str) {
        // A full channel holds an order to end already.
        let _ = self.orders.try_send(Order::End(why.to_owned()));
    }

    /// What the session tells about itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// Opens a session: dials every address, checks the host, proves the user.
///
/// # Errors
/// See [`OpenError`].
pub async fn open(config: ClientConfig) -> Result<OpenSession, OpenError> {
    open_with(config, &mut FirstWords::new(tokio::io::empty())).await
}

/// The same, and what the local program has said by then goes along; the rest of `input` is for [`OpenSession::run`]. Without a
/// session all of it is still there.
///
/// # Errors
/// See [`OpenError`].
pub async fn open_with<R>(config: ClientConfig, input: &mut FirstWords<R>) -> Result<OpenSession, OpenError>
where
    R: AsyncRead + Unpin,
{
    let opened = opening::open(config, input).await;
    if opened.is_err() {
        // A server half that still asks sshd is to know that nobody waits.
        carrier::let_go().await;
    }
    opened
}

impl OpenSession {
    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The server half's TLS key (SPKI DER), the only one that this session will be resumed with.
    pub fn server_key(&self) -> &[u8] {
        &self.server_key
    }

    /// What can end this session, and nothing else, once this process is dead.
    pub fn reap_token(&self) -> &[u8; 32] {
        &self.reap_token
    }

    /// Ways to the server half, the best first.
    pub fn paths(&self) -> Vec<carrier::Path> {
        self.paths.all()
    }

    /// A handle that outlives [`OpenSession::run`]'s taking of the session.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Carries the session between `input` and `output` until it ends, over whatever carriers it takes.
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
        let (arrivals, incoming) = mpsc::channel(ARRIVALS);
        let (need, needed) = watch::channel(Need::Nothing);
        let (hint, hints) = mpsc::channel(HINTS);
        let (standing, standbys) = mpsc::channel(STANDBYS);
        let epochs = Arc::new(Epochs::after(self.epoch));
        // The channel is new and has room for the first.
        let _ = arrivals.try_send(Box::new(self.first));
        let tasks = Tasks::new();
        tasks.spawn("network watch", watch_network(hint));
        let redialer = Redialer {
            session: self.id,
            dialer: self.dialer.clone(),
            server_key: self.server_key.clone(),
            paths: self.paths.clone(),
            improvement: Improvement::new(clock::now()),
            epochs: Arc::clone(&epochs),
            facts: Arc::clone(&self.control.facts),
            arrivals,
            orders: self.control.orders.clone(),
        };
        tasks.spawn("redial", redialer.run(needed).in_current_span());
        let standby = Standby {
            session: self.id,
            dialer: self.dialer,
            server_key: self.server_key,
            paths: self.paths,
            facts: Arc::clone(&self.control.facts),
            standbys: standing,
        };
        tasks.spawn("standby", standby.run().in_current_span());
        let mut session = Session::new(session_memory(&self.config.session));
        session.begin(&self.said);
        let pump = Pump::new(PumpParts {
            session,
            input,
            output,
            pipe_closed: CloseCode::PipeClosed,
            input_ends_itself: false,
            arrivals: incoming,
            standbys,
            epochs,
            orders: self.orders,
            facts: self.control.facts,
            vigil: Some(Vigil::new(need, hints, clock::now())),
            ledger: None,
            detached_since: clock::now(),
            confirmed: false,
            unconfirmed_patience: Duration::MAX,
            patience: self.config.patience.map_or(self.ttl, |patience| patience.min(self.ttl)),
            budget: Budget::new(usize::MAX),
        });
        let outcome = pump.run().await;
        debug!(?outcome, "session ended");
        outcome
    }
}

/// Passes on what the system says about addresses, routes and sleep.
async fn watch_network(hint: mpsc::Sender<()>) {
    let mut watch = NetworkWatch::new();
    loop {
        let what = watch.changed().await;
        debug!(?what, "the network may have changed");
        if let Err(mpsc::error::TrySendError::Closed(())) = hint.try_send(()) {
            return;
        }
    }
}
