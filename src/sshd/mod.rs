//! The built-in SSH server, for machines without sshd, the demo and tests.
//!
//! One user, the calling one; public keys only; everything runs as that user. No privilege separation, no PAM, no
//! X11: where a real sshd can run, it is the better choice. russh speaks the protocol; this floor decides who may come
//! in and joins channels to processes, files and sockets. It knows nothing of bowline's own sessions.

mod account;
mod agent;
mod channel;
mod channel_queue;
mod connection;
mod forward;
mod handler;
mod process;
mod pty;
mod session;
mod sftp;
mod startups;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, PrivateKey, PublicKey};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use account::Account;
pub use account::AccountError;
use startups::Startups;

/// Decides whether `user` may log in with this key from this address.
///
/// Called for every offered key, signed or not, on a thread where blocking is allowed. Names other than the calling
/// user's are refused whatever it says.
pub type Authorize = Arc<dyn Fn(&str, &PublicKey, IpAddr) -> bool + Send + Sync>;

/// Wait after `accept` ran out of descriptors or memory: both come back only when somebody else lets go.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// What an [`Sshd`] needs to know.
pub struct SshdConfig {
    /// Addresses to listen on; port 0 takes a free one. At least one.
    pub listen: Vec<SocketAddr>,
    /// The keys the server proves itself with, one per algorithm; each of them [may sign](may_sign). At least one.
    pub host_keys: Vec<PrivateKey>,
    /// Who may log in.
    pub authorize: Authorize,
    /// Names of environment variables that clients may set, beyond [`DEFAULT_ACCEPT_ENV`]; a final `*` matches any rest.
    ///
    /// As `AcceptEnv` of sshd_config(5).
    pub accept_env: Vec<String>,
}

/// Environment variables that clients may always set: language, colours, and git's protocol version.
pub const DEFAULT_ACCEPT_ENV: [&str; 4] = ["LANG", "LC_*", "COLORTERM", "GIT_PROTOCOL"];

/// Whether the server may prove itself by this key: no RSA key.
///
/// russh signs with those by the crate `rsa`, whose time tells of the key (RUSTSEC-2023-0071), as often as a stranger connects.
#[must_use]
pub fn may_sign(host_key: &PrivateKey) -> bool {
    !matches!(host_key.algorithm(), Algorithm::Rsa { .. })
}

/// The server cannot start, or cannot go on.
#[derive(Debug, Error)]
pub enum SshdError {
    /// No address to listen on was given.
    #[error("no address to listen on")]
    NoListenAddress,
    /// No host key was given.
    #[error("no host key")]
    NoHostKey,
    /// See [`may_sign`].
    #[error("the built-in SSH server has no RSA host keys")]
    RsaHostKey,
    /// An address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A socket that was given cannot be listened on.
    #[error("cannot use a socket that should be listening")]
    Inherit(#[source] io::Error),
    /// A listening socket failed for good.
    #[error("cannot accept connections on {address}")]
    Accept {
        /// The address listened on.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The calling user cannot be looked up.
    #[error(transparent)]
    Account(#[from] AccountError),
}

/// A bound server. Nothing is accepted before [`Sshd::run`].
pub struct Sshd {
    listeners: Vec<(SocketAddr, TcpListener)>,
    shared: Arc<Shared>,
}

/// What all connections have in common.
struct Shared {
    account: Account,
    authorize: Authorize,
    accept_env: Vec<String>,
    russh: Arc<russh::server::Config>,
    startups: Arc<Startups>,
}

impl Sshd {
    /// Looks up the calling user and binds every address.
    ///
    /// # Errors
    /// No address, no host key or one that may not sign, an address that cannot be bound, or a user without a passwd entry.
    pub async fn bind(config: SshdConfig) -> Result<Sshd, SshdError> {
        let mut listeners = Vec::with_capacity(config.listen.len());
        for &address in &config.listen {
            let listener = listen(address)
                .await
                .map_err(|source| SshdError::Listen { address, source })?;
            listeners.push(listener);
        }
        Sshd::new(config, listeners)
    }

    /// Looks up the calling user, and takes sockets that listen already; [`SshdConfig::listen`] does not count.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// No socket, one that does not listen, no host key or one that may not sign, or a user without a passwd entry.
    pub fn on(listeners: Vec<std::net::TcpListener>, config: SshdConfig) -> Result<Sshd, SshdError> {
        let taken: io::Result<Vec<_>> = listeners.into_iter().map(take).collect();
        Sshd::new(config, taken.map_err(SshdError::Inherit)?)
    }

    fn new(config: SshdConfig, listeners: Vec<(SocketAddr, TcpListener)>) -> Result<Sshd, SshdError> {
        if listeners.is_empty() {
            return Err(SshdError::NoListenAddress);
        }
        if config.host_keys.is_empty() {
            return Err(SshdError::NoHostKey);
        }
        if !config.host_keys.iter().all(may_sign) {
            return Err(SshdError::RsaHostKey);
        }
        let account = Account::of_calling_user()?;
        let accept_env = DEFAULT_ACCEPT_ENV
            .iter()
            .map(|name| (*name).to_owned())
            .chain(config.accept_env)
            .collect();
        let shared = Shared {
            account,
            authorize: config.authorize,
            accept_env,
            russh: Arc::new(connection::russh_config(config.host_keys)),
            startups: Arc::default(),
        };
        Ok(Sshd {
            listeners,
            shared: Arc::new(shared),
        })
    }

    /// The addresses really bound, in the order in which they were given.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|(address, _)| *address).collect()
    }

    /// The only name that may log in: the calling user's.
    pub fn user(&self) -> &str {
        &self.shared.account.name
    }

    /// Serves until `shutdown`, then takes leave of every client and ends what they started.
    ///
    /// Dropping the future ends every connection too, without waiting.
    ///
    /// # Errors
    /// A listening socket that failed for good. Being out of descriptors is not that: it is waited out.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), SshdError> {
        let stop = shutdown.child_token();
        let _stop_when_dropped = stop.clone().drop_guard();
        let connections = TaskTracker::new();
        let mut listening = JoinSet::new();
        for (address, listener) in self.listeners {
            listening.spawn(accept(
                address,
                listener,
                self.shared.clone(),
                connections.clone(),
                stop.clone(),
            ));
        }
        let mut outcome = Ok(());
        while let Some(ended) = listening.join_next().await {
            outcome = outcome.and(ended.unwrap_or(Ok(())));
            stop.cancel();
        }
        connections.close();
        connections.wait().await;
        outcome
    }
}

async fn listen(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind(address).await?;
    Ok((listener.local_addr()?, listener))
}

fn take(listener: std::net::TcpListener) -> io::Result<(SocketAddr, TcpListener)> {
    listener.set_nonblocking(true)?;
    Ok((listener.local_addr()?, TcpListener::from_std(listener)?))
}

async fn accept(
    address: SocketAddr,
    listener: TcpListener,
    shared: Arc<Shared>,
    connections: TaskTracker,
    stop: CancellationToken,
) -> Result<(), SshdError> {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => welcome(stream, peer, &shared, &connections, &stop),
            Err(error) if is_broken(&error) => return Err(SshdError::Accept { address, source: error }),
            Err(error) => {
                warn!(%address, %error, "accept failed");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

fn welcome(
    stream: TcpStream,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    connections: &TaskTracker,
    stop: &CancellationToken,
) {
    let startup = shared.startups.enter(peer.ip());
    connections.spawn(connection::serve(stream, peer, shared.clone(), startup, stop.clone()));
}

/// Whether the listening socket itself is useless, as opposed to one connection or the moment.
fn is_broken(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(
        errno,
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP)
    )
}
