//! sshd's configuration: its settings, as `sshd -T` prints them, and whether one of its rules depends on the client's
//! address.
//!
//! Blocking, for the keeper, which has no async runtime. sshd itself interprets its settings.

mod address_rules;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod loopback;
mod methods;
mod run;
mod settings;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;

use files::ConfigFiles;
use run::{Output, run};

pub(crate) use run::run as run_bounded;

pub use files::{Line, Unreadable};
pub use loopback::{LoopbackCheck, Obstacle, with_client_addresses};
pub(crate) use loopback::{is_here, is_here_in_zone};
pub use methods::NoKeyFirst;
pub use settings::{Settings, SshdWarning};

/// How long `sshd -T` may take. It usually takes 8 ms.
const SSHD_TIMEOUT: Duration = Duration::from_secs(5);

/// sshd's default configuration file.
const DEFAULT_CONFIG: &str = "/etc/ssh/sshd_config";

/// sshd's default host keys, of all versions.
const DEFAULT_HOST_KEYS: [&str; 4] = [
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssh/ssh_host_ecdsa_key",
    "/etc/ssh/ssh_host_rsa_key",
    "/etc/ssh/ssh_host_mldsa44_ed25519_key",
];

/// sshd's default port.
const SSH_PORT: u16 = 22;

/// A user name that no `Match` has, for settings outside of `Match` blocks.
const NOBODY: &str = "bowline-asks";

/// An sshd and its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshdConfig {
    /// The program, by its absolute path. Default `/usr/sbin/sshd`.
    pub binary: PathBuf,
    /// Its configuration file; `None` for its own default.
    pub config: Option<PathBuf>,
}

/// A connection as sshd sees it.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Login name.
    pub user: &'a str,
    /// The client's address.
    pub address: IpAddr,
    /// The address and port that it connected to.
    pub local: SocketAddr,
}

/// Why sshd's settings are not known.
#[derive(Debug, thiserror::Error)]
pub enum SshdConfigError {
    /// The program could not be run: it was not found, not permitted, or took too long.
    #[error("cannot run {} -T", binary.display())]
    Run {
        /// The program.
        binary: PathBuf,
        /// The error of running it.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{} -T failed ({status}): {said}", binary.display())]
    Failed {
        /// The program.
        binary: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last line of its stderr.
        said: String,
    },
    /// The user name cannot be passed to `sshd -C`, which separates values by commas.
    #[error("the user name {user:?} cannot be passed to sshd -C")]
    UserName {
        /// The name.
        user: String,
    },
}

impl Default for SshdConfig {
    fn default() -> Self {
        Self {
            binary: "/usr/sbin/sshd".into(),
            config: None,
        }
    }
}

impl SshdConfig {
    /// The settings outside of `Match` blocks and in blocks that match everybody.
    ///
    /// Before OpenSSH 9.3, root needs the folder `/run/sshd` and one readable host key. Other users cannot read the
    /// host keys, so sshd is given a temporary one; its configuration must be readable.
    ///
    /// # Errors
    /// `SshdConfigError`.
    pub fn settings(&self) -> Result<Settings, SshdConfigError> {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, SSH_PORT));
        self.dump(Connection {
            user: NOBODY,
            address: local.ip(),
            local,
        })
    }

    /// The settings for one connection.
    ///
    /// # Errors
    /// As [`SshdConfig::settings`]; `UserName` for a name that cannot be passed to sshd.
    pub fn settings_for(&self, connection: Connection<'_>) -> Result<Settings, SshdConfigError> {
        self.dump(connection)
    }

    /// Private host keys and host certificates that the configuration files name, otherwise sshd's defaults. For times
    /// when sshd cannot be asked.
    #[must_use]
    pub fn host_key_lines(&self) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let files = ConfigFiles::read(self.file());
        let paths = |keyword: &str| -> Vec<PathBuf> {
            let lines = files.lines.iter().filter(|line| line.keyword == keyword);
            lines
                .filter_map(|line| line.arguments.first())
                .map(PathBuf::from)
                .collect()
        };
        let mut keys = paths("hostkey");
        if keys.is_empty() {
            keys = DEFAULT_HOST_KEYS.map(PathBuf::from).into();
        }
        (keys, paths("hostcertificate"))
    }

    fn file(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
    }

    /// Prints the settings for one connection. All values are passed: sshd requires the local port if any `Match` uses
    /// it. Since OpenSSH 9.3 `-G` needs neither the folder nor keys.
    fn dump(&self, connection: Connection<'_>) -> Result<Settings, SshdConfigError> {
        let specification = specification(connection)?;
        let output = self.run(&["-G", "-T"], &specification, None)?;
        if output.status.success() {
            return Ok(Settings::parse(&String::from_utf8_lossy(&output.stdout)));
        }
        if !is_unknown_option(&output.stderr) {
            return Err(self.failed(&output));
        }
        self.dump_as_before_9_3(&specification)
    }

    fn dump_as_before_9_3(&self, specification: &str) -> Result<Settings, SshdConfigError> {
        let stand_in = if rustix::process::geteuid().is_root() {
            None
        } else {
            let key = StandInKey::new();
            Some(key.map_err(|source| self.run_error(source))?)
        };
        let output = self.run(&["-T"], specification, stand_in.as_ref())?;
        if !output.status.success() {
            return Err(self.failed(&output));
        }
        let mut settings = Settings::parse(&String::from_utf8_lossy(&output.stdout));
        if let (Some(key), Some(files)) = (stand_in, settings.0.get_mut("hostkey")) {
            files.retain(|file| Path::new(file) != key.path);
        }
        Ok(settings)
    }

    fn run(&self, mode: &[&str], specification: &str, key: Option<&StandInKey>) -> Result<Output, SshdConfigError> {
        let mut command = Command::new(&self.binary);
        command.args(mode).arg("-C").arg(specification);
        if let Some(config) = &self.config {
            command.arg("-f").arg(config);
        }
        if let Some(key) = key {
            command.arg("-h").arg(&key.path);
        }
        run(&mut command, SSHD_TIMEOUT).map_err(|source| self.run_error(source))
    }

    fn run_error(&self, source: io::Error) -> SshdConfigError {
        let binary = self.binary.clone();
        SshdConfigError::Run { binary, source }
    }

    fn failed(&self, output: &Output) -> SshdConfigError {
        SshdConfigError::Failed {
            binary: self.binary.clone(),
            status: output.status,
            said: last_line(&output.stderr),
        }
    }
}

/// Whether sshd is older than 9.3 and says that it does not know `-G`.
fn is_unknown_option(complaint: &[u8]) -> bool {
    let text = String::from_utf8_lossy(complaint);
    let first = text.lines().next().unwrap_or_default();
    first.contains("option") && first.trim_end().ends_with('G')
}

/// The argument of `-C`: values separated by commas, of which a later one replaces an earlier one.
fn specification(connection: Connection<'_>) -> Result<String, SshdConfigError> {
    let Connection { user, address, local } = connection;
    if user.contains([',', '\0']) || user.is_empty() {
        return Err(SshdConfigError::UserName { user: user.to_owned() });
    }
    let address = address.to_canonical();
    let (local_address, local_port) = (local.ip().to_canonical(), local.port());
    // Unless it resolves names, sshd uses the address as the name too.
    Ok(format!(
        "user={user},host={address},addr={address},laddr={local_address},lport={local_port}"
    ))
}

fn last_line(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let line = text
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .unwrap_or_default();
    line.chars()
        .filter(|character| !character.is_control())
        .take(300)
        .collect()
}

/// A temporary host key for an sshd that cannot read its own. The key is not secret: nothing is signed with it.
struct StandInKey {
    path: PathBuf,
}

impl StandInKey {
    fn new() -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let key = PrivateKey::from(Ed25519Keypair::from_seed(&[0; 32]));
        let text = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("bowline-{}-{number}.key", std::process::id()));
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut file = match open() {
            // Left by an earlier process with our process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path)?;
                open()?
            }
            opened => opened?,
        };
        let key = Self { path };
        file.write_all(text.as_bytes())?;
        Ok(key)
    }
}

impl Drop for StandInKey {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
