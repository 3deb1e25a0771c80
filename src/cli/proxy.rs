//! `bowline proxy`: its settings, and one session from start to end.

pub(super) mod alternate_routes;
mod caller;
mod opening;

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use russh::keys::ssh_key::Fingerprint;

use crate::carrier;
use crate::carrier::relays::RelayName;
use crate::carrier::stream::ProxyRules;
use crate::client::journal::{Journal, JournalEntry};
use crate::client::stdio::{self, Stdin, Stdout};
use crate::client::{
    self, ClientConfig, EarlyData, Family, Notice, OpenError, OpenSession, Port, SessionControlHandler, SshCredentials,
    SshTrust, Target, fallback,
};
use crate::identity::known_hosts::{KnownHostsCommand, Pin};
use crate::identity::ssh_config::{AddressFamily, SshConfig, SshConfigError, SshQuery};
use crate::observe::{ControlSocket, LinkReporter, Terminal, report_plain_tcp};
use crate::pump::Outcome;
use crate::session::SessionConfig;
use crate::tasks::Tasks;
use crate::transport::quic::MtuCap;
use crate::wire::{SessionId, UserName};

use super::args::ProxyArgs;
use super::bootstrap::is_in_login;
use super::places::Folders;
use super::report::{self, Exit, Failure};
use super::settings::{Context, SettingsError};
use super::signals::{Signals, leave_terminal};
use super::values::{Destination, Fallback, Install, PathCommand, Transport};
pub(super) use alternate_routes::AlternateRoutes;
use caller::Caller;
pub(super) use opening::Opening;
use opening::Unopened;

/// Where ssh is.
type Pipe = (EarlyData<Stdin>, Stdout);

/// What `bowline proxy` works by.
#[derive(Debug, Clone)]
pub(crate) struct ProxySettings {
    /// Whom to reach, as ssh was given it.
    pub(crate) destination: Destination,
    /// ssh's port. Default: as `ssh -G` says.
    pub(crate) ssh_port: Option<u16>,
    /// Given on to `ssh -G -F`. Default: ssh's own files.
    pub(crate) ssh_config: Option<PathBuf>,
    /// Each given on to `ssh -G -o`. Default: none.
    pub(crate) ssh_options: Vec<String>,
    /// All that the ssh was given whose ProxyCommand this is; empty if that is not known.
    pub(crate) ssh_arguments: Vec<OsString>,
    /// User keys to offer before those that `ssh -G` names. Default: none.
    pub(crate) identities: Vec<PathBuf>,
    /// Host keys to trust instead of known_hosts. Default: none, known_hosts counts.
    pub(crate) pins: Vec<Fingerprint>,
    /// Read instead of ssh's known_hosts files. Default: those.
    pub(crate) known_hosts: Option<PathBuf>,
    /// UDP port of the server half. Default: ssh's port number.
    pub(crate) port: Option<u16>,
    /// TCP port of the server half's TLS. Default: 443.
    pub(crate) tls_port: Option<u16>,
    /// Relays at which the server half may be listed. Default: none.
    pub(crate) relays: Vec<RelayName>,
    /// A proxy for TLS. Default: as the environment says (HTTPS_PROXY, ALL_PROXY, NO_PROXY).
    pub(crate) proxy: Option<ProxyRules>,
    /// Programs whose standard input and output lead to the server half's TLS port. Default: none.
    pub(crate) path_commands: Vec<PathCommand>,
    /// What is dialed. Default: whatever gets through.
    pub(crate) transport: Transport,
    /// What to do when no path leads to the server half. Default: nothing, fail.
    pub(crate) fallback: Fallback,
    /// Whether a server half may be started there if there is none. Default: no.
    pub(crate) install: Install,
    /// Bounds the open. Default: ssh's ConnectTimeout less half a second, else 10 s, which is extended if packets arrive.
    pub(crate) connect_timeout: Option<Duration>,
    /// Bounds it too while the server half is still asking sshd. Default: ssh's ConnectTimeout less half a second, else 120 s.
    pub(crate) answer_timeout: Option<Duration>,
    /// The longest outage an open session waits for. Default: the server half's ttl.
    pub(crate) patience: Option<Duration>,
    /// The most bytes of UDP payload in a packet, at least 1200. Default: what the path takes.
    pub(crate) mtu_cap: Option<u16>,
    /// Where a `bowline ssh` waits for reports about the link. Default: none.
    pub(crate) terminal_socket: Option<PathBuf>,
    /// Where the journal and the pins are.
    pub(crate) folders: Folders,
}

impl ProxySettings {
    /// Settles what the arguments leave open by the configuration file, then by default.
    ///
    /// # Errors
    /// No folder for the state, or something else than a proxy in place of one.
    pub(super) fn new(args: ProxyArgs, context: &Context) -> Result<Self, SettingsError> {
        let mut destination = args.destination;
        let caller = Caller::of(&destination.host);
        if let Some(caller) = &caller {
            destination.host.clone_from(&caller.host);
        }
        let table = context.file.client(&destination.host);
        let proxy = alternate_routes::chosen_proxy(args.reach.proxy.as_ref(), &table)?;
        let (ssh, reach) = (args.ssh.or(&table), args.reach.or(&table));
        let ssh_arguments = caller.map(|caller| match ssh.ssh_config {
            Some(_) => caller.arguments_without_config(),
            None => caller.arguments,
        });
        Ok(ProxySettings {
            destination,
            ssh_port: args.ssh_port.map(|port| port.0),
            ssh_config: ssh.ssh_config,
            ssh_options: ssh.ssh_options,
            ssh_arguments: ssh_arguments.unwrap_or_default(),
            identities: ssh.identity.unwrap_or_default(),
            pins: reach.pin.unwrap_or_default(),
            known_hosts: reach.known_hosts,
            port: reach.port.map(|port| port.0),
            tls_port: reach.tls_port.map(|port| port.0),
            relays: reach.relay.unwrap_or_default(),
            proxy,
            path_commands: reach.path_command.unwrap_or_default(),
            transport: reach.transport.unwrap_or(Transport::Auto),
            // The login that starts a server half must not wait for one.
            fallback: match is_in_login() {
                true => Fallback::Tcp,
                false => reach.fallback.unwrap_or(Fallback::None),
            },
            install: match is_in_login() {
                true => Install::No,
                false => reach.install.unwrap_or(Install::No),
            },
            connect_timeout: reach.connect_timeout,
            answer_timeout: reach.connect_timeout,
            patience: reach.patience,
            mtu_cap: reach.mtu_cap.map(|cap| cap.0),
            terminal_socket: reach.terminal_socket,
            folders: context.folders()?,
        })
    }
}

impl ProxySettings {
    /// The arguments of the ssh that runs this; if they are not known, those that lead to the same host.
    fn arguments_of_ssh(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |letter: &str, value: OsString| words.extend([letter.into(), value]);
        if let Some(file) = &self.ssh_config {
            add("-F", file.into());
        }
        if !self.ssh_arguments.is_empty() {
            words.extend(self.ssh_arguments.iter().cloned());
            return words;
        }
        if let Some(port) = self.ssh_port {
            add("-p", port.to_string().into());
        }
        if let Some(user) = &self.destination.user {
            add("-l", user.into());
        }
        for option in &self.ssh_options {
            add("-o", option.into());
        }
        words.extend(["--".into(), OsString::from(&self.destination.host)]);
        words
    }
}

/// Carries one session between stdin/stdout and the server half.
///
/// # Errors
/// The session could not be opened, or was lost.
pub(super) async fn run(settings: ProxySettings) -> Result<(), Failure> {
    let ssh = resolve(&settings)
        .await
        .map_err(|error| report::no_ssh_config(&error))?;
    if ssh.proxy_use_fdpass && stdio::is_one_socket() {
        return Err(report::passes_no_socket(&settings.destination.host));
    }
    super::places::make_folder_of_memories(&settings.folders.state)?;
    let alternate_routes = AlternateRoutes::to(&ssh.hostname, &settings)?;
    let config = client_config(&settings, &ssh, &alternate_routes).await?;
    let connect_timeout = config.connect_timeout;
    let mut signals = Signals::new().map_err(|error| report::cannot_start(&error))?;
    let (stdin, stdout) = (Stdin::take(), Stdout::take());
    let mut stdin = EarlyData::new(stdin.map_err(|error| report::cannot_start(&error))?);
    let stdout = stdout.map_err(|error| report::cannot_start(&error))?;
    let opening = Opening::new(&settings, &ssh);
    let opened = tokio::select! {
        opened = opening.open(config, &mut stdin) => opened,
        // ssh has given up, and waits for us to end.
        () = signals.recv() => {
            // So does the server half, which may be asking sshd.
            carrier::flush_transport().await;
            return Ok(());
        }
    };
    match opened {
        Ok(session) => carry(session, (stdin, stdout), &settings, signals).await,
        Err(Unopened { error, reason }) if settings.fallback == Fallback::Tcp && may_work_without(&error) => {
            let why = (&error, reason.as_deref());
            tokio::select! {
                ended = fall_back(&ssh, (stdin, stdout), connect_timeout, why, settings.terminal_socket) => {
                    ended.map_err(|failure| alternate_routes.explain(failure))
                }
                () = signals.recv() => Ok(()),
            }
        }
        Err(Unopened { error, reason }) => {
            leave_open(stdout);
            let is_no_path = is_no_path(&error);
            let failure = report::cannot_open_as(&settings.destination.host, error, ssh.ignores_host_keys);
            let failure = reason.into_iter().fold(failure, Failure::fact);
            Err(if is_no_path {
                alternate_routes.explain(failure)
            } else {
                failure
            })
        }
    }
}

/// Keeps ssh's pipe open until this process ends. When it is closed, ssh says so and ends, and this process is to say why
/// before that.
fn leave_open(stdout: Stdout) {
    std::mem::forget(stdout);
}

/// Whether a ProxyCommand, as it is written in ssh's configuration, runs `bowline proxy`. The program may have another name.
pub(super) fn is_over_bowline(command: &str) -> bool {
    let program = command
        .split_once(" proxy ")
        .map(|(program, _)| Path::new(program.trim_matches('\'')));
    let is_this = |program: &Path| std::env::current_exe().is_ok_and(|this| this == program);
    program.is_some_and(|program| program.file_name() == Some("bowline".as_ref()) || is_this(program))
}

/// ssh's configuration for the host.
///
/// # Errors
/// As of [`SshConfig::resolve`].
pub(super) async fn resolve(settings: &ProxySettings) -> Result<SshConfig, SshConfigError> {
    let mut query = SshQuery::new(&settings.destination.host);
    query.user = settings.destination.user.clone();
    query.port = settings.ssh_port;
    query.config_file = settings.ssh_config.clone();
    query.options = settings.ssh_options.clone();
    query.arguments = settings.ssh_arguments.clone();
    SshConfig::resolve(&query).await
}

pub(super) async fn client_config(
    settings: &ProxySettings,
    ssh: &SshConfig,
    alternate_routes: &AlternateRoutes,
) -> Result<ClientConfig, Failure> {
    let state = &settings.folders.state;
    let host = &settings.destination.host;
    let notice: Notice = Box::new(report::notice);
    let credentials = SshCredentials::gather(ssh, &settings.identities, host, state, notice).await;
    let trust = SshTrust {
        name: ssh.known_hosts_name(),
        own_known_hosts: state.join("known_hosts"),
        known_hosts: settings
            .known_hosts
            .clone()
            .map_or_else(|| ssh.known_hosts_files(), |file| vec![file]),
        command: known_hosts_command(settings, ssh).await?,
        revoked: ssh.revoked_host_keys.clone(),
        pins: settings.pins.iter().copied().map(Pin::from).collect(),
    };
    let limit = settings.connect_timeout.unwrap_or_else(|| connect_timeout(ssh));
    let answer_timeout = settings
        .answer_timeout
        .or(ssh.connect_timeout.map(|_| connect_timeout(ssh)));
    let limit = match settings.fallback {
        Fallback::None => limit,
        // Somebody waits, and there is another way.
        Fallback::Tcp => limit.min(FALLBACK_DELAY),
    };
    let mtu_cap = settings.mtu_cap.map_or_else(|| Ok(MtuCap::default()), MtuCap::new);
    Ok(ClientConfig {
        target: Target {
            host: ssh.hostname.clone(),
            ports: ports(settings, ssh.port),
            family: match ssh.address_family {
                AddressFamily::Any => None,
                AddressFamily::Inet => Some(Family::V4),
                AddressFamily::Inet6 => Some(Family::V6),
            },
            relays: settings.relays.clone(),
            alternate_routes: alternate_routes.paths.clone(),
        },
        state_dir: Some(state.clone()),
        user: UserName::new(&*ssh.user).map_err(report::not_a_user_name)?,
        trust: Arc::new(trust),
        credentials: Arc::new(credentials),
        session: SessionConfig::default(),
        connect_timeout: limit,
        answer_timeout: answer_timeout.unwrap_or(ANSWER_TIMEOUT),
        patience: settings.patience,
        mtu_cap: mtu_cap.map_err(|error| Failure::from_error(Exit::Usage, &error))?,
    })
}

/// How long sshd is waited for where nobody said how long: as long as it waits for a login by default (LoginGraceTime).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// ssh's `KnownHostsCommand`, asked once as ssh asks it before it connects. Not where a file or pins are given instead.
async fn known_hosts_command(
    settings: &ProxySettings,
    ssh: &SshConfig,
) -> Result<Option<(KnownHostsCommand, Vec<u8>)>, Failure> {
    let is_replaced = settings.known_hosts.is_some() || !settings.pins.is_empty();
    let Some(command) = ssh.known_hosts_command.clone().filter(|_| !is_replaced) else {
        return Ok(None);
    };
    let said = command.ask(ssh.known_hosts_name().as_str()).await;
    let said = said.map_err(|error| report::no_known_hosts_command(&error))?;
    Ok(Some((command, said)))
}

/// What firewalls let through most often.
const HTTPS_PORT: u16 = 443;

/// Where the server half may answer at each address, what is hoped for first.
fn ports(settings: &ProxySettings, ssh_port: u16) -> Vec<Port> {
    let usual = Port::Quic(settings.port.unwrap_or(ssh_port));
    let tls = Port::Tls(settings.tls_port.unwrap_or(HTTPS_PORT));
    let web = Some(Port::Quic(HTTPS_PORT)).filter(|web| *web != usual);
    match settings.transport {
        Transport::Auto => [usual, tls].into_iter().chain(web).collect(),
        Transport::Quic => [usual].into_iter().chain(web).collect(),
        Transport::Tls => vec![tls],
    }
}

/// How long a server half is looked for before plain TCP is tried: a lost first packet, and its repeat, fit in.
const FALLBACK_DELAY: Duration = Duration::from_secs(3);

/// ssh gives up at its ConnectTimeout without a word; half a second before, ours can still be read.
fn connect_timeout(ssh: &SshConfig) -> Duration {
    let least = Duration::from_millis(500);
    ssh.connect_timeout
        .map_or(Duration::from_secs(10), |limit| limit.saturating_sub(least).max(least))
}

/// Runs an open session, with an entry in the journal for as long as it lives.
async fn carry(
    session: OpenSession,
    (stdin, stdout): Pipe,
    settings: &ProxySettings,
    mut signals: Signals,
) -> Result<(), Failure> {
    #[cfg(debug_assertions)]
    crate::fault::panic_if_asked();
    let entry = JournalEntry {
        session: *session.id().as_bytes(),
        reap_token: *session.reap_token(),
        host: settings.destination.host.clone(),
        paths: session.paths(),
        server_key: session.server_key().to_vec(),
        started: SystemTime::now(),
    };
    let journal = Journal::open(&settings.folders.state);
    let live = journal
        .as_ref()
        .map_err(ToString::to_string)
        .and_then(|j| j.begin(&entry).map_err(|e| e.to_string()));
    let live = live.inspect_err(|error| {
        tracing::warn!(
            error,
            "cannot use the session journal: if this process \
        is killed, its session stays on the server"
        )
    });
    leave_terminal();
    let control = session.control();
    let tasks = Tasks::new();
    let terminal = Terminal::default();
    open_control_socket(&session, settings, &tasks, terminal.clone());
    report_link(&session, settings, &tasks, terminal);
    let outcome = {
        let running = session.run(stdin, stdout);
        let reaping = reap_orphans(journal.ok(), settings.destination.host.clone());
        tokio::pin!(running, reaping);
        let mut reaped = false;
        loop {
            tokio::select! {
                outcome = &mut running => break outcome,
                () = signals.recv() => control.hang_up(),
                () = &mut reaping, if !reaped => reaped = true,
            }
        }
    };
    tasks.shutdown(Duration::ZERO).await;
    // Where the server half may wait on, the next run ends the session by the journal.
    if !matches!(outcome, Outcome::Unfinished | Outcome::Expired | Outcome::Ended(_))
        && let Ok(live) = live
    {
        live.finish();
    }
    report::session_end(outcome)
}

/// Where `bowline status` asks. The session does without as well.
fn open_control_socket(session: &OpenSession, settings: &ProxySettings, tasks: &Tasks, terminal: Terminal) {
    let folder = &settings.folders.runtime;
    let unmade = super::places::make_folder(folder);
    let opened = match unmade {
        Ok(()) => ControlSocket::open(folder, &format!("client-{:#}", session.id()))
            .map_err(|error| Failure::from_error(Exit::Unavailable, &error)),
        Err(error) => Err(report::cannot_use_file(folder, &error)),
    };
    match opened {
        Ok(control_socket) => {
            let handler = SessionControlHandler {
                id: session.id(),
                host: settings.destination.host.clone(),
                user: settings.destination.user.clone(),
                control: session.control(),
                terminal,
            };
            tasks.spawn("control socket", control_socket.run(Arc::new(handler)));
        }
        Err(error) => {
            let error = error.one_line();
            tracing::warn!(error, "`bowline status` will not show this session");
        }
    }
}

/// Tells the `bowline ssh` in front of ssh, if there is one.
fn report_link(session: &OpenSession, settings: &ProxySettings, tasks: &Tasks, terminal: Terminal) {
    let Some(file) = settings.terminal_socket.clone() else {
        return;
    };
    let mut trying: Vec<String> = Vec::new();
    for path in session.paths() {
        let name = match path {
            carrier::Path::Quic(_) => "quic".to_owned(),
            carrier::Path::Tls(_) => "tls".to_owned(),
            carrier::Path::Relayed(relay, _) => format!("relay {}", relay.name),
            carrier::Path::Proxied(_) => "proxy".to_owned(),
            carrier::Path::Command(_) => "program".to_owned(),
        };
        if !trying.contains(&name) {
            trying.push(name);
        }
    }
    let reporter = LinkReporter {
        terminal,
        stats: session.control().shared_stats(),
        trying,
        detach_timeout: session.detach_timeout(),
    };
    tasks.spawn("link", reporter.run(file));
}

/// Ends sessions to this host that a dead process left behind. A side line: nobody waits for it.
async fn reap_orphans(journal: Option<Journal>, host: String) {
    let Some(journal) = journal else { return };
    for orphan in journal.orphans(&host, SystemTime::now()) {
        let entry = orphan.entry();
        let id = SessionId::new(entry.session);
        match client::reap(&entry.paths, &entry.server_key, id, entry.reap_token).await {
            Ok(()) => orphan.remove(),
            Err(error) => tracing::debug!(session = %id, %error, "cannot end an orphaned session"),
        }
    }
}

fn is_no_path(error: &OpenError) -> bool {
    matches!(error, OpenError::NoPath { .. })
}

/// Whether ssh may get in without bowline.
fn may_work_without(error: &OpenError) -> bool {
    is_no_path(error) || matches!(error, OpenError::NotAuthorized { ssh_has_more: true, .. })
}

async fn fall_back(
    ssh: &SshConfig,
    (stdin, stdout): Pipe,
    limit: Duration,
    (why, reason): (&OpenError, Option<&str>),
    terminal_socket: Option<PathBuf>,
) -> Result<(), Failure> {
    let connected = fallback::connect(&ssh.hostname, ssh.port, limit).await;
    let (stream, address) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            leave_open(stdout);
            return Err(report::cannot_fall_back(&ssh.hostname, ssh.port, &error, why));
        }
    };
    report::notice(&match (why, reason) {
        (_, Some(reason)) => {
            format!("{reason}; using plain TCP to {address}: this session ends if its connection breaks")
        }
        (OpenError::NotAuthorized { .. }, None) => {
            format!(
                "no key that bowline supports is accepted; using plain TCP to {address}: this session ends if \
                 its connection breaks"
            )
        }
        _ => format!(
            "no bowline server half answers; using plain TCP to {address}: this session ends if its \
            connection breaks"
        ),
    });
    leave_terminal();
    let tasks = Tasks::new();
    if let Some(file) = terminal_socket {
        let connection = stream.as_fd().try_clone_to_owned();
        tasks.spawn("link", report_plain_tcp(file, connection));
    }
    fallback::splice(stream, stdin, stdout)
        .await
        .map_err(|error| Failure::from_error(Exit::Lost, &error))
}
