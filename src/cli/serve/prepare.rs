//! What the keeper does before its first worker: keys, statements, ports, and a look at sshd's configuration.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
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
use crate::server::keeper::{Answer, CompanionPlan, WorkerPlan, choose_worker_user};
use crate::server::sshd_config::{Settings, SshdConfig};
use crate::server::worker::{AuthoritySetup, WorkerSetup};

/// How long a worker may take to say goodbye to its clients.
const GRACE: Duration = Duration::from_secs(8);

/// Everything a keeper runs by.
pub(super) struct Prepared {
    pub(super) plan: WorkerPlan,
    pub(super) answer: Answer,
}

/// Does all that needs privileges, once. `worker_arguments` follow the worker's own.
///
/// # Errors
/// What must be there and is not: ports, keys, users.
pub(super) fn prepare(settings: &ServeSettings, worker_arguments: Vec<OsString>) -> Result<Prepared, Failure> {
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
    let (target, companion) = target(settings, &host_keys, &worker_arguments)?;
    let setup = setup(settings, target, &host_keys, sshd_settings.is_some())?;
    let listeners = listen(&settings.listen, target.port())?;
    let mut args = vec!["serve-worker".into()];
    args.extend(worker_arguments);
    let plan = WorkerPlan {
        program: own_program()?,
        args,
        listeners,
        handover: setup.encode(),
        user,
        companion,
        grace: GRACE,
    };
    Ok(Prepared {
        plan,
        answer: Answers { sshd, key_file }.into_answer(),
    })
}

fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| report::cannot_start(&error))
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
        max_sessions: settings.max_sessions as usize,
        max_sessions_per_key: settings.max_sessions_per_key as usize,
        session_ttl: settings.session_ttl,
        memory_budget: bytes(settings.memory_budget),
        max_half_open: settings.max_half_open as usize,
        mtu_cap: settings.mtu_cap,
        vault: settings.vault,
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
) -> Result<(SocketAddr, Option<CompanionPlan>), Failure> {
    let Target::Tcp { host, port } = &settings.target else {
        let (address, companion) = builtin(settings, host_keys, log_arguments)?;
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
) -> Result<(SocketAddr, CompanionPlan), Failure> {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = TcpListener::bind(local).map_err(|error| report::cannot_listen("tcp", local, &error))?;
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

/// Binds every address; without any, IPv6 and IPv4 at sshd's port.
fn listen(addresses: &[ListenAddress], usual_port: u16) -> Result<Vec<UdpSocket>, Failure> {
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
            Some(ip) => sockets.push(bind_one(SocketAddr::new(ip, port))?),
            None => sockets.extend(bind_all(port)?),
        }
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr) -> Result<UdpSocket, Failure> {
    bind(address).map_err(|error| report::cannot_listen("udp", address, &error))
}

/// Both families at one port; a machine without IPv6 does with IPv4.
fn bind_all(port: u16) -> Result<Vec<UdpSocket>, Failure> {
    let v4 = bind_one(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))?;
    let port = v4.local_addr().map_err(|error| report::cannot_start(&error))?.port();
    let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    match bind(v6) {
        Ok(socket) => Ok(vec![v4, socket]),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(report::cannot_listen("udp", v6, &error)),
        Err(error) => {
            debug!(%error, "no IPv6");
            Ok(vec![v4])
        }
    }
}

fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
