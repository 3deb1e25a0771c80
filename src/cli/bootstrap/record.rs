//! What is known about the server half that was started at a host: one folder for each user, host and port.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use russh::keys::ssh_key::{Algorithm, Fingerprint, LineEnding, PrivateKey};
use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::cli::places::make_folder;
use crate::identity::ssh_config::SshConfig;

/// How long an attempt that failed is not repeated, if it would fail in the same way.
const RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How long nobody logs in again to learn that the server half runs but cannot be reached.
const UNREACHABLE_FOR: Duration = Duration::from_secs(3600);

/// Most bytes of a record.
const MAX_RECORD: usize = 64 << 10;

/// What may stand in the name of a folder.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'@')
    .remove(b':');

/// The folder of one user at one host.
#[derive(Debug, Clone)]
pub(in crate::cli) struct RecordFolder(PathBuf);

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) enum Record {
    /// A server half was started.
    Running(Running),
    /// The user does not want one.
    Declined,
    /// It was not possible.
    Failed(Failed),
}

/// Where a server half listens, and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::cli) struct Running {
    pub(in crate::cli) udp: u16,
    pub(in crate::cli) tls: Option<u16>,
    fingerprint: String,
    pub(in crate::cli) version: String,
    /// When a login found it running although no path led there, in seconds since 1970.
    #[serde(default)]
    unreachable_at: Option<u64>,
}

/// Why it was not possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cli) struct Failed {
    pub(super) why: String,
    /// Of the client that tried.
    pub(super) version: String,
    pub(super) at: u64,
}

impl Record {
    /// The server half that was started, if one was.
    pub(in crate::cli) fn running(self) -> Option<Running> {
        match self {
            Record::Running(running) => Some(running),
            Record::Declined | Record::Failed(_) => None,
        }
    }
}

impl Failed {
    /// Whether the same client would fail again.
    pub(super) fn counts(&self, version: &str) -> bool {
        self.version == version && is_within(self.at, RETRY_AFTER)
    }
}

impl Running {
    /// From `ready udp=.. tls=.. version=.. fingerprint=..`.
    pub(super) fn of_ready_line(line: &str) -> Option<Running> {
        let mut words = line
            .strip_prefix("ready ")?
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        let port = |value: &str| value.rsplit_once(':')?.1.parse::<u16>().ok();
        let (mut udp, mut tls, mut fingerprint, mut version) = (None, None, None, String::new());
        for (name, value) in &mut words {
            match name {
                "udp" => udp = udp.or(port(value)),
                "tls" => tls = tls.or(port(value)),
                "fingerprint" => fingerprint = value.parse::<Fingerprint>().ok(),
                "version" => value.clone_into(&mut version),
                _ => {}
            }
        }
        Some(Running {
            udp: udp?,
            tls,
            fingerprint: fingerprint?.to_string(),
            version,
            unreachable_at: None,
        })
    }

    /// The key that it proves.
    pub(in crate::cli) fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint.parse().ok()
    }

    /// A login found it running, and no path led there.
    pub(in crate::cli) fn not_reached(self) -> Running {
        Running {
            unreachable_at: Some(now()),
            ..self
        }
    }

    /// A path led there.
    pub(in crate::cli) fn reached(self) -> Running {
        Running {
            unreachable_at: None,
            ..self
        }
    }

    /// Whether that was so recently that it still is.
    pub(in crate::cli) fn is_unreachable(&self) -> bool {
        self.unreachable_at.is_some_and(|at| is_within(at, UNREACHABLE_FOR))
    }

    pub(in crate::cli) fn was_unreachable(&self) -> bool {
        self.unreachable_at.is_some()
    }

    /// What to open in a firewall.
    pub(in crate::cli) fn ports(&self) -> String {
        match self.tls {
            Some(tls) => format!("UDP port {} or TCP port {tls}", self.udp),
            None => format!("UDP port {}", self.udp),
        }
    }
}

impl RecordFolder {
    /// In the state folder; `host` as ssh was given it.
    pub(in crate::cli) fn of(state: &Path, ssh: &SshConfig, host: &str) -> RecordFolder {
        let name = format!("{}@{host}:{}", ssh.user, ssh.port);
        RecordFolder(
            state
                .join("bootstrap")
                .join(utf8_percent_encode(&name, PLAIN).to_string()),
        )
    }

    /// The folder.
    pub(in crate::cli) fn path(&self) -> &Path {
        &self.0
    }

    /// The private key that may open sessions.
    pub(in crate::cli) fn key(&self) -> PathBuf {
        self.0.join("key")
    }

    /// What is known; nothing if the file is missing or damaged.
    pub(in crate::cli) fn read(&self) -> Option<Record> {
        let text = std::fs::read(self.file())
            .ok()
            .filter(|text| text.len() <= MAX_RECORD)?;
        serde_json::from_slice(&text).ok()
    }

    pub(in crate::cli) fn write(&self, record: &Record) -> io::Result<()> {
        make_folder(&self.0)?;
        atomic_file::replace(&self.file(), &serde_json::to_vec(record)?)
    }

    /// Forgets everything, the key too.
    pub(super) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The line for authorized_keys of the key, which is made at first use.
    pub(super) fn public_key(&self) -> io::Result<String> {
        let path = self.key();
        if !path.exists() {
            let mut key =
                PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519).map_err(io::Error::other)?;
            key.set_comment("bowline");
            let text = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
            make_folder(&self.0)?;
            atomic_file::replace_synced(&path, text.as_bytes())?;
        }
        let key = PrivateKey::from_openssh(std::fs::read(&path)?).map_err(io::Error::other)?;
        key.public_key().to_openssh().map_err(io::Error::other)
    }

    fn file(&self) -> PathBuf {
        self.0.join("server-half.json")
    }
}

/// The time in a record.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

fn is_within(at: u64, limit: Duration) -> bool {
    // A clock that was set back ends it.
    now().checked_sub(at).is_some_and(|age| age < limit.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_line_names_ports_and_key() {
        let fingerprint = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
        let line = format!(
            "ready udp=0.0.0.0:60017 udp=[::]:60017 tls=0.0.0.0:60018 tls=[::]:60018 client-address=loopback \
             version=0.1.0 keeper=12 fingerprint={fingerprint}"
        );
        let running = Running::of_ready_line(&line).unwrap();
        assert_eq!((running.udp, running.tls), (60017, Some(60018)));
        assert_eq!(running.fingerprint().unwrap().to_string(), fingerprint);
        assert_eq!(running.ports(), "UDP port 60017 or TCP port 60018");
        for bad in ["ready udp=x:1", "udp=0.0.0.0:1", &line.replace("SHA256", "MD9")] {
            assert_eq!(Running::of_ready_line(bad), None, "{bad}");
        }
    }
}
