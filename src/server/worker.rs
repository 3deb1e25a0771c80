//! The worker: the unprivileged part of a server half, which talks to the network.
//!
//! The keeper has done everything that needs privileges before: read keys, signed statements, bound ports.

pub mod inheritance;
pub mod keeper_client;
mod key_file;

use super::ask_sshd::{AskLimits, AskSshd};
use super::authority::{Authority, OpenCheck, OpenObstacle};
use super::client_address::Families;
use super::connect_sshd::{ConnectSshd, FromClient, FromLoopback};
use super::handover::Listener;
use super::ipc::{Request, Response, Stop};
use super::prober::SshdView;
use super::session_store::{Recovery, SessionStore, SessionStoreError};
use super::target_check::TargetCheck;
pub use super::target_check::Unexamined;
use super::{IdleWatch, RelaySettings, Server, ServerConfig, ServerError, ServerLimits, ShutdownMode};
use crate::identity::raw_key::{NotATlsKey, TlsKey};
use crate::observe::{self, ControlHandler};
use crate::session::SessionConfig;
use crate::tasks::Tasks;
use crate::transport::quic::{EndpointSecrets, MtuCap, QuicLimits};
use crate::wire::{ErrorChain, SshdLimit, Statement};
use keeper_client::KeeperClient;
use key_file::KeyFile;
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// How often to try a lock that a dying worker may still hold.
const LOCK_TRIES: usize = 40;

/// The delay between two of these tries.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// The settings that the keeper gives to each worker.
#[derive(Serialize, Deserialize)]
pub struct WorkerSetup {
    /// bowline's own TLS key, PKCS #8.
    pub tls_key: Vec<u8>,
    /// Seed of [`EndpointSecrets`].
    pub secrets: [u8; 32],
    /// Host keys and their signatures over the TLS key.
    pub statements: Vec<(Vec<u8>, Vec<u8>)>,
    /// The sshd that sessions are connected to.
    pub target: SocketAddr,
    /// Other addresses of the same name, tried if nothing answers at the first.
    #[serde(default)]
    pub other_targets: Vec<SocketAddr>,
    /// Which address of a client sshd sees.
    #[serde(default)]
    pub client_address: ClientAddressSetup,
    /// Who may open sessions.
    pub authority: AuthoritySetup,
    /// The only user for whom sessions are opened.
    #[serde(default)]
    pub only_user: Option<String>,
    /// The keeper is asked to stop when there was no session for this long.
    #[serde(default)]
    pub exit_when_idle: Option<Duration>,
    /// Bytes kept for replay, per session.
    pub replay_buffer: usize,
    /// Limits on sessions and handshakes.
    pub limits: ServerLimits,
    /// The most bytes of a UDP payload; `None`: as many as the path allows.
    pub mtu_cap: Option<u16>,
    /// Whether sessions outlive the worker.
    pub session_store: bool,
    /// Names of the relays to register with.
    pub relays: Vec<String>,
    /// Folder where the worker may cache what these names resolved to.
    pub relay_cache: PathBuf,
    /// The address on which metrics are served.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// The fingerprint that clients can pin.
    pub fingerprint: String,
    /// Whether the target is an sshd whose settings the keeper can read.
    #[serde(default)]
    pub is_sshd: bool,
    /// Whether the keeper is asked before each open, because sshd sees all clients on loopback.
    #[serde(default)]
    pub asks_before_opens: bool,
    /// What remains to be found out about the target, which did not answer at the start.
    #[serde(default)]
    pub unexamined: Option<Unexamined>,
}

/// Which address of a client sshd sees.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub enum ClientAddressSetup {
    /// A loopback address.
    #[default]
    Loopback,
    /// The client's own address; the keeper opens the connection.
    Real {
        /// The address families for which that works.
        families: Families,
        /// Whether clients of other families are refused.
        insists: bool,
    },
}

impl fmt::Display for ClientAddressSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClientAddressSetup::Loopback => "loopback",
            ClientAddressSetup::Real { families, .. } => match (families.v4, families.v6) {
                (true, false) => "real-ipv4",
                (false, true) => "real-ipv6",
                _ => "real",
            },
        })
    }
}

/// Who may open sessions, in serializable form.
#[derive(Serialize, Deserialize)]
pub enum AuthoritySetup {
    /// sshd is asked.
    Sshd,
    /// A file of keys. The keeper opens it, because the worker's user often may not. The path is for messages.
    Keys(PathBuf),
    /// Nobody is asked.
    Anyone,
}

/// Why the worker cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// This program does not understand the keeper's settings: another version of it is on disk.
    #[error("the keeper's settings cannot be read")]
    Setup(#[from] serde_json::Error),
    /// The TLS key is invalid.
    #[error(transparent)]
    Key(#[from] NotATlsKey),
    /// The server half could not start.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The sessions of the previous worker cannot be taken over.
    #[error("cannot take over the sessions of the previous worker")]
    SessionStore(#[source] Box<dyn Error + Send + Sync>),
}

impl WorkerSetup {
    /// Encodes it for the keeper.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain values can be written")
    }

    /// Decodes what the keeper has sent.
    ///
    /// # Errors
    /// `Setup`.
    pub fn decode(bytes: &[u8]) -> Result<WorkerSetup, WorkerError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// Serves on `listeners` until the keeper says to stop, and continues the sessions in `stored`. Calls `ready` with the
/// server half and its fingerprint once it serves.
///
/// # Errors
/// See [`WorkerError`].
pub async fn serve(
    setup: WorkerSetup,
    listeners: Vec<Listener>,
    stored: Vec<(String, Arc<OwnedFd>)>,
    keeper: KeeperClient,
    ready: impl FnOnce(&Server, &str),
) -> Result<(), WorkerError> {
    let sshd = connect_sshd(&setup, &keeper);
    let authority = authority(&setup, &sshd, &keeper).await;
    let session_store = match setup.session_store {
        true => Some(open_session_store(&keeper, stored).await?),
        false => None,
    };
    let (target, fingerprint, keeps) = (setup.target, setup.fingerprint.clone(), setup.session_store);
    let (metrics, exit_when_idle) = (setup.metrics, setup.exit_when_idle);
    // Without authentication strangers must neither learn sshd's settings nor make root run programs.
    let tells = setup.is_sshd && !matches!(setup.authority, AuthoritySetup::Anyone);
    let ask = || Box::new(AskKeeper::new(&keeper, setup.target));
    let view = tells.then(|| ask() as Box<dyn SshdView>);
    let check = setup.asks_before_opens.then(|| ask() as Box<dyn OpenCheck>);
    let check = match setup.unexamined {
        Some(unexamined) => {
            let proved = setup.statements.iter().map(|(key, _)| key.clone()).collect();
            Some(Box::new(TargetCheck::new(Arc::clone(&sshd), unexamined, proved, check)) as Box<dyn OpenCheck>)
        }
        None => check,
    };
    let mut config = server_config(setup, listeners, sshd, authority)?;
    config.open_check = check;
    config.sshd_view = view;
    let server = Server::with_session_store(config, session_store)?;
    let (udp, tls) = (server.local_addrs(), server.tls_addrs());
    info!(event = "ready", ?udp, ?tls, %target, "serving");
    ready(&server, &fingerprint);
    let tasks = Tasks::new();
    if let Some(status_clients) = keeper.status_clients() {
        tasks.spawn(
            "status clients",
            serve_status_clients(status_clients, server.observed()),
        );
    }
    if let Some(address) = metrics {
        tasks.spawn("metrics", observe::serve_metrics_at(address, server.metrics()));
    }
    if let Some(limit) = exit_when_idle {
        tasks.spawn("idle", stop_when_idle(server.idle_watch(), limit, keeper.clone()));
    }
    let how = || match keeper.how_to_stop() {
        Some(Stop::HandOver) if keeps => ShutdownMode::HandedOver,
        _ => ShutdownMode::Ended,
    };
    server.run_until(keeper.stop_token(), how).await;
    Ok(())
}

/// Asks the keeper to stop when there was no session for `limit`.
async fn stop_when_idle(sessions: IdleWatch, limit: Duration, keeper: KeeperClient) {
    loop {
        sessions.idle_for(limit).await;
        match keeper.request(Request::StopIdle).await.map(|reply| reply.response) {
            Ok(Response::Stopping) => return,
            Ok(_) => return warn!("the keeper does not stop a server half without sessions"),
            Err(error) => warn!(error = %ErrorChain(&error), "cannot tell the keeper that there are no sessions"),
        }
    }
}

/// Serves clients of the status protocol, one after the other.
async fn serve_status_clients(mut status_clients: mpsc::Receiver<OwnedFd>, source: Arc<dyn ControlHandler>) {
    while let Some(status_client) = status_clients.recv().await {
        let stream = UnixStream::from(status_client);
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixStream::from_std(stream));
        match stream {
            Ok(stream) => observe::serve_connection(stream, &*source).await,
            Err(error) => debug!(%error, "cannot serve a status client"),
        }
    }
}

/// Converts the keeper's settings to those of the server half.
fn server_config(
    setup: WorkerSetup,
    listeners: Vec<Listener>,
    sshd: Arc<dyn ConnectSshd>,
    authority: Authority,
) -> Result<ServerConfig, WorkerError> {
    let quic = QuicLimits {
        mtu_cap: setup
            .mtu_cap
            .and_then(|bytes| MtuCap::new(bytes).ok())
            .unwrap_or_default(),
        ..QuicLimits::default()
    };
    let (sockets, tls_listeners) = Listener::sort(listeners);
    Ok(ServerConfig {
        sockets,
        tls_listeners,
        relays: RelaySettings {
            // The keeper has parsed them before.
            names: setup.relays.iter().filter_map(|name| name.parse().ok()).collect(),
            cache: Some(setup.relay_cache),
        },
        tls_key: TlsKey::from_pkcs8(&setup.tls_key)?,
        statements: setup
            .statements
            .into_iter()
            .map(|(key, signature)| Statement {
                key: key.into(),
                signature: signature.into(),
            })
            .collect(),
        secrets: EndpointSecrets::new(setup.secrets),
        sshd,
        authority,
        open_check: None,
        sshd_view: None,
        session: SessionConfig {
            replay_buffer: setup.replay_buffer,
            ..SessionConfig::default()
        },
        limits: setup.limits,
        quic,
    })
}

/// The keeper starts a worker when the previous one is dead. If the lock is still held, it is tried again.
async fn open_session_store(
    keeper: &KeeperClient,
    stored: Vec<(String, Arc<OwnedFd>)>,
) -> Result<(SessionStore, Recovery), WorkerError> {
    let mut tries = 1..=LOCK_TRIES;
    loop {
        match SessionStore::open(Arc::new(keeper.clone()), stored.clone()).await {
            Err(SessionStoreError::Owned) if tries.next().is_some() => tokio::time::sleep(LOCK_RETRY).await,
            opened => return opened.map_err(|error| WorkerError::SessionStore(Box::new(error))),
        }
    }
}

fn connect_sshd(setup: &WorkerSetup, keeper: &KeeperClient) -> Arc<dyn ConnectSshd> {
    let sshd = FromLoopback::new(setup.target).or_at(setup.other_targets.clone());
    let sshd = match setup.asks_before_opens {
        true => sshd.asking_twice(),
        false => sshd,
    };
    match setup.client_address {
        ClientAddressSetup::Loopback => Arc::new(sshd),
        ClientAddressSetup::Real { families, insists } => {
            Arc::new(FromClient::new(keeper.clone(), families, insists, sshd))
        }
    }
}

async fn authority(setup: &WorkerSetup, sshd: &Arc<dyn ConnectSshd>, keeper: &KeeperClient) -> Authority {
    let authority = match &setup.authority {
        AuthoritySetup::Anyone => Authority::Anyone,
        AuthoritySetup::Keys(path) => Authority::Keys(Box::new(KeyFile::read(path, keeper).await)),
        AuthoritySetup::Sshd => Authority::Sshd {
            ask: AskSshd::new(Arc::clone(sshd), AskLimits::default()),
        },
    };
    match &setup.only_user {
        Some(user) => Authority::OnlyUser {
            user: user.clone(),
            authority: Box::new(authority),
        },
        None => authority,
    }
}

/// The keeper may ask `sshd -T`; the worker may not.
struct AskKeeper {
    keeper: KeeperClient,
    target: SocketAddr,
}

impl OpenCheck for AskKeeper {
    fn obstacle(&self, shows: bool) -> Pin<Box<dyn Future<Output = Option<OpenObstacle>> + Send + '_>> {
        Box::pin(async move {
            // sshd sees the client's own address, so its own rules decide.
            if shows {
                return None;
            }
            let obstacle = match self.keeper.request(Request::MayOpen).await.map(|reply| reply.response) {
                Ok(Response::MayOpen { obstacle }) => obstacle?,
                Ok(_) => "the keeper answered with an unexpected message".to_owned(),
                Err(error) => ErrorChain(&error).to_string(),
            };
            Some(OpenObstacle::Standing(obstacle))
        })
    }
}

impl SshdView for AskKeeper {
    fn limits<'a>(&'a self, user: &'a str) -> Pin<Box<dyn Future<Output = Option<Vec<SshdLimit>>> + Send + 'a>> {
        Box::pin(async move {
            let request = Request::SshdLimits {
                user: user.to_owned(),
                local_address: self.target.ip(),
                local_port: self.target.port(),
            };
            match self.keeper.request(request).await.map(|reply| reply.response) {
                Ok(Response::SshdLimits { limits }) => Some(limits.iter().map(SshdLimit::from).collect()),
                _ => None,
            }
        })
    }
}

impl AskKeeper {
    fn new(keeper: &KeeperClient, target: SocketAddr) -> AskKeeper {
        AskKeeper {
            keeper: keeper.clone(),
            target,
        }
    }
}
