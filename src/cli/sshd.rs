//! `bowline sshd`: its settings, and the built-in SSH server run on its own.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, sockopt};
use socket2::{Domain, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{debug, info, warn};

use super::args::SshdOptions;
use super::places::{self, Folders};
use super::report::{self, Exit, Failure};
use super::serve::keys::{fingerprint, for_builtin, named_or_own};
use super::settings::{Context, SettingsError};
use super::values::ListenAddress;
use crate::identity::authorized_keys::{AuthorizedKeys, KeyDecision};
use crate::identity::statement::ProvenKey;
use crate::server::handover::Endpoint;
use crate::sshd::{Authorize, Sshd, SshdConfig};
use crate::tasks::Tasks;

/// Where nothing else is said.
const DEFAULT_PORT: u16 = 2222;

/// Connections that wait to be accepted, as sshd's.
const BACKLOG: i32 = 128;

/// What `bowline sshd` works by.
#[derive(Debug, Clone)]
pub(crate) struct SshdSettings {
    /// Where to listen; a missing port is 2222. Default: 127.0.0.1:2222.
    pub(crate) listen: Vec<ListenAddress>,
    /// SSH host keys. Default: empty, which means one in the state folder, made at first use.
    pub(crate) host_keys: Vec<PathBuf>,
    /// Keys that may log in. Default: `~/.ssh/authorized_keys`.
    pub(crate) authorized_keys: PathBuf,
    /// Serve on the socket that is standard input, and nowhere else. Default: false.
    pub(crate) inherit_listener: bool,
    /// Where the host key is.
    pub(crate) folders: Folders,
}

impl SshdSettings {
    /// Settles what the arguments leave open by the configuration file, then by default.
    ///
    /// # Errors
    /// No folder for the state, no home for the keys.
    pub(super) fn new(options: SshdOptions, context: &Context) -> Result<Self, SettingsError> {
        let options = options.or(&context.file.sshd);
        let usual = ListenAddress {
            ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: Some(DEFAULT_PORT),
        };
        let authorized_keys = options
            .authorized_keys
            .or_else(|| places::home().map(|home| home.join(".ssh/authorized_keys")))
            .ok_or(SettingsError::NoHome {
                option: "--authorized-keys",
            })?;
        Ok(SshdSettings {
            listen: match options.listen.is_empty() {
                true => vec![usual],
                false => options.listen,
            },
            host_keys: options.host_key,
            authorized_keys,
            inherit_listener: options.inherit_listener,
            folders: context.folders()?,
        })
    }
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// It could not start, or not go on.
pub(super) async fn run(settings: SshdSettings) -> Result<(), Failure> {
    let tasks = Tasks::new();
    watch_signals(&tasks).map_err(|error| report::cannot_start(&error))?;
    let listeners = match settings.inherit_listener {
        true => vec![inherited()?],
        false => bind(&settings.listen)?,
    };
    let state = &settings.folders.state;
    places::make_folder(state).map_err(|error| report::cannot_use_file(state, &error))?;
    let keys = for_builtin(named_or_own(&settings.host_keys, state)?)?;
    let fingerprint = fingerprint(&keys);
    let sshd = Sshd::on(
        listeners,
        SshdConfig {
            listen: Vec::new(),
            host_keys: keys.into_iter().map(|key| key.key).collect(),
            authorize: authorize(key_file(&settings)?),
            accept_env: Vec::new(),
        },
    );
    let sshd = sshd.map_err(|error| Failure::from_error(Exit::Unavailable, &error))?;
    if !settings.inherit_listener {
        announce(&sshd.local_addrs(), &fingerprint);
    }
    let ended = sshd.run(tasks.token()).await;
    ended.map_err(|error| Failure::from_error(Exit::Unavailable, &error))
}

/// The line that scripts wait for.
fn announce(addresses: &[SocketAddr], fingerprint: &str) {
    let tcp: Vec<String> = addresses.iter().map(|address| format!("tcp={address}")).collect();
    // A closed stdout is nobody waiting.
    let _ = writeln!(std::io::stdout(), "ready {} fingerprint={fingerprint}", tcp.join(" "));
}

/// Cancels the group's token at SIGTERM and SIGINT.
fn watch_signals(tasks: &Tasks) -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = tasks.token();
    tasks.spawn("signals", async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// The socket of `serve --target builtin`. Its keeper's end is ours too: nobody else could stop us.
fn inherited() -> Result<TcpListener, Failure> {
    let stdin = rustix::stdio::stdin();
    let is_listener = sockopt::socket_acceptconn(stdin).unwrap_or(false)
        && matches!(
            sockopt::socket_domain(stdin),
            Ok(AddressFamily::INET | AddressFamily::INET6)
        );
    if !is_listener {
        let what = "standard input is not a listening TCP socket";
        return Err(Failure::new(Exit::Usage, what).hint("--inherit-listener is for `bowline serve --target builtin`"));
    }
    let taken = || -> io::Result<TcpListener> {
        let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3)?;
        // What logs in here must not inherit the socket.
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(null)?;
        Ok(socket.into())
    };
    taken().map_err(|error| report::cannot_start(&error))
}

fn bind(addresses: &[ListenAddress]) -> Result<Vec<TcpListener>, Failure> {
    let mut listeners = Vec::new();
    for address in addresses {
        let port = address.port.unwrap_or(DEFAULT_PORT);
        match address.ip {
            Some(ip) => listeners.push(listen_or_tell(SocketAddr::new(ip, port))?),
            None => listeners.extend(bind_all(port)?),
        }
    }
    Ok(listeners)
}

/// Both families at one port; a machine without IPv6 does with IPv4.
fn bind_all(port: u16) -> Result<Vec<TcpListener>, Failure> {
    let v4 = listen_or_tell((Ipv4Addr::UNSPECIFIED, port).into())?;
    let port = v4.local_addr().map_err(|error| report::cannot_start(&error))?.port();
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match listen(v6) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(report::cannot_listen("--listen", Endpoint::tcp(v6), &error))
        }
        Err(error) => {
            debug!(%error, "no IPv6");
            Ok(vec![v4])
        }
    }
}

fn listen_or_tell(address: SocketAddr) -> Result<TcpListener, Failure> {
    listen(address).map_err(|error| report::cannot_listen("--listen", Endpoint::tcp(address), &error))
}

/// Binds a TCP socket and listens; an IPv6 one takes no IPv4.
///
/// # Errors
/// As `bind(2)` and `listen(2)`.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A port of ours is free as soon as we have ended.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Clients over IPv4 would come as mapped addresses, which fit no `from=`.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The file of keys, which is looked at anew for each login.
fn key_file(settings: &SshdSettings) -> Result<AuthorizedKeys, Failure> {
    let path = &settings.authorized_keys;
    match AuthorizedKeys::load(path) {
        Ok(keys) => {
            for warning in keys.warnings() {
                warn!(file = %path.display(), %warning, "a line of the file of keys is ignored or unsafe");
            }
            Ok(keys)
        }
        // The server half serves on; nothing but waiting would come of an end here.
        Err(error) if settings.inherit_listener => {
            let error = Failure::from_error(Exit::Unavailable, &error);
            warn!(error = error.one_line(), "nobody can log in until this file exists");
            Ok(AuthorizedKeys::unread(path))
        }
        Err(error) => Err(Failure::from_error(Exit::Unavailable, &error)
            .hint("--authorized-keys takes a file in the format of sshd's authorized_keys, with one key per line")),
    }
}

fn authorize(keys: AuthorizedKeys) -> Authorize {
    Arc::new(move |user, key, source| {
        let Ok(blob) = key.to_bytes() else { return false };
        let key = ProvenKey {
            blob: blob.into(),
            key: key.key_data().clone(),
            certificate: None,
        };
        match keys.permits_everything(&key, user, source.to_canonical(), SystemTime::now()) {
            Ok(KeyDecision::Accepted { .. }) => true,
            Ok(KeyDecision::Unknown) => false,
            Ok(KeyDecision::Refused { line, reason }) => {
                let file = keys.path().display();
                info!(%file, line, ?reason, key = key.fingerprint(), "the authorized keys file refuses one of \
                    its keys");
                false
            }
            Err(error) => {
                let error = Failure::from_error(Exit::Unavailable, &error);
                warn!(
                    error = error.one_line(),
                    "cannot use the authorized keys file: nobody can log in"
                );
                false
            }
        }
    })
}
