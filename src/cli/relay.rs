//! `bowline relay`: its settings, and the relay run on its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::args::RelayOptions;
use super::machine_memory;
use super::places::{self, Folders};
use super::report::{self, Exit, Failure};
use super::serve::keys::secret;
use super::settings::{Context, SettingsError};
use super::values::{ByteSize, Count, ListenAddress};
use crate::carrier::via::RelayWindow;
use crate::identity::raw_key::{TlsKey, spki_digest};
use crate::observe::{self, ControlSocket, serve_metrics};
use crate::relay::{AllowList, Relay, RelayConfig, RelayLimits, Rules, become_user};
use crate::server::handover::{Endpoint, raise_descriptor_limit};
use crate::server::worker_user::choose_worker_user;
use crate::tasks::Tasks;
use crate::transport::quic::{self, EndpointSecrets, MtuCap, QuicLimits};
use crate::wire::KeyDigest;

/// Where neither UDP nor TCP looks odd to a firewall.
const USUAL_PORT: u16 = 443;

/// For some dozen sessions.
const MIN_MEMORY: u64 = 4 << 20;

/// What `bowline relay` works by.
#[derive(Debug, Clone)]
pub(crate) struct RelaySettings {
    /// Where to listen for QUIC; a missing port is 443. Default: every address.
    pub(crate) listen: Vec<ListenAddress>,
    /// Where to listen for TLS; a missing port is 443. Default: every address.
    pub(crate) listen_tls: Vec<ListenAddress>,
    /// Host keys of the server halves that are listed. Default: none, which needs `open`.
    pub(crate) allow_servers: Option<PathBuf>,
    /// Most of everything. Default: see [`RelayLimits`].
    pub(crate) limits: RelayLimits,
    /// Bytes for all that waits in the relay, at least 4 MiB. Default: see [`machine_memory::relay_budget`].
    pub(crate) memory_budget: u64,
    /// How long sessions go on after SIGTERM. Default: 30 s.
    pub(crate) drain: Duration,
    /// Whom to become when started by root. Default: as for the worker of `serve`.
    pub(crate) worker_user: Option<String>,
    /// The most bytes of UDP payload in a packet, at least 1200. Default: what the path takes.
    pub(crate) mtu_cap: Option<u16>,
    /// Where metrics are served, on loopback. Default: nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where the key is.
    pub(crate) folders: Folders,
}

impl RelaySettings {
    /// Settles what the arguments leave open by the configuration file, then by default.
    ///
    /// # Errors
    /// Nothing, or two things, said of whom to list; no folder for the state.
    pub(super) fn new(options: RelayOptions, context: &Context) -> Result<Self, SettingsError> {
        let options = options.or(&context.file.relay);
        let every = |listen: Vec<ListenAddress>| match listen.is_empty() {
            true => vec![ListenAddress { ip: None, port: None }],
            false => listen,
        };
        check_who_is_listed(&options.allow_servers, options.open)?;
        let defaults = RelayLimits::default();
        let count = |count: Option<Count>, default: usize| count.map_or(default, |count| count.0 as usize);
        Ok(RelaySettings {
            listen: every(options.listen),
            listen_tls: every(options.listen_tls),
            allow_servers: options.allow_servers,
            limits: RelayLimits {
                half_open: count(options.max_half_open, defaults.half_open),
                registrations: count(options.max_servers, defaults.registrations),
                registrations_per_source: count(options.max_servers_per_source, defaults.registrations_per_source),
                splices: count(options.max_splices, defaults.splices),
                splices_per_server: count(options.max_splices_per_server, defaults.splices_per_server),
                splices_per_source: count(options.max_splices_per_source, defaults.splices_per_source),
                connections_per_second: options
                    .max_connections_per_second
                    .map_or(defaults.connections_per_second, |count| count.0),
            },
            memory_budget: memory_budget(options.memory_budget)?,
            drain: options.drain.unwrap_or(Duration::from_secs(30)),
            worker_user: options.worker_user,
            mtu_cap: options.mtu_cap.map(|cap| cap.0),
            metrics: options.metrics.map(|address| address.0),
            folders: context.folders()?,
        })
    }
}

fn check_who_is_listed(allow_servers: &Option<PathBuf>, open: bool) -> Result<(), SettingsError> {
    match (allow_servers, open) {
        (Some(_), false) | (None, true) => Ok(()),
        (Some(_), true) => Err(SettingsError::Conflict {
            one: "--allow-servers",
            other: "--open",
        }),
        (None, false) => Err(SettingsError::Missing {
            options: "--allow-servers FILE, or --open to accept every server half",
        }),
    }
}

fn memory_budget(said: Option<ByteSize>) -> Result<u64, SettingsError> {
    match said {
        None => Ok(machine_memory::relay_budget()),
        Some(ByteSize(bytes)) if bytes >= MIN_MEMORY => Ok(bytes),
        Some(_) => Err(SettingsError::TooSmall {
            option: "--memory-budget",
            least: "4MiB",
        }),
    }
}

/// Relays until SIGTERM or SIGINT; a second one ends it at once. At SIGHUP `read_anew` gives the settings, of which whom
/// to list and the limits count from then on.
///
/// # Errors
/// It could not start.
pub(super) fn run(
    settings: &RelaySettings,
    read_anew: impl Fn() -> Result<RelaySettings, SettingsError>,
) -> Result<(), Failure> {
    let (config, fingerprint) = prepare(settings)?;
    let outlets = Outlets {
        control_socket: open_control_socket(settings),
        metrics: settings.metrics.map(listen_for_metrics).transpose()?,
    };
    give_up_root(settings)?;
    super::block_on(
        runtime::Builder::new_multi_thread(),
        serve(config, fingerprint, outlets, read_anew),
    )
}

/// Where it is told what the relay does.
struct Outlets {
    control_socket: Option<ControlSocket>,
    metrics: Option<TcpListener>,
}

impl Outlets {
    fn open(self, relay: &Relay, tasks: &Tasks) -> io::Result<()> {
        if let Some(control_socket) = self.control_socket {
            tasks.spawn("control socket", control_socket.run(relay.observed()));
        }
        if let Some(listener) = self.metrics {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn("metrics", serve_metrics(listener, relay.metrics()));
        }
        Ok(())
    }
}

fn listen_for_metrics(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| report::cannot_listen("--metrics", Endpoint::tcp(address), &error))
}

/// All that may need root.
fn prepare(settings: &RelaySettings) -> Result<(RelayConfig, String), Failure> {
    raise_descriptor_limit();
    let state = &settings.folders.state;
    places::make_folder(state).map_err(|error| report::cannot_use_file(state, &error))?;
    let key = TlsKey::load_or_create(&state.join("relay_key"));
    let key = key.map_err(|error| Failure::from_error(Exit::Unavailable, &error))?;
    let fingerprint = KeyDigest::new(spki_digest(key.spki())).to_string();
    let mtu_cap = settings.mtu_cap.map_or_else(|| Ok(MtuCap::default()), MtuCap::new);
    let config = RelayConfig {
        sockets: bind("--listen", &settings.listen, quic::bind, Endpoint::udp)?,
        tls_listeners: bind("--listen-tls", &settings.listen_tls, super::sshd::listen, Endpoint::tcp)?,
        key,
        secrets: EndpointSecrets::new(secret(&state.join("relay_endpoint_secret"))?),
        allow: allow_list(settings)?,
        limits: settings.limits,
        window: RelayWindow::default(),
        memory: settings.memory_budget,
        quic: QuicLimits {
            mtu_cap: mtu_cap.map_err(|error| Failure::from_error(Exit::Usage, &error))?,
            ..QuicLimits::default()
        },
        drain: settings.drain,
    };
    Ok((config, fingerprint))
}

fn allow_list(settings: &RelaySettings) -> Result<AllowList, Failure> {
    match &settings.allow_servers {
        Some(file) => AllowList::read(file).map_err(|error| Failure::from_error(Exit::Usage, &error)),
        None => Ok(AllowList::Open),
    }
}

/// Binds every address, both families where none is said; a machine without IPv6 does with IPv4.
fn bind<S>(
    option: &'static str,
    addresses: &[ListenAddress],
    bind: fn(SocketAddr) -> io::Result<S>,
    endpoint: fn(SocketAddr) -> Endpoint,
) -> Result<Vec<S>, Failure> {
    let mut sockets = Vec::new();
    for address in addresses {
        let at = |ip| SocketAddr::new(ip, address.port.unwrap_or(USUAL_PORT));
        let told = |at, error| report::cannot_listen(option, endpoint(at), &error);
        let first = at(address.ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        sockets.push(bind(first).map_err(|error| told(first, error))?);
        if address.ip.is_none() {
            let v6 = at(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            match bind(v6) {
                Ok(socket) => sockets.push(socket),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(told(v6, error)),
                Err(error) => debug!(%error, "no IPv6"),
            }
        }
    }
    Ok(sockets)
}

/// Where `bowline status` asks. The relay does without as well.
fn open_control_socket(settings: &RelaySettings) -> Option<ControlSocket> {
    let folder = &settings.folders.runtime;
    let opened = match places::make_folder(folder) {
        Ok(()) => {
            // As root: relays before this one could not remove their sockets from a folder of root's.
            observe::remove_stale_sockets(folder);
            ControlSocket::open(folder, &format!("relay-{}", std::process::id()))
                .map_err(|error| Failure::from_error(Exit::Unavailable, &error))
        }
        Err(error) => Err(report::cannot_use_file(folder, &error)),
    };
    let told = |error: &Failure| {
        let error = error.one_line();
        warn!(error, "`bowline status` will not show this relay");
    };
    opened.inspect_err(told).ok()
}

/// What parses the network is never root.
fn give_up_root(settings: &RelaySettings) -> Result<(), Failure> {
    let user = choose_worker_user(settings.worker_user.as_deref());
    let user = user.map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    if let Some(user) = user {
        become_user(user.uid(), user.gid()).map_err(|error| report::cannot_start(&error))?;
        debug!(user = user.name(), "switched to the worker user");
    }
    Ok(())
}

async fn serve(
    config: RelayConfig,
    fingerprint: String,
    outlets: Outlets,
    read_anew: impl Fn() -> Result<RelaySettings, SettingsError>,
) -> Result<(), Failure> {
    let relay = Relay::new(config).map_err(|error| Failure::from_error(Exit::Unavailable, &error))?;
    let tasks = Tasks::new();
    outlets
        .open(&relay, &tasks)
        .map_err(|error| report::cannot_start(&error))?;
    let mut signals = Signals::new().map_err(|error| report::cannot_start(&error))?;
    let (udp, tls) = (relay.local_addrs(), relay.tls_addrs());
    info!(event = "ready", ?udp, ?tls, "relaying");
    super::serve::announce(udp, tls, None, &fingerprint);
    let (rules, stop) = (relay.rules(), CancellationToken::new());
    let running = relay.run(stop.clone());
    tokio::pin!(running);
    loop {
        tokio::select! {
            () = &mut running => return Ok(()),
            told = signals.recv() => match told {
                Told::Stop => break stop.cancel(),
                Told::Reload => reload(&rules, &read_anew),
            },
        }
    }
    loop {
        tokio::select! {
            () = &mut running => return Ok(()),
            // It takes nobody more, by whatever rules.
            told = signals.recv() => if told == Told::Stop {
                info!("stopping at once after a second signal");
                return Ok(());
            },
        }
    }
}

#[derive(PartialEq, Eq)]
enum Told {
    Stop,
    Reload,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn recv(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hang_up.recv() => Told::Reload,
        }
    }
}

/// Reads settings and keys anew; where that fails, all stays as it was.
fn reload(rules: &Rules, read_anew: &impl Fn() -> Result<RelaySettings, SettingsError>) {
    // Others relay meanwhile.
    let read = tokio::task::block_in_place(|| {
        let settings = read_anew()?;
        Ok::<_, Failure>((allow_list(&settings)?, settings.limits))
    });
    match read {
        Ok((allow, limits)) => {
            rules.change(allow, limits);
            info!(
                event = "reloaded",
                "applied the accepted server halves and the limits; other settings need a restart"
            );
        }
        Err(failure) => warn!(
            "reload failed: {}; continuing with the old settings",
            failure.one_line()
        ),
    }
}
