//! What the keeper does before its first worker: keys, statements, ports, and a look at sshd's configuration.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::answers::{Answers, check_key_file};
use super::keys::{host_keys, secret, statements};
use super::{Authorizer, ServeSettings};
use crate::carrier::quic::bind;
use crate::cli::places;
use crate::cli::report::{self, Exit, Failure};
use crate::cli::values::{ListenAddress, Target};
use crate::identity::raw_key::TlsKey;
use crate::identity::statement::HostKey;
use crate::server::keeper::{
    Answer, CompanionPlan, Estate, WorkerPlan, choose_worker_user, most_sessions, store_limit,
};
use crate::server::sshd_config::{Settings, SshdConfig};
use crate::server::worker::{AuthoritySetup, WorkerSetup};

/// How long a worker may take to say goodbye to its clients.
const GRACE: Duration = Duration::from_secs(8);

/// Says that there is something to go on with, on standard input.
const TAKE_OVER: &str = "--take-over";

/// Everything a keeper runs by.
pub(super) struct Prepared {
    pub(super) plan: WorkerPlan,
    pub(super) answer: Answer,
}

/// Does all that needs privileges, once. `worker_arguments` follow the worker's own. What an `estate` has already is
/// taken from there.
///
/// # Errors
/// What must be there and is not: ports, keys, users.
pub(super) fn prepare(
    settings: &ServeSettings,
    worker_arguments: Vec<OsString>,
    estate: Option<&Estate>,
) -> Result<Prepared, Failure> {
    let user = choose_worker_user(settings.worker_user.as_deref());
    let user = user.map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    let key_file = match &settings.auth {
        Authorizer::File(path) => Some(check_key_file(path)?),
        Authorizer::Sshd | Authorizer::None => None,
    };
    let state = &settings.folders.state;
    places::make_folder(state).map_err(|error| report::cannot_use_file(state, &error))?;
    let sshd = SshdConfig {
        binary: settings
            .sshd_binary
            .clone()
            .unwrap_or_else(|| PathBuf::from("/usr/sbin/sshd")),
        config: settings.sshd_config.clone(),
    };
    let is_sshd = matches!(settings.target, Target::Tcp { .. });
    let sshd_settings = if is_sshd { look_at(&sshd) } else { None };
    let host_keys = host_keys(settings, sshd_settings.as_ref())?;
    let (target, companion) = target(settings, &host_keys, &worker_arguments, estate)?;
    let sessions = sessions_that_fit(settings.max_sessions as usize);
    let setup = setup(settings, target, &host_keys, sshd_settings.is_some(), sessions)?;
    let bound = estate.map_or(&[][..], Estate::listeners);
    let listeners = Bound(bound).listen(&settings.listen, target.port())?;
    let answers = Answers {
        knows_no_rules: is_sshd && knows_no_rules(&sshd),
        sshd,
        key_file,
    };
    let with = |own: &str| {
        let own = std::iter::once(OsString::from(own));
        own.chain(worker_arguments.iter().cloned()).collect()
    };
    let plan = WorkerPlan {
        program: own_program()?,
        args: with("serve-worker"),
        keeper_args: with("serve-keeper"),
        reload_args: Some(reload_arguments(std::env::args_os().skip(1))),
        listeners,
        handover: setup.encode(),
        answers: answers.encode(),
        store_limit: store_limit(sessions),
        user,
        companion,
        grace: GRACE,
    };
    Ok(Prepared {
        plan,
        answer: answers.into_answer(),
    })
}

/// Where this program is on disk. The kernel says so when another has taken its place.
fn own_program() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe().map_err(|error| report::cannot_start(&error))?;
    let clean = path.as_os_str().as_encoded_bytes().strip_suffix(b" (deleted)");
    Ok(clean.map_or(path.clone(), |clean| OsStr::from_bytes(clean).into()))
}

/// The same command line again, to go on with what is there.
fn reload_arguments(own: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let again = own.filter(|argument| argument != TAKE_OVER);
    again.chain([TAKE_OVER.into()]).collect()
}

/// As many as wanted, unless the limit of descriptors allows fewer.
fn sessions_that_fit(wanted: usize) -> usize {
    let most = most_sessions();
    if most < wanted {
        warn!(
            wanted,
            most, "the limit of open files (LimitNOFILE, ulimit -n) allows fewer sessions"
        );
    }
    wanted.min(most)
}

/// Whether it is certain that sshd treats nobody by address: only who may read all of its configuration knows.
fn knows_no_rules(sshd: &SshdConfig) -> bool {
    rustix::process::geteuid().is_root() && sshd.has_no_address_rules()
}

/// sshd's settings, and what in them would end detached sessions.
fn look_at(sshd: &SshdConfig) -> Option<Settings> {
    match sshd.settings() {
        Ok(settings) => {
            for warning in settings.warnings() {
                warn!(mend = warning.mending_line(), "{warning}");
            }
            Some(settings)
        }
        Err(error) => {
            let error = Failure::from_error(Exit::Unavailable, &error);
            info!(error = error.one_line(), "sshd's configuration is not known");
            None
        }
    }
}

fn setup(
    settings: &ServeSettings,
    target: SocketAddr,
    host_keys: &[HostKey],
    is_sshd_known: bool,
    max_sessions: usize,
) -> Result<WorkerSetup, Failure> {
    let tls_key = TlsKey::load_or_create(&settings.folders.state.join("tls_key"));
    let tls_key = tls_key.map_err(|error| Failure::from_error(Exit::Unavailable, &error))?;
    let (statements, fingerprint) = statements(host_keys, &tls_key)?;
    Ok(WorkerSetup {
        tls_key: tls_key.to_pkcs8().to_vec(),
        secrets: secret(&settings.folders.state.join("endpoint_secret"))?,
        statements,
        target,
        authority: match &settings.auth {
            Authorizer::Sshd => AuthoritySetup::Sshd {
                compare_rules: compares_rules(settings, is_sshd_known),
            },
            Authorizer::File(path) => AuthoritySetup::Keys(path.clone()),
            Authorizer::None => AuthoritySetup::Anyone,
        },
        replay_buffer: bytes(settings.replay_buffer),
        max_sessions,
        max_sessions_per_key: settings.max_sessions_per_key as usize,
        session_ttl: settings.session_ttl,
        memory_budget: bytes(settings.memory_budget),
        max_half_open: settings.max_half_open as usize,
        mtu_cap: settings.mtu_cap,
        fingerprint,
    })
}

/// Whether sshd's rules for a client's address are held against those for loopback.
fn compares_rules(settings: &ServeSettings, is_known: bool) -> bool {
    if settings.accept_loopback_match || settings.target == Target::Builtin {
        return false;
    }
    if !is_known {
        warn!("sshd -T gives no answer: rules that sshd has for other addresses than loopback are not compared");
    }
    is_known
}

/// Where sessions are joined to; with the built-in server its listening socket, which outlives each of its runs.
fn target(
    settings: &ServeSettings,
    host_keys: &[HostKey],
    log_arguments: &[OsString],
    estate: Option<&Estate>,
) -> Result<(SocketAddr, Option<CompanionPlan>), Failure> {
    let Target::Tcp { host, port } = &settings.target else {
        let (address, companion) = builtin(settings, host_keys, log_arguments, estate)?;
        return Ok((address, Some(companion)));
    };
    let found = (host.as_str(), *port).to_socket_addrs();
    let found = found.map_err(|error| {
        Failure::new(
            Exit::Unavailable,
            format_args!("cannot resolve the target {host}: {error}"),
        )
    })?;
    let found: Vec<SocketAddr> = found.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    let nothing = || Failure::new(Exit::Unavailable, format_args!("the target {host} has no address"));
    Ok((*first.ok_or_else(nothing)?, None))
}

/// Everything is said to it: what the environment or a configuration file say of `bowline sshd` is for one that is
/// started by hand.
fn builtin(
    settings: &ServeSettings,
    host_keys: &[HostKey],
    log_arguments: &[OsString],
    estate: Option<&Estate>,
) -> Result<(SocketAddr, CompanionPlan), Failure> {
    let listener = match estate.and_then(Estate::companion_input) {
        Some(listener) => listener.try_clone_to_owned().map(TcpListener::from),
        None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
    };
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = listener.map_err(|error| report::cannot_listen("tcp", local, &error))?;
    let address = listener.local_addr().map_err(|error| report::cannot_start(&error))?;
    let mut args: Vec<OsString> = vec!["sshd".into(), "--inherit-listener".into()];
    args.extend(["--config".into(), "/dev/null".into()]);
    args.extend(["--state-dir".into(), settings.folders.state.clone().into()]);
    args.extend(log_arguments.iter().cloned());
    for key in host_keys {
        args.extend(["--host-key".into(), key.path.clone().into()]);
    }
    let keys = match &settings.auth {
        Authorizer::File(keys) => Some(keys),
        Authorizer::Sshd | Authorizer::None => settings.sshd_keys.as_ref(),
    };
    if let Some(keys) = keys {
        args.extend(["--authorized-keys".into(), keys.into()]);
    }
    let companion = CompanionPlan {
        program: own_program()?,
        args,
        stdin: Some(listener.into()),
    };
    Ok((address, companion))
}

/// Sockets that are bound already.
struct Bound<'a>(&'a [UdpSocket]);

impl Bound<'_> {
    /// Binds every address; without any, IPv6 and IPv4 at sshd's port.
    fn listen(&self, addresses: &[ListenAddress], usual_port: u16) -> Result<Vec<UdpSocket>, Failure> {
        let everywhere = [ListenAddress { ip: None, port: None }];
        let wanted = if addresses.is_empty() {
            &everywhere[..]
        } else {
            addresses
        };
        let mut sockets = Vec::new();
        for address in wanted {
            let port = address.port.unwrap_or(usual_port);
            match address.ip {
                Some(ip) => sockets.push(self.one(SocketAddr::new(ip, port), &sockets)?),
                None => sockets.extend(self.all(port, &sockets)?),
            }
        }
        Ok(sockets)
    }

    fn one(&self, address: SocketAddr, taken: &[UdpSocket]) -> Result<UdpSocket, Failure> {
        self.bind(address, taken)
            .map_err(|error| report::cannot_listen("udp", address, &error))
    }

    /// Both families at one port; a machine without IPv6 does with IPv4.
    fn all(&self, port: u16, taken: &[UdpSocket]) -> Result<Vec<UdpSocket>, Failure> {
        let v4 = self.one(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), taken)?;
        let port = v4.local_addr().map_err(|error| report::cannot_start(&error))?.port();
        let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        match self.bind(v6, taken) {
            Ok(socket) => Ok(vec![v4, socket]),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(report::cannot_listen("udp", v6, &error)),
            Err(error) => {
                debug!(%error, "no IPv6");
                Ok(vec![v4])
            }
        }
    }

    /// The socket that is bound there already, else a new one. Any port is whichever it was.
    fn bind(&self, wanted: SocketAddr, taken: &[UdpSocket]) -> io::Result<UdpSocket> {
        let is_taken = |address| {
            taken
                .iter()
                .any(|socket| socket.local_addr().is_ok_and(|own| own == address))
        };
        let fits = |socket: &&UdpSocket| {
            socket.local_addr().is_ok_and(|address| {
                let is_port = wanted.port() == 0 || wanted.port() == address.port();
                address.ip() == wanted.ip() && is_port && !is_taken(address)
            })
        };
        match self.0.iter().find(fits) {
            Some(socket) => socket.try_clone(),
            None => bind(wanted),
        }
    }
}

fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
