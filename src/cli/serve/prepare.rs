//! What the keeper prepares before its first worker: keys, statements, ports, and a check of sshd's configuration.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{info, warn};

use super::Predecessor;
use super::answers::{Answers, check_key_file};
use super::client_address::{self, Chosen};
use super::keys::{host_keys, is_own, log_tls_key, secret, statements};
use super::listen::{self, Bound};
use super::look::{InspectedServer, look_unless_known};
use super::target::ResolvedTarget;
use super::{Authorizer, ServeSettings, target};
use crate::cli::places;
use crate::cli::report::{self, Exit, Failure};
use crate::cli::values::Target;
use crate::identity::raw_key::TlsKey;
use crate::identity::statement::HostKey;
use crate::safe_path;
use crate::server::ServerLimits;
use crate::server::client_address::ClientAddresses;
use crate::server::handover::{
    Endpoint, Handover, Listener, Protocol, descriptors_for, raise_descriptor_limit, sessions_within, store_limit,
};
use crate::server::ipc::ControlListener;
use crate::server::sshd_config::{Settings, SshdConfig, is_here, with_client_addresses};
use crate::server::supervisor::{RequestHandler, SidecarPlan, WorkerPlan};
use crate::server::worker::{AuthoritySetup, ClientAddressSetup, Unexamined, WorkerSetup};
use crate::server::worker_user::{WorkerUser, choose_worker_user};

/// How long a worker may take to tell its clients that it stops.
const STOP_GRACE: Duration = Duration::from_secs(8);

/// Name of a folder in the state folder.
const RELAY_CACHE: &str = "relays";

/// The option for a handover on standard input.
const TAKE_OVER: &str = "--take-over";

/// What a keeper needs.
pub(super) struct Prepared {
    pub(super) plan: WorkerPlan,
    pub(super) request_handler: RequestHandler,
}

/// Everything that can be prepared without disturbing a running keeper.
pub(super) struct Draft<'a> {
    settings: &'a ServeSettings,
    predecessor: Predecessor<'a>,
    /// Further arguments of the worker.
    worker_arguments: Vec<OsString>,
    program: PathBuf,
    user: Option<WorkerUser>,
    answers: Answers,
    host_keys: Vec<HostKey>,
    setup: WorkerSetup,
    /// `None`: the built-in server.
    target: Option<SocketAddr>,
    store_limit: usize,
    /// Opens connections to sshd from clients' addresses.
    addresses: Option<ClientAddresses>,
}

/// What only one keeper can have.
pub(super) struct Ports {
    listeners: Vec<Listener>,
    target: SocketAddr,
    sidecar: Option<SidecarPlan>,
}

/// Why the ports cannot be had.
pub(super) enum NoPorts {
    /// Another process has one of them.
    InUse(Endpoint, io::Error),
    Failed(Failure),
}

impl From<Failure> for NoPorts {
    fn from(failure: Failure) -> Self {
        NoPorts::Failed(failure)
    }
}

impl From<NoPorts> for Failure {
    fn from(error: NoPorts) -> Self {
        match error {
            NoPorts::InUse(endpoint, error) => report::cannot_listen(report::option(endpoint), endpoint, &error),
            NoPorts::Failed(failure) => failure,
        }
    }
}

impl<'a> Draft<'a> {
    /// Does everything that needs privileges, except binding ports. `worker_arguments` are added to the worker's own.
    ///
    /// # Errors
    /// A key or user is missing or invalid.
    pub(super) fn new(
        settings: &'a ServeSettings,
        worker_arguments: Vec<OsString>,
        mut predecessor: Predecessor<'a>,
    ) -> Result<Self, Failure> {
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
        let is_sshd = settings.target != Some(Target::Builtin);
        let sshd_settings = if is_sshd { read_settings(&sshd) } else { None };
        if let (Authorizer::Sshd, Some(told)) = (&settings.auth, &sshd_settings) {
            warn_of_users_without_key(&sshd, told);
        }
        let program = own_program()?;
        let found = target::find(settings, sshd_settings.as_ref())?;
        let inspection = inspect(settings, found.as_ref(), &program, user.as_ref())?;
        let other_targets = found.as_ref().map_or_else(Vec::new, |found| found.others.clone());
        let target = found.map(|found| with_aliases(found.address, sshd_settings.as_ref()));
        let loopback = target.filter(|_| !settings.accept_loopback_match);
        let host_keys = host_keys(settings, &sshd, sshd_settings.as_ref(), inspection.server())?;
        let unexamined = matches!(inspection, Inspection::NoAnswer).then(|| Unexamined {
            is_asked: settings.auth == Authorizer::Sshd,
            proves_our_keys: settings.host_keys.is_empty() && !is_own(&host_keys, &settings.folders.state),
        });
        let sessions = sessions_that_fit(settings.limits.sessions, &mut predecessor)?;
        Ok(Draft {
            setup: WorkerSetup {
                other_targets,
                unexamined,
                ..setup(settings, &host_keys, loopback.is_some(), sessions, user.as_ref())?
            },
            target,
            program,
            answers: Answers {
                sshd,
                key_file,
                loopback,
            },
            store_limit: store_limit(sessions),
            settings,
            predecessor,
            worker_arguments,
            user,
            host_keys,
            addresses: None,
        })
    }

    /// Sets up which address of a client sshd sees.
    ///
    /// # Errors
    /// Clients' own addresses are required but cannot be used.
    pub(super) fn with_client_address(self) -> Result<Self, Failure> {
        let Chosen { addresses, setup } = client_address::choose(self.settings, self.target)?;
        let setup = WorkerSetup {
            client_address: setup,
            ..self.setup
        };
        Ok(Draft {
            addresses,
            setup,
            ..self
        })
    }

    /// Removes what was set up, because no keeper starts.
    pub(super) fn abandon(&mut self) {
        self.addresses.iter_mut().for_each(ClientAddresses::remove_setup);
    }

    /// The addresses to listen on; port 0 means any.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        listen::endpoints(self.settings, self.target.map(|target| target.port()))
    }

    /// Binds all ports. Sockets that exist already, or that `handover` has, are used again.
    ///
    /// # Errors
    /// See [`NoPorts`]. Nothing is bound then.
    pub(super) fn ports(&self, handover: Option<&Handover>) -> Result<Ports, NoPorts> {
        let (target, sidecar) = match self.target {
            Some(target) => (target, None),
            None => self
                .builtin(handover)
                .map(|(target, sidecar)| (target, Some(sidecar)))?,
        };
        let bound = handover.map_or(self.predecessor.listeners(), Handover::listeners);
        let listening = Bound(bound).listen(self.settings, target.port());
        let listeners = listening.map_err(|(endpoint, error)| match error.kind() {
            io::ErrorKind::AddrInUse => NoPorts::InUse(endpoint, error),
            _ => report::cannot_listen(report::option(endpoint), endpoint, &error).into(),
        })?;
        Ok(Ports {
            listeners,
            target,
            sidecar,
        })
    }

    /// Completes the plan. From now on this process is the keeper, also of what `handover` has.
    pub(super) fn finish(mut self, ports: Ports, handover: Option<&Handover>) -> Prepared {
        log_tls_key(&self.setup.tls_key);
        let control_listener = self.control_listener(&ports.listeners, handover);
        self.setup.target = ports.target;
        let is_loopback = matches!(self.setup.client_address, ClientAddressSetup::Loopback);
        let with = |own: &str| {
            let own = std::iter::once(OsString::from(own));
            own.chain(self.worker_arguments.iter().cloned()).collect()
        };
        let plan = WorkerPlan {
            program: self.program,
            args: with("serve-worker"),
            keeper_args: with("serve-keeper"),
            reload_args: Some(reload_arguments(std::env::args_os().skip(1))),
            listeners: ports.listeners,
            worker_settings: self.setup.encode(),
            handler_settings: self.answers.encode(),
            store_limit: self.store_limit,
            user: self.user,
            sidecar: ports.sidecar,
            control_listener,
            grace: STOP_GRACE,
            stops_when_idle: self.settings.exit_when_idle.is_some(),
            manager: self.predecessor.into_manager(),
            client_address_name: self.setup.client_address.to_string(),
            addresses: self.addresses,
        };
        Prepared {
            plan,
            request_handler: self.answers.into_handler(is_loopback),
        }
    }

    /// Opens the socket on which other keepers ask who is running, unless it is open already. If that fails, the
    /// keeper serves all the same.
    fn control_listener(&self, listeners: &[Listener], handover: Option<&Handover>) -> Option<ControlListener> {
        let folder = &self.settings.folders.runtime;
        // UDP ports are exclusive, so they identify this keeper, even if TLS is added or removed.
        let udp = listeners.iter().filter(|listener| listener.protocol() == Protocol::Udp);
        let addresses: Vec<SocketAddr> = udp.filter_map(|own| Some(own.endpoint().ok()?.address)).collect();
        if handover
            .map_or(self.predecessor.control_listener(), Handover::control_listener)
            .is_some_and(|control_listener| control_listener.is_for(folder, &addresses))
        {
            return None;
        }
        let opened = places::make_folder(folder).and_then(|()| ControlListener::open(folder, &addresses));
        if let Err(error) = &opened {
            warn!(folder = %folder.display(), %error, "cannot create the control socket: --replace, bowline status and bowline kill will not find this server half");
        }
        opened.ok()
    }
}

/// The result of an inspection of the target.
enum Inspection {
    /// The server is known, or makes no difference.
    Known,
    Server(InspectedServer),
    /// No SSH server answers yet.
    NoAnswer,
}

impl Inspection {
    fn server(&self) -> Option<&InspectedServer> {
        match self {
            Inspection::Server(server) => Some(server),
            Inspection::Known | Inspection::NoAnswer => None,
        }
    }
}

/// Inspects the server at the target, if it is not sshd and that makes a difference.
///
/// # Errors
/// It accepts every key although it is to be asked about keys.
fn inspect(
    settings: &ServeSettings,
    found: Option<&ResolvedTarget>,
    program: &Path,
    user: Option<&WorkerUser>,
) -> Result<Inspection, Failure> {
    let asks = settings.auth == Authorizer::Sshd;
    let matters = asks || settings.host_keys.is_empty();
    let Some(found) = found.filter(|_| matters) else {
        return Ok(Inspection::Known);
    };
    if !found.answers {
        return Ok(Inspection::NoAnswer);
    }
    match look_unless_known(program, user, found.address, found.is_listed) {
        Ok(Some(seen)) if asks && seen.accepts_any_key => Err(report::accepts_any_key(&seen.identification)),
        Ok(seen) => Ok(seen.map_or(Inspection::Known, Inspection::Server)),
        Err(error) => {
            warn!(event = "target-silent", target = %found.address, %error, "no SSH server answers at the target yet: no session can \
                be opened before one does");
            Ok(Inspection::NoAnswer)
        }
    }
}

/// The path of this program. If its file was replaced, the kernel appends " (deleted)".
fn own_program() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe().map_err(|error| report::cannot_start(&error))?;
    let clean = path.as_os_str().as_encoded_bytes().strip_suffix(b" (deleted)");
    Ok(clean.map_or(path.clone(), |clean| OsStr::from_bytes(clean).into()))
}

/// The arguments of this process again, with the option to continue.
fn reload_arguments(own: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let again = own.filter(|argument| argument != TAKE_OVER);
    again.chain([TAKE_OVER.into()]).collect()
}

/// How many of the wanted sessions are possible with the file descriptors and the service manager's store.
fn sessions_that_fit(wanted: usize, predecessor: &mut Predecessor<'_>) -> Result<usize, Failure> {
    let descriptors = raise_descriptor_limit().unwrap_or(usize::MAX);
    let most = sessions_within(descriptors).min(wanted);
    if most == 0 && wanted > 0 {
        return Err(report::too_few_descriptors(
            descriptors,
            descriptors_for(1),
            descriptors_for(wanted),
        ));
    }
    if most < wanted {
        warn!(
            wanted,
            most,
            descriptors,
            needed = descriptors_for(wanted),
            "fewer sessions than configured: the limit of open files (LimitNOFILE= of the unit, ulimit -n) is too low"
        );
    }
    let fit = predecessor.max_stored_sessions(most).unwrap_or(most);
    if fit < most {
        warn!(
            wanted,
            most = fit,
            "fewer sessions than configured: the service manager's store (FileDescriptorStoreMax=) is too small"
        );
    }
    Ok(fit)
}

/// Reads sshd's settings, and warns of those that would end detached sessions.
fn read_settings(sshd: &SshdConfig) -> Option<Settings> {
    match sshd.settings() {
        Ok(settings) => {
            for warning in settings.warnings() {
                let (line, file) = (warning.mending_line(), warning.drop_in());
                warn!(fix = line, drop_in = file, "{warning}");
            }
            Some(settings)
        }
        Err(error) => {
            let error = Failure::from_error(Exit::Unavailable, &error);
            info!(error = error.one_line(), "cannot read sshd's configuration");
            None
        }
    }
}

/// Warns of users who get no session, because sshd answers no question about their keys.
fn warn_of_users_without_key(sshd: &SshdConfig, told: &Settings) {
    for users in sshd.without_key_first(told) {
        warn!(
            methods = users.methods(),
            "--auth sshd lets no session be opened for {users}: their logins do not begin with a key. --authorized-keys FILE or \
             --auth none does; sshd still decides about the login inside"
        );
    }
}

/// Everything except the target.
fn setup(
    settings: &ServeSettings,
    host_keys: &[HostKey],
    asks_before_opens: bool,
    max_sessions: usize,
    user: Option<&WorkerUser>,
) -> Result<WorkerSetup, Failure> {
    let tls_key = TlsKey::load_or_create(&settings.folders.state.join("tls_key"));
    let tls_key = tls_key.map_err(|error| Failure::from_error(Exit::Unavailable, &error))?;
    let (statements, fingerprint) = statements(host_keys, &tls_key)?;
    Ok(WorkerSetup {
        tls_key: tls_key.to_pkcs8().to_vec(),
        secrets: secret(&settings.folders.state.join("endpoint_secret"))?,
        statements,
        target: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        other_targets: Vec::new(),
        client_address: ClientAddressSetup::Loopback,
        authority: match &settings.auth {
            Authorizer::Sshd => AuthoritySetup::Sshd,
            Authorizer::File(path) => AuthoritySetup::Keys(path.clone()),
            Authorizer::None => AuthoritySetup::Anyone,
        },
        replay_buffer: bytes(settings.replay_buffer),
        limits: ServerLimits {
            sessions: max_sessions,
            ..settings.limits
        },
        only_user: settings.only_user.clone(),
        exit_when_idle: settings.exit_when_idle,
        mtu_cap: settings.mtu_cap,
        metrics: settings.metrics,
        session_store: settings.session_store,
        relays: settings.relays.iter().map(ToString::to_string).collect(),
        relay_cache: relay_cache(settings, user),
        fingerprint,
        is_sshd: settings.target != Some(Target::Builtin),
        asks_before_opens,
        unexamined: None,
    })
}

/// A folder where the worker caches what relays' names resolved to, because DNS may be down when it restarts. If the
/// folder cannot be created, nothing is cached.
fn relay_cache(settings: &ServeSettings, user: Option<&WorkerUser>) -> PathBuf {
    let (state, folder) = (&settings.folders.state, settings.folders.state.join(RELAY_CACHE));
    if !settings.relays.is_empty()
        && let Err(error) = safe_path::make_folder_in(state, RELAY_CACHE, user.map(|user| (user.uid(), user.gid())))
    {
        info!(folder = %folder.display(), %error, "cannot create the cache folder for relays' addresses");
    }
    folder
}

/// Another address of the same sshd at which each client can have a loopback address of its own, if there is one:
/// otherwise sshd's penalties for one client affect all.
fn with_aliases(target: SocketAddr, sshd: Option<&Settings>) -> SocketAddr {
    let listens = |settings: &&Settings| {
        let at = |address: &SocketAddr| {
            address.port() == target.port() && (address.ip() == target.ip() || address.ip().is_unspecified())
        };
        settings.listen_addresses().iter().any(at)
    };
    let is_without = target.is_ipv6() && is_here(target.ip());
    let settings = sshd.filter(|_| is_without).filter(listens);
    let Some(better) = settings.and_then(|settings| with_client_addresses(settings, target)) else {
        return target;
    };
    info!(%target, instead = %better, "sshd is reached over IPv4, where each client has a loopback address of its own");
    better
}

impl Draft<'_> {
    /// The built-in server and its listening socket, which outlives the server's process. All settings are passed as
    /// arguments: environment and configuration file of `bowline sshd` are for a server that is started by hand.
    fn builtin(&self, handover: Option<&Handover>) -> Result<(SocketAddr, SidecarPlan), Failure> {
        let settings = self.settings;
        let listener = match handover.map_or(self.predecessor.sidecar_input(), Handover::sidecar_input) {
            Some(listener) => listener.try_clone_to_owned().map(TcpListener::from),
            None => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)),
        };
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.map_err(|error| report::cannot_listen("--listen", Endpoint::tcp(local), &error))?;
        let address = listener.local_addr().map_err(|error| report::cannot_start(&error))?;
        let mut args: Vec<OsString> = vec!["sshd".into(), "--inherit-listener".into()];
        args.extend(["--config".into(), "/dev/null".into()]);
        args.extend(["--state-dir".into(), settings.folders.state.clone().into()]);
        args.extend(self.worker_arguments.iter().cloned());
        for key in &self.host_keys {
            args.extend(["--host-key".into(), key.path.clone().into()]);
        }
        let keys = match &settings.auth {
            Authorizer::File(keys) => Some(keys),
            Authorizer::Sshd | Authorizer::None => settings.sshd_keys.as_ref(),
        };
        if let Some(keys) = keys {
            args.extend(["--authorized-keys".into(), keys.into()]);
        }
        let sidecar = SidecarPlan {
            program: self.program.clone(),
            args,
            stdin: Some(listener.into()),
        };
        Ok((address, sidecar))
    }
}

fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}
