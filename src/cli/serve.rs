//! `bowline serve`: its settings, and its two processes.

mod answers;
mod client_address;
pub(super) mod holders;
mod keep;
pub(super) mod keys;
mod listen;
pub(super) mod look;
mod prepare;
mod replace;
mod target;

pub(super) use self::keep::{run, run_keeper, take_over};

use self::replace::Predecessor;
use super::args::ServeOptions;
use super::logging::{self, LogSettings};
use super::machine_memory;
use super::places::Folders;
use super::report::{self, Exit, Failure};
use super::settings::{Context, SettingsError};
use super::values::{AuthWord, ByteSize, ClientAddressWord, Count, ListenRange, Target};
use crate::carrier::relays::RelayName;
use crate::cli::args::Command;
use crate::clock;
use crate::server::handover::Endpoint;
use crate::server::ipc::Stop;
use crate::server::worker::inheritance::WorkerInheritance;
use crate::server::worker::{self, ClientAddressSetup, WorkerError, WorkerSetup};
use crate::server::{Server, ServerLimits};
use crate::tasks::Tasks;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// One full frame must always fit: 64 KiB.
const MIN_REPLAY_BUFFER: u64 = 64 << 10;

/// The default, unless the memory budget of all sessions is less.
const DEFAULT_REPLAY_BUFFER: u64 = 16 << 20;

/// The settings of `bowline serve`.
#[derive(Debug, Clone)]
pub(crate) struct ServeSettings {
    /// Addresses for QUIC. Default: empty, which means every address, at the number of sshd's TCP port. That number is
    /// also used if an address has no port.
    pub(crate) listen: Vec<ListenRange>,
    /// Addresses for TLS; the default port is 443. Default: empty, which means none.
    pub(crate) listen_tls: Vec<ListenRange>,
    /// Relays to register with. Default: empty, which means none.
    pub(crate) relays: Vec<RelayName>,
    /// The SSH server that sessions are connected to. Default: where sshd listens according to `sshd -T`, otherwise
    /// 127.0.0.1:22.
    pub(crate) target: Option<Target>,
    /// SSH host keys to prove. Default: empty, which means sshd's, otherwise bowline's own.
    pub(crate) host_keys: Vec<PathBuf>,
    /// Who decides whether a key may open a session. Default: sshd.
    pub(crate) auth: Authorizer,
    /// The only user for whom sessions are opened. Default: everybody.
    pub(crate) only_user: Option<String>,
    /// Stop when there was no session for this long. Default: never.
    pub(crate) exit_when_idle: Option<Duration>,
    /// Which address of a client sshd sees. Default: the client's own if possible.
    pub(crate) client_address: ClientAddressWord,
    /// Open sessions although sshd has, or may have, rules by address and sees all clients on loopback. Default:
    /// false.
    pub(crate) accept_loopback_match: bool,
    /// sshd's configuration file. Default: sshd's own default.
    pub(crate) sshd_config: Option<PathBuf>,
    /// The sshd program to ask for its configuration. Default: the usual path.
    pub(crate) sshd_binary: Option<PathBuf>,
    /// The user that the worker runs as if the keeper is root. Default: `bowline` or `nobody`.
    pub(crate) worker_user: Option<String>,
    /// Bytes kept for replay, per session, at least 64 KiB. Default: 16 MiB, or the memory budget if that is less.
    ///
    /// Throughput over one path is at most this per round trip.
    pub(crate) replay_buffer: u64,
    /// Limits on sessions and handshakes. `ttl` is at least 1 s; `memory` is at least one replay buffer, and its default
    /// is [`machine_memory::serve_budget`].
    pub(crate) limits: ServerLimits,
    /// The most bytes of UDP payload in a packet, at least 1200. Default: as many as the path allows.
    pub(crate) mtu_cap: Option<u16>,
    /// The loopback address on which metrics are served. Default: none.
    pub(crate) metrics: Option<SocketAddr>,
    /// Whether sessions outlive the worker. Default: true.
    pub(crate) session_store: bool,
    /// Keys that may log in to the built-in SSH server, if it is the target and no other file decides. Default: those
    /// of `bowline sshd`.
    pub(crate) sshd_keys: Option<PathBuf>,
    /// Take over from the server half that runs at the same address. Default: false.
    pub(crate) replace: bool,
    /// The folders of keys and sockets.
    pub(crate) folders: Folders,
}

/// Who decides whether a user key may open a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Authorizer {
    /// sshd is asked whether it would accept the key.
    Sshd,
    /// The keys in this file, which has the format of authorized_keys.
    File(PathBuf),
    /// Nobody: only the login inside the session decides.
    None,
}

impl ServeSettings {
    /// The addresses to listen on; `default_port` is used for sshd's port.
    pub(super) fn endpoints(&self, default_port: u16) -> Vec<Endpoint> {
        listen::endpoints(self, Some(default_port))
    }

    /// Takes each setting from the arguments, the configuration file or the default, in this order.
    ///
    /// # Errors
    /// Contradictory settings, values that are too small, no state folder.
    pub(super) fn new(options: ServeOptions, context: &Context) -> Result<Self, SettingsError> {
        let options = options.or(&context.file.serve);
        let count = |count: Option<Count>, default: usize| count.map_or(default, |count| count.0 as usize);
        let size = |size: Option<ByteSize>, default: u64| size.map_or(default, |size| size.0);
        let memory_budget = size(options.memory_budget, machine_memory::serve_budget());
        let defaults = ServerLimits::default();
        let settings = ServeSettings {
            listen: options.listen,
            listen_tls: options.listen_tls,
            relays: options.relay,
            target: options.target,
            host_keys: options.host_key,
            auth: authorizer(options.auth, options.authorized_keys)?,
            only_user: options.only_user.map(|name| name.0),
            exit_when_idle: options.exit_when_idle,
            client_address: options.client_address.unwrap_or(ClientAddressWord::Auto),
            accept_loopback_match: options.accept_loopback_match,
            sshd_config: options.sshd_config,
            sshd_binary: options.sshd_binary,
            worker_user: options.worker_user,
            replay_buffer: size(options.replay_buffer, DEFAULT_REPLAY_BUFFER.min(memory_budget)),
            limits: ServerLimits {
                sessions: count(options.max_sessions, defaults.sessions),
                sessions_per_key: count(options.max_sessions_per_key, defaults.sessions_per_key),
                abandoned_after: options.abandoned_after.unwrap_or(defaults.abandoned_after),
                ttl: options.session_ttl.unwrap_or(defaults.ttl),
                memory: usize::try_from(memory_budget).unwrap_or(usize::MAX),
                half_open: count(options.max_half_open, defaults.half_open),
            },
            mtu_cap: options.mtu_cap.map(|cap| cap.0),
            metrics: options.metrics.map(|address| address.0),
            session_store: !options.no_session_store,
            sshd_keys: context.file.sshd.authorized_keys.clone(),
            replace: options.replace,
            folders: context.folders()?,
        };
        settings.checked()
    }

    fn checked(self) -> Result<Self, SettingsError> {
        let memory = self.limits.memory as u64;
        if self.limits.ttl < Duration::from_secs(1) {
            return Err(SettingsError::TooSmall {
                option: "--session-ttl",
                least: "1s",
            });
        }
        if memory < MIN_REPLAY_BUFFER {
            return Err(SettingsError::TooSmall {
                option: "--memory-budget",
                least: "64KiB",
            });
        }
        if self.replay_buffer < MIN_REPLAY_BUFFER {
            return Err(SettingsError::TooSmall {
                option: "--replay-buffer",
                least: "64KiB",
            });
        }
        if memory < self.replay_buffer {
            return Err(SettingsError::TooSmall {
                option: "--memory-budget",
                least: "one --replay-buffer",
            });
        }
        Ok(self)
    }
}

/// Half of the processors: each session's sshd needs as much as its part of the worker, and parallel threads of one
/// session mostly wake each other (5 % of the processor time of a transfer on two processors).
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2))
}

/// Runs the worker, which the keeper has started with everything it needs.
///
/// # Errors
/// It was not started by a keeper, or could not continue.
pub(super) fn run_worker(log: &LogSettings) -> Result<(), Failure> {
    let inherited = WorkerInheritance::take().map_err(|error| Failure::from_error(Exit::Internal, &error))?;
    logging::start(log);
    let setup =
        WorkerSetup::decode(&inherited.worker_settings).map_err(|error| Failure::from_error(Exit::Internal, &error))?;
    let shown = ShownKeeper {
        client_address: setup.client_address,
        process: rustix::process::getppid().map_or(0, |keeper| keeper.as_raw_nonzero().get()),
    };
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(worker_threads());
    super::block_on(builder, async {
        let tasks = Tasks::new();
        tasks.spawn("count refusals", logging::tell_suppressed_each_minute());
        let keeper = inherited
            .control
            .connect(&tasks)
            .map_err(|error| report::cannot_start(&error))?;
        let serving = keeper.clone();
        let ready = |server: &Server, fingerprint: &str| {
            announce(server.local_addrs(), server.tls_addrs(), Some(shown), fingerprint);
            serving.ready();
        };
        let served = worker::serve(setup, inherited.listeners, inherited.stored, keeper.clone(), ready).await;
        logging::tell_suppressed();
        if keeper.how_to_stop() == Some(Stop::HandOver) {
            keeper.hand_over().await;
        }
        tasks.shutdown(Duration::ZERO).await;
        served.map_err(|error| {
            let exit = match error {
                // A restart may help: this is not one of the exit codes that prevent it.
                WorkerError::SessionStore(_) => Exit::Internal,
                _ => Exit::Unavailable,
            };
            Failure::from_error(exit, &error)
        })
    })
}

/// What the line of a server half has besides that of a relay.
#[derive(Clone, Copy)]
pub(super) struct ShownKeeper {
    client_address: ClientAddressSetup,
    /// Its process id, for whoever wants to stop it.
    process: i32,
}

/// Prints the line that scripts wait for.
pub(super) fn announce(udp: &[SocketAddr], tls: &[SocketAddr], keeper: Option<ShownKeeper>, fingerprint: &str) {
    let udp = udp.iter().map(|address| format!("udp={address} "));
    let tls = tls.iter().map(|address| format!("tls={address} "));
    let shown = keeper.map(|keeper| {
        let (shown, process) = (keeper.client_address, keeper.process);
        format!(
            "client-address={shown} version={} keeper={process} ",
            env!("CARGO_PKG_VERSION")
        )
    });
    let addresses: String = udp.chain(tls).chain(shown).collect();
    // If stdout is closed, nobody waits for it.
    let _ = writeln!(std::io::stdout(), "ready {addresses}fingerprint={fingerprint}");
}

/// A file of keys is also an answer to "who decides".
fn authorizer(word: Option<AuthWord>, file: Option<PathBuf>) -> Result<Authorizer, SettingsError> {
    match (word, file) {
        (None, Some(file)) => Ok(Authorizer::File(file)),
        (Some(AuthWord::None), Some(_)) => Err(SettingsError::Conflict {
            one: "--auth none",
            other: "--authorized-keys",
        }),
        (Some(AuthWord::Sshd), Some(_)) => Err(SettingsError::Conflict {
            one: "--auth sshd",
            other: "--authorized-keys",
        }),
        (Some(AuthWord::None), None) => Ok(Authorizer::None),
        (Some(AuthWord::Sshd) | None, None) => Ok(Authorizer::Sshd),
    }
}

/// The shortest interval between two failed starts.
const MIN_FAILED_START_INTERVAL: Duration = Duration::from_secs(1);

/// The start time of a command, if a service manager restarts it.
///
/// The manager restarts the unit at once and without limit, while its sessions wait in the manager's store. After a crash
/// that is right, but an error in the configuration file takes somebody a while to correct.
pub(in crate::cli) struct Pause(Option<Instant>);

impl Pause {
    /// To be called before the command removes the service manager's environment variables.
    pub(in crate::cli) fn of(command: &Command) -> Self {
        let is_managed = matches!(command, Command::Serve(_)) && std::env::var_os("NOTIFY_SOCKET").is_some();
        Self(is_managed.then(clock::now))
    }

    /// Waits for the rest of the interval, after the command has failed and printed why.
    pub(in crate::cli) fn wait(self) {
        if let Some(start) = self.0 {
            std::thread::sleep(MIN_FAILED_START_INTERVAL.saturating_sub(clock::now().saturating_duration_since(start)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::CommonArgs;
    use super::super::places::Owner;
    use super::*;

    fn settings(args: ServeOptions, file: &str) -> Result<ServeSettings, SettingsError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bowline.toml");
        std::fs::write(&path, file).expect("written");
        let common = CommonArgs {
            config: Some(path),
            ..CommonArgs::default()
        };
        ServeSettings::new(args, &Context::load(common, Owner::System).expect("a good file"))
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let settings = settings(ServeOptions::default(), "").expect("settings");
        assert_eq!(settings.target, None);
        assert_eq!(settings.auth, Authorizer::Sshd);
        assert_eq!(settings.limits.ttl, Duration::from_secs(604_800));
        assert_eq!(
            (settings.replay_buffer, settings.limits.memory as u64),
            (
                DEFAULT_REPLAY_BUFFER.min(machine_memory::serve_budget()),
                machine_memory::serve_budget()
            )
        );
        assert!(settings.listen.is_empty() && settings.listen_tls.is_empty());
    }

    #[test]
    fn a_flag_beats_the_file() {
        let args = ServeOptions {
            max_sessions: Some(Count(5)),
            ..ServeOptions::default()
        };
        let settings = settings(args, "[serve]\nmax-sessions = 6\nmax-half-open = 7\n").expect("settings");
        assert_eq!((settings.limits.sessions, settings.limits.half_open), (5, 7));
    }

    #[test]
    fn two_answers_to_who_decides_are_refused() {
        let args = ServeOptions {
            auth: Some(AuthWord::None),
            authorized_keys: Some("keys".into()),
            ..ServeOptions::default()
        };
        let error = settings(args, "").expect_err("a contradiction");
        assert_eq!(
            error.to_string(),
            "--auth none and --authorized-keys contradict each other"
        );
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_least_that_can() {
        let small = |file: &str| settings(ServeOptions::default(), file).expect_err(file).to_string();
        assert_eq!(
            small("[serve]\nreplay-buffer = '63KiB'\n"),
            "--replay-buffer is too small: it must be at least 64KiB"
        );
        assert_eq!(
            small("[serve]\nsession-ttl = '0s'\n"),
            "--session-ttl is too small: it must be at least 1s"
        );
        assert_eq!(
            small("[serve]\nmemory-budget = '63KiB'\n"),
            "--memory-budget is too small: it must be at least 64KiB"
        );
        assert_eq!(
            small("[serve]\nmemory-budget = '1MiB'\nreplay-buffer = '2MiB'\n"),
            "--memory-budget is too small: it must be at least one --replay-buffer"
        );
    }
}
