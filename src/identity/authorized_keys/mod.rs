//! An `authorized_keys` file, as sshd(8) reads it.
//!
//! For `--authorized-keys FILE`, which decides instead of sshd who may open a session. The login
//! inside the session still goes through sshd, which enforces the options that only restrict what a
//! login may do.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod line;
mod pattern;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use russh::keys::ssh_key::Certificate;
use rustix::fs::OFlags;

use super::statement::ProvenKey;
use line::{Conditions, KeyLine};

pub use line::LineError;
use pattern::SOURCE_ADDRESS;
pub use pattern::{ListMatch, address_in_list, is_for_address};

/// Largest file, in bytes: about 10,000 keys.
const MAX_FILE_LEN: u64 = 4 * 1024 * 1024;

/// An `authorized_keys` file. It is read again when it has changed.
#[derive(Debug)]
pub struct AuthorizedKeys {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

/// Whether a key may open a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDecision {
    /// Accepted by this line, counted from 1.
    Accepted {
        /// The line.
        line: usize,
    },
    /// No line contains the key or the CA of the certificate.
    Unknown,
    /// A line contains the key but does not accept it now or from this address. The last one, if
    /// there are several.
    Refused {
        /// The line, counted from 1.
        line: usize,
        /// The reason.
        reason: RefusalReason,
    },
}

/// Why a line that contains the key does not accept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// `from=` or the certificate's `source-address` excludes the client's address or is malformed.
    Source,
    /// `expiry-time=` has passed.
    Expired,
    /// The certificate is not valid now.
    CertificateTime,
    /// The certificate contains none of the required principals.
    Principals,
    /// The certificate has an unknown critical option.
    CriticalOption,
    /// The line restricts the login (`command=`, `no-pty` ..), which the caller cannot enforce.
    Restricted,
}

/// A problem in the file, the rest of which is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// A line is skipped.
    #[error("line {line} is not used: {error}")]
    Line {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        error: LineError,
    },
    /// Other users may write to the file, and could thus log in.
    #[error("it may be written by others than its owner (mode {mode:04o})")]
    Writable {
        /// Its permission bits.
        mode: u32,
    },
}

/// The file cannot be used: nobody is accepted.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizedKeysError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The file is too large.
    #[error("{} has {length} bytes, {MAX_FILE_LEN} are allowed", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
}

/// Opens the file for [`AuthorizedKeys::refresh`] without blocking, for example on a FIFO.
///
/// # Errors
/// As open(2).
pub fn open_key_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
}

impl AuthorizedKeys {
    /// Accepts nobody until the file is read.
    pub fn unread(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            loaded: Mutex::default(),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// `AuthorizedKeysError`. Malformed lines are [`warnings`](Self::warnings), not errors.
    pub fn load(path: &Path) -> Result<Self, AuthorizedKeysError> {
        let keys = Self::unread(path);
        keys.look_again()?;
        Ok(keys)
    }

    /// Whether `key` may open a session as `user` from `address`, the client's real address, at the
    /// time `now`.
    ///
    /// Reads the file again if it has changed: a few blocking system calls. If another process has
    /// to open the file, use [`refresh`](Self::refresh) and [`decide`](Self::decide).
    ///
    /// # Errors
    /// `AuthorizedKeysError` if the file cannot be read any more: its earlier content is not used.
    pub fn permits(
        &self,
        key: &ProvenKey,
        user: &str,
        address: IpAddr,
        now: SystemTime,
    ) -> Result<KeyDecision, AuthorizedKeysError> {
        self.look_again()?;
        Ok(self.decide(key, user, address, now))
    }

    /// As [`permits`](Self::permits), for a login without restrictions: a key whose line has
    /// restrictions is refused.
    ///
    /// # Errors
    /// As [`permits`](Self::permits).
    pub fn permits_everything(
        &self,
        key: &ProvenKey,
        user: &str,
        address: IpAddr,
        now: SystemTime,
    ) -> Result<KeyDecision, AuthorizedKeysError> {
        self.look_again()?;
        let asked = KeyCheck {
            key,
            user,
            address,
            now,
        };
        let loaded = self.loaded.lock();
        let verdict = asked.decide(&loaded.entries);
        let restricted = |line: usize| {
            let entry = loaded.entries.iter().find(|(number, _)| *number == line);
            entry.is_some_and(|(_, entry)| entry.conditions.restricts)
        };
        Ok(match verdict {
            // sshd uses this line too, and none after it.
            KeyDecision::Accepted { line } if restricted(line) => KeyDecision::Refused {
                line,
                reason: RefusalReason::Restricted,
            },
            verdict => verdict,
        })
    }

    /// Reads `file`, the file as it was just opened, unless this state of it was read already.
    /// Returns whether it was read.
    ///
    /// # Errors
    /// `AuthorizedKeysError`: nobody is accepted any more.
    pub fn refresh(&self, file: File) -> Result<bool, AuthorizedKeysError> {
        let mut loaded = self.loaded.lock();
        let is_current = file.metadata().is_ok_and(|metadata| loaded.is_current(&metadata));
        if !is_current {
            // Cleared first, so that an error does not leave the old state.
            *loaded = Loaded::default();
            *loaded = Loaded::read(&self.path, file)?;
        }
        Ok(!is_current)
    }

    /// As [`permits`](Self::permits), with the file as it was last read.
    #[must_use]
    pub fn decide(&self, key: &ProvenKey, user: &str, address: IpAddr, now: SystemTime) -> KeyDecision {
        let asked = KeyCheck {
            key,
            user,
            address,
            now,
        };
        asked.decide(&self.loaded.lock().entries)
    }

    /// The problems in the file as it was last read.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        self.loaded.lock().warnings.clone()
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn look_again(&self) -> Result<bool, AuthorizedKeysError> {
        let opened = open_key_file(&self.path).map_err(|source| AuthorizedKeysError::Read {
            path: self.path.clone(),
            source,
        });
        self.refresh(opened?)
    }
}

#[derive(Debug, Default)]
struct Loaded {
    /// `None` before the first read, and after one that failed.
    stamp: Option<Stamp>,
    /// The entries and their lines, counted from 1.
    entries: Vec<(usize, KeyLine)>,
    warnings: Vec<Warning>,
}

/// File metadata that changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Loaded {
    fn read(path: &Path, file: File) -> Result<Self, AuthorizedKeysError> {
        let error = |source| AuthorizedKeysError::Read {
            path: path.to_owned(),
            source,
        };
        // Taken before the content is read, so that a write in between is noticed the next time.
        let metadata = file.metadata().map_err(error)?;
        let mut content = Vec::new();
        file.take(MAX_FILE_LEN + 1).read_to_end(&mut content).map_err(error)?;
        if content.len() as u64 > MAX_FILE_LEN {
            return Err(AuthorizedKeysError::TooLong {
                path: path.to_owned(),
                length: metadata.len().max(content.len() as u64),
            });
        }
        Ok(Self::parse(&metadata, &String::from_utf8_lossy(&content)))
    }

    fn parse(metadata: &Metadata, content: &str) -> Self {
        let mut loaded = Self {
            stamp: Some(Stamp::of(metadata)),
            ..Self::default()
        };
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            loaded.warnings.push(Warning::Writable { mode });
        }
        for (line, text) in (1..).zip(content.lines()) {
            match line::parse(text) {
                Ok(Some(entry)) => loaded.entries.push((line, entry)),
                Ok(None) => {}
                Err(error) => loaded.warnings.push(Warning::Line { line, error }),
            }
        }
        loaded
    }

    fn is_current(&self, metadata: &Metadata) -> bool {
        self.stamp == Some(Stamp::of(metadata))
    }
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The question about one key.
struct KeyCheck<'a> {
    key: &'a ProvenKey,
    user: &'a str,
    address: IpAddr,
    now: SystemTime,
}

impl KeyCheck<'_> {
    /// As in sshd: the first line that accepts the key decides, and a line that refuses it does not
    /// end the search.
    fn decide(&self, entries: &[(usize, KeyLine)]) -> KeyDecision {
        let mut verdict = KeyDecision::Unknown;
        for &(line, ref entry) in entries {
            let checked = match &self.key.certificate {
                None if !entry.conditions.cert_authority && entry.key == self.key.key => {
                    self.check_conditions(&entry.conditions)
                }
                Some(certificate) if entry.conditions.cert_authority && entry.key == *certificate.signature_key() => {
                    let conditions = self.check_conditions(&entry.conditions);
                    conditions.and_then(|()| self.check_certificate(certificate, &entry.conditions))
                }
                _ => continue,
            };
            match checked {
                Ok(()) => return KeyDecision::Accepted { line },
                Err(reason) => verdict = KeyDecision::Refused { line, reason },
            }
        }
        verdict
    }

    fn check_conditions(&self, conditions: &Conditions) -> Result<(), RefusalReason> {
        if conditions
            .from
            .iter()
            .any(|list| address_in_list(self.address, list) != ListMatch::Yes)
        {
            Err(RefusalReason::Source)
        } else if conditions.expiry.is_some_and(|expiry| self.now >= expiry) {
            Err(RefusalReason::Expired)
        } else {
            Ok(())
        }
    }

    /// Every [`ProvenKey`] has a certificate that is signed by its CA.
    fn check_certificate(&self, certificate: &Certificate, conditions: &Conditions) -> Result<(), RefusalReason> {
        let now = self.now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if !(certificate.valid_after()..certificate.valid_before()).contains(&now) {
            return Err(RefusalReason::CertificateTime);
        }
        let holds = |name: &str| certificate.valid_principals().iter().any(|principal| principal == name);
        let named = match &conditions.principals {
            Some(names) => names.iter().any(|name| holds(name)),
            None => holds(self.user),
        };
        if !named {
            return Err(RefusalReason::Principals);
        }
        certificate
            .critical_options()
            .iter()
            .try_for_each(|(name, value)| match name.as_str() {
                SOURCE_ADDRESS if address_in_list(self.address, value) == ListMatch::Yes => Ok(()),
                SOURCE_ADDRESS => Err(RefusalReason::Source),
                // The sshd of the login enforces these.
                "force-command" | "verify-required" => Ok(()),
                _ => Err(RefusalReason::CriticalOption),
            })
    }
}

#[cfg(test)]
mod tests;
