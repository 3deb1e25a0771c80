//! An `authorized_keys` file, as sshd(8) reads it.
//!
//! For `--authorized-keys FILE`, which decides instead of sshd who may open a session. The inner login still obeys
//! sshd; so options that only restrict what a login may do are left to it.

mod line;
mod pattern;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::ssh_key::Certificate;
use rustix::fs::OFlags;

use super::statement::ProvenKey;
use line::{Conditions, Entry};

pub use line::LineError;
use pattern::SOURCE_ADDRESS;
pub use pattern::{ListMatch, address_in_list, is_for_address, wildcard};

/// Longest file read, in bytes: some 10,000 keys.
const MAX_FILE_LEN: u64 = 4 * 1024 * 1024;

/// An `authorized_keys` file that is read again whenever it has changed.
#[derive(Debug)]
pub struct AuthorizedKeys {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

/// Whether a key may open a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By this line, counted from 1.
    Accepted {
        /// The line.
        line: usize,
    },
    /// No line has this key, or the CA of this certificate.
    Unknown,
    /// A line has it, but does not accept it now or from here. The last such line, if there are several.
    Refused {
        /// The line, counted from 1.
        line: usize,
        /// Why.
        reason: Reason,
    },
}

/// Why a line that has the key does not accept it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `from=`, or the certificate's `source-address`, excludes the client's address or is malformed.
    Source,
    /// `expiry-time=` has passed.
    Expired,
    /// The certificate is not valid now.
    CertificateTime,
    /// The certificate is for none of the names wanted.
    Principals,
    /// The certificate has a critical option that we do not know.
    CriticalOption,
    /// The line restricts what its login may do (`command=`, `no-pty` ..), which whoever asks cannot enforce.
    Restricted,
}

/// Something in the file that its owner should look at. The rest of it holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// A line is passed over.
    #[error("line {line} is not used: {error}")]
    Line {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong.
        error: LineError,
    },
    /// Others than its owner may write to the file, and so log in.
    #[error("it may be written by others than its owner (mode {mode:04o})")]
    Writable {
        /// Its permission bits.
        mode: u32,
    },
}

/// The file cannot be used: then nobody is accepted.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizedKeysError {
    /// It could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is longer than any that is read.
    #[error("{} has {length} bytes, {MAX_FILE_LEN} are allowed", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
}

/// Opens such a file for [`AuthorizedKeys::refresh`], without ever waiting (for the writer of a pipe, say).
///
/// # Errors
/// What the system says.
pub fn open_key_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
}

impl AuthorizedKeys {
    /// Nothing is read yet, and nobody accepted.
    pub fn unread(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            loaded: Mutex::default(),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// `AuthorizedKeysError`. Malformed lines are no error but [`warnings`](Self::warnings).
    pub fn load(path: &Path) -> Result<Self, AuthorizedKeysError> {
        let keys = Self::unread(path);
        keys.look_again()?;
        Ok(keys)
    }

    /// Whether `key` may open a session as `user` from `address`, the client's real one, at the time `now`.
    ///
    /// Reads the file again if it has changed: a few system calls, blocking, on a local file. Where somebody else has
    /// to open it, there are [`refresh`](Self::refresh) and [`verdict`](Self::verdict).
    ///
    /// # Errors
    /// `AuthorizedKeysError` where the file has become unreadable: nobody is accepted by what it once said.
    pub fn permits(
        &self,
        key: &ProvenKey,
        user: &str,
        address: IpAddr,
        now: SystemTime,
    ) -> Result<Verdict, AuthorizedKeysError> {
        self.look_again()?;
        Ok(self.verdict(key, user, address, now))
    }

    /// As [`permits`](Self::permits), for a login that is then free to do everything: a key whose line restricts that
    /// is refused.
    ///
    /// # Errors
    /// As [`permits`](Self::permits).
    pub fn permits_everything(
        &self,
        key: &ProvenKey,
        user: &str,
        address: IpAddr,
        now: SystemTime,
    ) -> Result<Verdict, AuthorizedKeysError> {
        self.look_again()?;
        let asked = Asked {
            key,
            user,
            address,
            now,
        };
        let loaded = self.loaded();
        let verdict = asked.verdict(&loaded.entries);
        let restricted = |line: usize| {
            let entry = loaded.entries.iter().find(|(number, _)| *number == line);
            entry.is_some_and(|(_, entry)| entry.conditions.restricts)
        };
        Ok(match verdict {
            // sshd takes this line too, and none after it.
            Verdict::Accepted { line } if restricted(line) => Verdict::Refused {
                line,
                reason: Reason::Restricted,
            },
            verdict => verdict,
        })
    }

    /// Reads `file`, which is the file as it was opened just now, unless it was read in this state already. Whether it
    /// was read.
    ///
    /// # Errors
    /// `AuthorizedKeysError`: nobody is accepted any more.
    pub fn refresh(&self, file: File) -> Result<bool, AuthorizedKeysError> {
        let mut loaded = self.loaded();
        let is_current = file.metadata().is_ok_and(|metadata| loaded.is_current(&metadata));
        if !is_current {
            // Emptied first: an error must not leave the old state.
            *loaded = Loaded::default();
            *loaded = Loaded::read(&self.path, file)?;
        }
        Ok(!is_current)
    }

    /// As [`permits`](Self::permits), by the file as last read.
    #[must_use]
    pub fn verdict(&self, key: &ProvenKey, user: &str, address: IpAddr, now: SystemTime) -> Verdict {
        let asked = Asked {
            key,
            user,
            address,
            now,
        };
        asked.verdict(&self.loaded().entries)
    }

    /// What is wrong with the file as last read.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        self.loaded().warnings.clone()
    }

    /// Where the file is.
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

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Loaded {
    /// `None` before the first reading, and after one that failed.
    stamp: Option<Stamp>,
    /// With their lines, counted from 1.
    entries: Vec<(usize, Entry)>,
    warnings: Vec<Warning>,
}

/// What changes when a file is written or replaced.
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
        // Taken before reading: a write in between is then seen as a change at the next look.
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

/// One question to the file.
struct Asked<'a> {
    key: &'a ProvenKey,
    user: &'a str,
    address: IpAddr,
    now: SystemTime,
}

impl Asked<'_> {
    /// As sshd does: the first line that accepts decides, and a line that refuses does not end the search.
    fn verdict(&self, entries: &[(usize, Entry)]) -> Verdict {
        let mut verdict = Verdict::Unknown;
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
                Ok(()) => return Verdict::Accepted { line },
                Err(reason) => verdict = Verdict::Refused { line, reason },
            }
        }
        verdict
    }

    fn check_conditions(&self, conditions: &Conditions) -> Result<(), Reason> {
        if conditions
            .from
            .iter()
            .any(|list| address_in_list(self.address, list) != ListMatch::Yes)
        {
            Err(Reason::Source)
        } else if conditions.expiry.is_some_and(|expiry| self.now >= expiry) {
            Err(Reason::Expired)
        } else {
            Ok(())
        }
    }

    /// That the certificate is signed by its CA is known of every [`ProvenKey`].
    fn check_certificate(&self, certificate: &Certificate, conditions: &Conditions) -> Result<(), Reason> {
        let now = self.now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if !(certificate.valid_after()..certificate.valid_before()).contains(&now) {
            return Err(Reason::CertificateTime);
        }
        let holds = |name: &str| certificate.valid_principals().iter().any(|principal| principal == name);
        let named = match &conditions.principals {
            Some(names) => names.iter().any(|name| holds(name)),
            None => holds(self.user),
        };
        if !named {
            return Err(Reason::Principals);
        }
        certificate
            .critical_options()
            .iter()
            .try_for_each(|(name, value)| match name.as_str() {
                SOURCE_ADDRESS if address_in_list(self.address, value) == ListMatch::Yes => Ok(()),
                SOURCE_ADDRESS => Err(Reason::Source),
                // The inner sshd's to enforce.
                "force-command" | "verify-required" => Ok(()),
                _ => Err(Reason::CriticalOption),
            })
    }
}

#[cfg(test)]
mod tests;
