//! The configuration of a host as `ssh -G` prints it: names, files, keys and timeouts.
//!
//! ssh itself reads its configuration; nothing here parses ssh_config(5). `Match exec` in the
//! configuration may run programs, as it does whenever the user runs ssh. If such a program is
//! bowline again, [`OuterQueries`] ends the recursion.

mod dump;
mod expand;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod nesting;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use thiserror::Error;
use tokio::process::Command;

use self::dump::Dump;
pub use self::nesting::{NESTING_VARIABLE, OuterQueries};
use super::known_hosts::{HostName, KnownHostsCommand};

/// Longest `ssh -G`: a `Match exec` may use the network, but must not delay a login without limit.
pub const SSH_TIMEOUT: Duration = Duration::from_secs(10);

/// A query: the destination as the user wrote it, and other arguments.
#[derive(Debug, Clone)]
pub struct SshQuery {
    /// The destination or alias as given to ssh (`%n`). It must not begin with `-`.
    pub host: String,
    /// Login name, if given separately (`-l`).
    pub user: Option<String>,
    /// Port, if given (`-p`).
    pub port: Option<u16>,
    /// Configuration file to use instead of the usual two (`-F`). `none` reads no file.
    pub config_file: Option<PathBuf>,
    /// More options, each as after `-o`.
    pub options: Vec<String>,
    /// All arguments of an ssh to this host, including the destination: with the same arguments,
    /// `ssh -G` prints the configuration that this ssh uses. The fields above take precedence.
    /// Empty if only the host is known.
    pub arguments: Vec<OsString>,
    /// The ssh program: a path, or a name to be found in `PATH`. Default `ssh`.
    pub ssh_program: PathBuf,
    /// Longest run of ssh. Default [`SSH_TIMEOUT`].
    pub deadline: Duration,
}

impl SshQuery {
    /// A query for `host` that leaves everything else to ssh's configuration.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            user: None,
            port: None,
            config_file: None,
            options: Vec::new(),
            arguments: Vec::new(),
            ssh_program: PathBuf::from("ssh"),
            deadline: SSH_TIMEOUT,
        }
    }
}

/// ssh's effective configuration for one destination. Field names follow ssh_config(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshConfig {
    /// The destination of the query.
    pub alias: String,
    /// The host name to connect to, in lower case unless it is an address.
    pub hostname: String,
    /// sshd's port.
    pub port: u16,
    /// Login name on the server.
    pub user: String,
    /// The name to look up in known_hosts instead of `hostname`.
    pub host_key_alias: Option<String>,
    /// Private key files in the order in which ssh tries them, expanded. They need not exist.
    pub identity_files: Vec<PathBuf>,
    /// User certificates, expanded. They need not exist.
    pub certificate_files: Vec<PathBuf>,
    /// Offer only keys that are named by files, even if the agent has more.
    pub identities_only: bool,
    /// The agent's socket.
    pub identity_agent: IdentityAgent,
    /// The user's known_hosts files. ssh writes to the first.
    pub user_known_hosts_files: Vec<PathBuf>,
    /// The system's known_hosts files.
    pub global_known_hosts_files: Vec<PathBuf>,
    /// Files of revoked host keys: lists of keys, or key revocation lists.
    pub revoked_host_keys: Vec<PathBuf>,
    /// A program that prints lines of known_hosts.
    pub known_hosts_command: Option<KnownHostsCommand>,
    /// A PKCS#11 library; bowline does not use it.
    pub pkcs11_provider: Option<String>,
    /// Whether ssh also checks the host's address (never behind a ProxyCommand).
    pub check_host_ip: bool,
    /// ssh does not ask the user anything.
    pub batch_mode: bool,
    /// Most attempts to enter a passphrase. Default 3.
    pub password_prompts: u32,
    /// Timeout for connecting; `None` is the system's.
    pub connect_timeout: Option<Duration>,
    /// Address family to use.
    pub address_family: AddressFamily,
    /// Interval of ssh's own keepalives; `None` if disabled.
    pub server_alive_interval: Option<Duration>,
    /// Most keepalives without an answer. Default 3.
    pub server_alive_count_max: u32,
    /// The channel types that ssh closes when idle, and their timeouts; `None` for none.
    pub channel_timeout: Option<String>,
    /// ssh warns about a changed host key and continues (`StrictHostKeyChecking no`).
    pub ignores_host_keys: bool,
    /// The ProxyCommand as written; `None` if there is none.
    pub proxy_command: Option<String>,
    /// The ProxyCommand passes a connected socket to ssh and ends.
    pub proxy_use_fdpass: bool,
}

/// The agent's socket (`IdentityAgent`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityAgent {
    /// Use no agent.
    None,
    /// The socket named by this environment variable, `SSH_AUTH_SOCK` by default.
    Environment(OsString),
    /// This socket.
    Socket(PathBuf),
}

impl IdentityAgent {
    /// The socket's path; `None` if no agent is to be used, or if the variable is unset or empty.
    pub fn socket_path(&self) -> Option<PathBuf> {
        match self {
            Self::None => None,
            Self::Environment(name) => std::env::var_os(name)
                .filter(|path| !path.is_empty())
                .map(PathBuf::from),
            Self::Socket(path) => Some(path.clone()),
        }
    }
}

/// The address families that ssh may use (`AddressFamily`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// Both.
    Any,
    /// IPv4 only.
    Inet,
    /// IPv6 only.
    Inet6,
}

/// Why ssh's configuration could not be read.
#[derive(Debug, Error)]
pub enum SshConfigError {
    /// ssh would take it for an option, or it is empty.
    #[error("{host:?} is not a host name")]
    NotAHost {
        /// The text.
        host: String,
    },
    /// This process was started by a `Match exec` of an `ssh -G` for the same host.
    #[error("ssh -G for {host} is already running, and its configuration runs bowline again")]
    AskedAlready {
        /// The host.
        host: String,
    },
    /// The ssh program does not exist.
    #[error("{} was not found", program.display())]
    Missing {
        /// The program as configured.
        program: PathBuf,
    },
    /// It could not be started or read.
    #[error("cannot run {}", program.display())]
    NotRunnable {
        /// The program as configured.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("{} -G did not end within {after:?}", program.display())]
    TimedOut {
        /// The program as configured.
        program: PathBuf,
        /// How long it had.
        after: Duration,
    },
    /// ssh rejected its configuration or the query.
    #[error("{} -G failed ({status}): {}", program.display(), stderr.trim_end())]
    Rejected {
        /// The program as configured.
        program: PathBuf,
        /// Its exit status.
        status: ExitStatus,
        /// Its standard error.
        stderr: String,
    },
    /// ssh's output lacks a field, or its value is invalid.
    #[error("ssh -G printed an invalid {field}: {value:?}")]
    Unusable {
        /// The option, as ssh spells it (lower case).
        field: &'static str,
        /// Its value; empty if missing.
        value: OsString,
    },
}

impl SshConfig {
    /// Runs `ssh -G`, and once more if a file name contains `%` tokens or `${VARIABLES}`.
    ///
    /// # Errors
    /// `NotAHost` and `AskedAlready` before anything is run; `Missing` if there is no ssh;
    /// `Rejected` with ssh's message if the configuration is invalid.
    pub async fn resolve(query: &SshQuery) -> Result<Self, SshConfigError> {
        if query.host.is_empty() || query.host.starts_with('-') || query.host.contains(char::is_control) {
            return Err(SshConfigError::NotAHost {
                host: query.host.clone(),
            });
        }
        if OuterQueries::here().is_repeated(&query.host) {
            return Err(SshConfigError::AskedAlready {
                host: query.host.clone(),
            });
        }
        // ssh expands `ControlPath` before it prints it, which shows the home directory that ssh
        // uses.
        let dump = Dump::parse(&run_ssh(query, "ControlPath=~/.").await?);
        let home = expand::home_of(dump.path("controlpath"))?;
        let mut config = Self::from_dump(query, &dump, &home)?;
        expand::expand_tokens(query, &home, &mut config).await?;
        if let Some(line) = dump.path("knownhostscommand").filter(|line| line.as_os_str() != "none") {
            config.known_hosts_command = expand::known_hosts_command(query, line.as_os_str()).await?;
        }
        Ok(config)
    }

    /// The names under which ssh looks up this host in known_hosts.
    pub fn known_hosts_name(&self) -> HostName {
        match &self.host_key_alias {
            Some(alias) => HostName::alias(alias),
            None => HostName::new(&self.hostname, self.port),
        }
    }

    /// All known_hosts files in the order in which ssh reads them: the user's, then the system's.
    pub fn known_hosts_files(&self) -> Vec<PathBuf> {
        [
            self.user_known_hosts_files.as_slice(),
            self.global_known_hosts_files.as_slice(),
        ]
        .concat()
    }

    fn from_dump(query: &SshQuery, dump: &Dump, home: &Path) -> Result<Self, SshConfigError> {
        Ok(Self {
            alias: query.host.clone(),
            hostname: dump.required("hostname")?,
            port: dump.number("port", 22)?,
            user: dump.required("user")?,
            host_key_alias: dump.text("hostkeyalias"),
            identity_files: expand::tildes(dump.paths("identityfile"), home),
            certificate_files: expand::tildes(dump.paths("certificatefile"), home),
            identities_only: dump.flag("identitiesonly"),
            identity_agent: dump.identity_agent(),
            user_known_hosts_files: expand::tildes(dump.path_list("userknownhostsfile"), home),
            global_known_hosts_files: expand::tildes(dump.path_list("globalknownhostsfile"), home),
            revoked_host_keys: expand::tildes(dump.path_list("revokedhostkeys"), home),
            known_hosts_command: None,
            pkcs11_provider: dump.text("pkcs11provider").filter(|value| value != "none"),
            check_host_ip: dump.flag("checkhostip"),
            batch_mode: dump.flag("batchmode"),
            password_prompts: dump.number("numberofpasswordprompts", 3)?,
            connect_timeout: dump.seconds("connecttimeout")?,
            address_family: dump.address_family()?,
            server_alive_interval: dump.seconds("serveraliveinterval")?,
            server_alive_count_max: dump.number("serveralivecountmax", 3)?,
            channel_timeout: dump.text("channeltimeout").filter(|value| value != "none"),
            ignores_host_keys: dump.is_off("stricthostkeychecking"),
            proxy_command: dump.text("proxycommand").filter(|value| value != "none"),
            proxy_use_fdpass: dump.flag("proxyusefdpass"),
        })
    }
}

/// Runs `ssh -G` with one more option, and returns its standard output.
async fn run_ssh(query: &SshQuery, option: impl Into<OsString>) -> Result<Vec<u8>, SshConfigError> {
    let program = || query.ssh_program.clone();
    let mut command = std::process::Command::new(&query.ssh_program);
    OuterQueries::here().mark(&mut command, &query.host);
    command.arg("-G").arg("-o").arg(option.into());
    for option in &query.options {
        command.arg("-o").arg(option);
    }
    if let Some(file) = &query.config_file {
        command.arg("-F").arg(file);
    }
    if let Some(user) = &query.user {
        command.arg("-l").arg(user);
    }
    if let Some(port) = query.port {
        command.arg("-p").arg(port.to_string());
    }
    match query.arguments.is_empty() {
        true => command.arg("--").arg(&query.host),
        false => command.args(&query.arguments),
    };
    command.stdin(Stdio::null());
    let mut command = Command::from(command);
    command.kill_on_drop(true);

    let output = match tokio::time::timeout(query.deadline, command.output()).await {
        Err(_) => {
            return Err(SshConfigError::TimedOut {
                program: program(),
                after: query.deadline,
            });
        }
        Ok(Err(source)) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(SshConfigError::Missing { program: program() });
        }
        Ok(Err(source)) => {
            return Err(SshConfigError::NotRunnable {
                program: program(),
                source,
            });
        }
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // The arguments of another ssh may include -v.
        let said = said.lines().filter(|line| !line.starts_with("debug"));
        let stderr = said.collect::<Vec<_>>().join("\n");
        return Err(SshConfigError::Rejected {
            program: program(),
            status: output.status,
            stderr,
        });
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests;
