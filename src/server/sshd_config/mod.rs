//! What `sshd -T` says, for the real address and for loopback.
//!
//! Blocking: for the keeper, which has no async runtime. sshd reads its own configuration; here its answers are
//! compared, and its files are searched only to name a line in a message.

mod limits;
mod match_lines;
mod run;
mod settings;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::PrivateKey;
use russh::keys::ssh_key::private::Ed25519Keypair;

use crate::identity::authorized_keys::{ListMatch, address_in_list, wildcard};
use run::run;

pub use match_lines::MatchLine;
pub use settings::{Settings, SshdWarning};

/// How long `sshd -T` may take. It takes 8 ms.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Where sshd's configuration is unless `--sshd-config` says otherwise.
const DEFAULT_CONFIG: &str = "/etc/ssh/sshd_config";

/// Keywords that a `Match` may set and that let nobody do more or less: they are not compared.
const COSMETIC: [&str; 9] = [
    "banner",
    "channeltimeout",
    "clientalivecountmax",
    "clientaliveinterval",
    "ipqos",
    "loglevel",
    "rekeylimit",
    "unusedconnectiontimeout",
    "x11displayoffset",
];

/// An sshd and its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshdConfig {
    /// The program, by its absolute path. Default `/usr/sbin/sshd`.
    pub binary: PathBuf,
    /// Its configuration; `None` for its own default.
    pub config: Option<PathBuf>,
}

/// A connection as sshd sees it, or would.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Login name.
    pub user: &'a str,
    /// The client's address.
    pub address: IpAddr,
    /// The address and port that it connected to.
    pub local: SocketAddr,
}

/// What sshd would do differently over loopback. Empty where it makes no difference that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Settings that differ, by keyword.
    pub differences: Vec<Difference>,
    /// Lines of the configuration that look at addresses; empty if there are no differences.
    pub lines: Vec<MatchLine>,
}

/// A setting that sshd applies to the real connection but not to the one over loopback, or the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its keyword in lower case.
    pub keyword: String,
    /// Its values for the real address; for `match host` under `UseDNS yes` empty, because it cannot be known.
    pub real: Vec<String>,
    /// Its values over loopback.
    pub loopback: Vec<String>,
}

/// sshd did not tell its settings.
#[derive(Debug, thiserror::Error)]
pub enum SshdConfigError {
    /// The program could not be run to its end: not found, not allowed, too slow.
    #[error("cannot run {} -T", binary.display())]
    Run {
        /// The program.
        binary: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{} -T failed ({status}): {said}", binary.display())]
    Failed {
        /// The program.
        binary: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The last line of its complaint.
        said: String,
    },
    /// A user name that cannot be given to `sshd -C`, where a comma starts another fact.
    #[error("the user name {user:?} cannot be put to sshd -C")]
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
    /// The settings outside of all `Match` blocks.
    ///
    /// As root, sshd wants its folder `/run/sshd` and one readable host key. Not as root it is given a throw-away key,
    /// because it may read none; its configuration it must be able to read.
    ///
    /// # Errors
    /// `SshdConfigError`.
    pub fn settings(&self) -> Result<Settings, SshdConfigError> {
        self.dump(None)
    }

    /// The settings that sshd applies to one connection.
    ///
    /// # Errors
    /// As [`SshdConfig::settings`]; `UserName` for a name that sshd cannot be asked about.
    pub fn settings_for(&self, connection: Connection<'_>) -> Result<Settings, SshdConfigError> {
        self.dump(Some((connection, &connection.address.to_string())))
    }

    /// Compares what sshd would apply to `real` with what it applies to `loopback`, the connection that it will see.
    ///
    /// Beside `sshd -T` for both, that is whether `AllowUsers` and `DenyUsers` entries with `@host` name them.
    ///
    /// # Errors
    /// `SshdConfigError`.
    pub fn compare(&self, real: Connection<'_>, loopback: Connection<'_>) -> Result<Comparison, SshdConfigError> {
        let there = self.dump(Some((real, &real.address.to_string())))?;
        let names = there.value("usedns") == Some("yes");
        let host = if names {
            "localhost".to_owned()
        } else {
            loopback.address.to_string()
        };
        let here = self.dump(Some((loopback, &host)))?;

        let mut differences = differences(&there, &here);
        for keyword in ["allowusers", "denyusers"] {
            differences.extend(user_difference(keyword, &there, real, loopback, names));
        }
        let lines = self.address_lines();
        if names && lines.iter().any(MatchLine::looks_at_names) {
            differences.push(Difference {
                keyword: "match host".into(),
                real: Vec::new(),
                loopback: vec![host],
            });
        }
        let lines = if differences.is_empty() { Vec::new() } else { lines };
        Ok(Comparison { differences, lines })
    }

    /// The lines of the configuration that treat clients by their address, as far as its files can be read.
    #[must_use]
    pub fn address_lines(&self) -> Vec<MatchLine> {
        match_lines::find(self.file()).lines
    }

    /// Whether it is certain that no line treats clients by their address: every file could be read.
    #[must_use]
    pub fn has_no_address_rules(&self) -> bool {
        let found = match_lines::find(self.file());
        found.is_whole && found.lines.is_empty()
    }

    fn file(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG))
    }

    fn dump(&self, connection: Option<(Connection<'_>, &str)>) -> Result<Settings, SshdConfigError> {
        let mut command = Command::new(&self.binary);
        command.arg("-T");
        if let Some(config) = &self.config {
            command.arg("-f").arg(config);
        }
        if let Some((connection, host)) = connection {
            command.arg("-C").arg(specification(connection, host)?);
        }
        let run_error = |source| SshdConfigError::Run {
            binary: self.binary.clone(),
            source,
        };
        let stand_in = if rustix::process::geteuid().is_root() {
            None
        } else {
            Some(StandInKey::new())
        };
        let stand_in = stand_in.transpose().map_err(run_error)?;
        if let Some(key) = &stand_in {
            command.arg("-h").arg(&key.path);
        }
        let output = run(&mut command, TIME_LIMIT).map_err(run_error)?;
        if !output.status.success() {
            return Err(SshdConfigError::Failed {
                binary: self.binary.clone(),
                status: output.status,
                said: last_line(&output.stderr),
            });
        }
        let mut settings = Settings::parse(&String::from_utf8_lossy(&output.stdout));
        if let (Some(key), Some(files)) = (stand_in, settings.0.get_mut("hostkey")) {
            files.retain(|file| Path::new(file) != key.path);
        }
        Ok(settings)
    }
}

/// The argument of `-C`: facts with commas in between, of which a later one replaces an earlier.
fn specification(connection: Connection<'_>, host: &str) -> Result<String, SshdConfigError> {
    let Connection { user, address, local } = connection;
    if user.contains([',', '\0']) || user.is_empty() {
        return Err(SshdConfigError::UserName { user: user.to_owned() });
    }
    let address = address.to_canonical();
    let (local_address, local_port) = (local.ip().to_canonical(), local.port());
    Ok(format!(
        "user={user},host={host},addr={address},laddr={local_address},lport={local_port}"
    ))
}

fn differences(real: &Settings, loopback: &Settings) -> Vec<Difference> {
    let keywords: BTreeSet<_> = real.0.keys().chain(loopback.0.keys()).collect();
    let compared = keywords
        .into_iter()
        .filter(|keyword| !COSMETIC.contains(&keyword.as_str()));
    let differing = compared.filter(|keyword| real.values(keyword) != loopback.values(keyword));
    let difference = |keyword: &String| Difference {
        keyword: keyword.clone(),
        real: real.values(keyword).to_vec(),
        loopback: loopback.values(keyword).to_vec(),
    };
    differing.map(difference).collect()
}

/// `AllowUsers bob@10.*` reads the same for every address and yet is none of `sshd -T`'s differences.
fn user_difference(
    keyword: &str,
    settings: &Settings,
    real: Connection<'_>,
    loopback: Connection<'_>,
    names: bool,
) -> Option<Difference> {
    let (mut there, mut here, mut unknown) = (Vec::new(), Vec::new(), false);
    for pattern in settings.values(keyword) {
        let (user, host) = pattern.split_once('@').unwrap_or((pattern, "*"));
        if !wildcard(real.user, user) {
            continue;
        }
        let named = |address| address_in_list(address, host) == ListMatch::Yes;
        there.extend(named(real.address).then(|| pattern.clone()));
        here.extend(named(loopback.address).then(|| pattern.clone()));
        // The real client's name is not looked up, so a pattern over names cannot be decided.
        unknown |= names && host.bytes().any(|byte| byte.is_ascii_alphabetic()) && !host.contains(':');
    }
    let differs = unknown || there.is_empty() != here.is_empty();
    differs.then(|| Difference {
        keyword: keyword.to_owned(),
        real: there,
        loopback: here,
    })
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

/// A host key file for an sshd that may read none of the real ones. The key is no secret: nothing is signed with it.
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
            // Left by a process that had our id before.
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
