//! `known_hosts` files, as ssh(1) reads them, and the verdict on a server's keys.
//!
//! Follows OpenSSH's `hostfile.c` and `check_host_key()` in `sshconnect.c`. The one difference: ssh sees one host key
//! a connection, we see all that the server half has proved, so the verdict is on the set. Deciding what to do with
//! an unknown host, and asking the user, is not done here.

mod command;
mod line;
mod pattern;
mod remember;
mod revoked;
mod server_key;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use russh::keys::ssh_key::{Fingerprint, HashAlg, public::KeyData};

pub use self::command::{CommandError, KnownHostsCommand};
pub(crate) use self::command::{LATER, LATER_TOKENS, split_words};
pub use self::line::LineFault;
use self::line::{Line, LineKey, Marker};
pub use self::remember::{RememberError, remember};
pub use self::revoked::{RevocationError, RevokedKey, check_revoked_files};
pub use self::server_key::{Pin, PinError, ServerKey, ServerKeyError, pin_matches, tls_key_fingerprint};

/// Most bytes read from one file; what lies beyond is not looked at, with a warning.
///
/// 64 MiB hold about 300,000 hosts.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The names of one host in known_hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName {
    /// What is looked up: the name or alias, or `[name]:port`.
    search: String,
    /// Where nothing is found: the name without the port, in which only matches count.
    without_port: Option<String>,
    /// What a host certificate must name.
    principal: String,
}

impl HostName {
    /// The names of `hostname` at `port`, in lower case. With a port other than 22 ssh looks for `[hostname]:port`, and
    /// only if that finds nothing for `hostname`.
    pub fn new(hostname: &str, port: u16) -> Self {
        let principal = hostname.to_ascii_lowercase();
        if port == 22 || port == 0 {
            return Self {
                search: principal.clone(),
                without_port: None,
                principal,
            };
        }
        Self {
            search: format!("[{principal}]:{port}"),
            without_port: Some(principal.clone()),
            principal,
        }
    }

    /// The name that `HostKeyAlias` gives: used as it is, whatever the port.
    pub fn alias(alias: &str) -> Self {
        let alias = alias.to_ascii_lowercase();
        Self {
            search: alias.clone(),
            without_port: None,
            principal: alias,
        }
    }

    /// The name without the port, where that counts if nothing is found.
    pub(crate) fn without_port(&self) -> Option<&str> {
        self.without_port.as_deref()
    }

    /// The name as it stands in known_hosts and as ssh says it in messages.
    pub fn as_str(&self) -> &str {
        &self.search
    }
}

/// Where a line is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// Its line, from 1.
    pub line: usize,
}

/// What the files say of a set of keys that a server proved to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The line holds one of the keys, or the authority that signed one of the host certificates.
    Known {
        /// The line.
        place: Place,
        /// Index of the key in what was offered.
        key: usize,
    },
    /// The line revokes one of the keys. Counts even if others are known.
    Revoked {
        /// The line.
        place: Place,
        /// The revoked key: one offered, or the authority of one offered.
        fingerprint: Fingerprint,
    },
    /// The host has keys, and none of those offered is among them.
    Changed {
        /// The first line with a key of this host.
        place: Place,
        /// All keys that the files have for it.
        expected: Vec<Fingerprint>,
        /// What was offered.
        presented: Vec<Fingerprint>,
    },
    /// The files have keys for this host, all of types that are not supported here: they say neither yes nor no to what
    /// was offered.
    Incomparable {
        /// The first such line.
        place: Place,
        /// The types, each once.
        types: Vec<String>,
    },
    /// The files have no key for this host.
    Unknown,
}

/// Something in the files that could not be used. Never fails a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The file is there and cannot be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: std::io::ErrorKind,
    },
    /// The file is larger than [`MAX_FILE_BYTES`]; its end was not read.
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// A line that may be meant for this host was skipped.
    Malformed {
        /// The line.
        place: Place,
        /// What is wrong with it.
        fault: LineFault,
    },
}

/// The lines of several known_hosts files that speak of one host.
#[derive(Debug)]
pub struct KnownHosts {
    principal: String,
    entries: Vec<Entry>,
    /// Lines for the name without its port.
    fallback: Vec<Entry>,
    warnings: Vec<Warning>,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    marker: Marker,
    key: LineKey,
}

impl KnownHosts {
    /// Reads the files for `host`. Missing files are fine; what is not usable becomes a warning. Blocks on the disk.
    pub fn read(files: &[PathBuf], host: &HostName) -> Self {
        let mut known = Self {
            principal: host.principal.clone(),
            entries: Vec::new(),
            fallback: Vec::new(),
            warnings: Vec::new(),
        };
        for file in files {
            match read_bounded(file) {
                Ok(text) => known.take_in(file, &text, host),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    known.warnings.push(Warning::Unreadable {
                        file: file.clone(),
                        reason: error.kind(),
                    });
                }
            }
        }
        known
    }

    /// Takes in what a `KnownHostsCommand` said, behind the files.
    #[must_use]
    pub fn and_said(mut self, program: &Path, lines: &[u8], host: &HostName) -> Self {
        self.take_in(program, lines, host);
        self
    }

    /// What was skipped.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Fingerprints of the keys that the files have for this host, without authorities and revoked keys.
    pub fn fingerprints(&self) -> Vec<Fingerprint> {
        let entries = if has_plain(&self.entries) {
            &self.entries
        } else {
            &self.fallback
        };
        let usable = plain(entries).filter_map(|entry| match &entry.key {
            LineKey::Supported(key) => Some(key).filter(|key| self.revocation_of(key).is_none()),
            LineKey::Opaque(_) => None,
        });
        usable.map(|key| key.fingerprint(HashAlg::Sha256)).collect()
    }

    /// The verdict on `offered`, whose signatures the caller has verified, at the time `now`.
    pub fn verdict(&self, offered: &[ServerKey], now: SystemTime) -> Verdict {
        if let Some(revoked) = self.revoked(offered) {
            return revoked;
        }
        let principal = &self.principal;
        if let Some(known) = find_known(&self.entries, offered, principal, now) {
            return known;
        }
        let comparable = plain(&self.entries).find(|entry| matches!(entry.key, LineKey::Supported(_)));
        if let Some(first) = comparable {
            return Verdict::Changed {
                place: first.place.clone(),
                expected: plain(&self.entries).map(|entry| entry.key.fingerprint()).collect(),
                presented: offered.iter().map(ServerKey::fingerprint).collect(),
            };
        }
        let known = find_known(&self.fallback, offered, principal, now);
        known.or_else(|| self.incomparable()).unwrap_or(Verdict::Unknown)
    }

    /// Types of the keys that the files have for this host, if none of these can be compared with what a server half proves.
    pub fn unsupported_types(&self) -> Vec<String> {
        let is_comparable = |entry: &Entry| matches!(entry.key, LineKey::Supported(_));
        match self.incomparable() {
            Some(Verdict::Incomparable { types, .. }) if !plain(&self.entries).any(is_comparable) => types,
            _ => Vec::new(),
        }
    }

    /// [`Verdict::Incomparable`], if there are such lines for this host.
    fn incomparable(&self) -> Option<Verdict> {
        let mut types: Vec<String> = Vec::new();
        let mut place = None;
        for entry in plain(&self.entries) {
            if let LineKey::Opaque(key) = &entry.key {
                place.get_or_insert_with(|| entry.place.clone());
                if types.iter().all(|name| name != key.name()) {
                    types.push(key.name().to_owned());
                }
            }
        }
        Some(Verdict::Incomparable { place: place?, types })
    }

    /// [`Verdict::Revoked`], if one of these keys is, or an authority that signed one.
    pub fn revoked(&self, offered: &[ServerKey]) -> Option<Verdict> {
        let keys = offered
            .iter()
            .flat_map(|key| std::iter::once(key.key_data()).chain(key.authority()));
        keys.into_iter().find_map(|key| {
            let entry = self.revocation_of(key)?;
            Some(Verdict::Revoked {
                place: entry.place.clone(),
                fingerprint: key.fingerprint(HashAlg::Sha256),
            })
        })
    }

    fn revocation_of(&self, key: &KeyData) -> Option<&Entry> {
        let mut entries = self.entries.iter().chain(&self.fallback);
        entries.find(|entry| entry.marker == Marker::Revoked && entry.key.is(key))
    }

    fn take_in(&mut self, file: &Path, text: &[u8], host: &HostName) {
        if text.len() as u64 > MAX_FILE_BYTES {
            self.warnings.push(Warning::TooLarge { file: file.to_owned() });
        }
        let path: Arc<Path> = Arc::from(file);
        for (index, bytes) in text.split(|byte| *byte == b'\n').enumerate() {
            let place = || Place {
                file: Arc::clone(&path),
                line: index + 1,
            };
            match Line::parse(bytes) {
                Ok(Some(line)) => self.take_line(&line, place(), host),
                Ok(None) => {}
                Err(fault) => self.warnings.push(Warning::Malformed { place: place(), fault }),
            }
        }
    }

    fn take_line(&mut self, line: &Line<'_>, place: Place, host: &HostName) {
        let is_for = |name: &str| line.is_for(name);
        let entries = match (is_for(&host.search), host.without_port.as_deref().map(is_for)) {
            (Err(fault), _) | (_, Some(Err(fault))) => {
                self.warnings.push(Warning::Malformed { place, fault });
                return;
            }
            (Ok(true), _) => &mut self.entries,
            (_, Some(Ok(true))) => &mut self.fallback,
            _ => return,
        };
        match line.key() {
            Ok(key) => entries.push(Entry {
                place,
                marker: line.marker,
                key,
            }),
            Err(fault) => self.warnings.push(Warning::Malformed { place, fault }),
        }
    }
}

fn read_bounded(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(file)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut text)?;
    Ok(text)
}

fn plain(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| entry.marker == Marker::None)
}

fn has_plain(entries: &[Entry]) -> bool {
    plain(entries).next().is_some()
}

/// The first offered key that an entry has, or whose certificate an entry's authority made good.
fn find_known(entries: &[Entry], offered: &[ServerKey], principal: &str, now: SystemTime) -> Option<Verdict> {
    offered.iter().enumerate().find_map(|(index, key)| {
        let by_authority = entries
            .iter()
            .find(|entry| entry.marker == Marker::CertAuthority && key.authority().is_some_and(|ca| entry.key.is(ca)))
            .filter(|_| key.certifies(principal, now));
        // As ssh does: a certificate that is not good is looked up as the plain key in it.
        let entry = by_authority.or_else(|| plain(entries).find(|entry| entry.key.is(key.key_data())))?;
        Some(Verdict::Known {
            place: entry.place.clone(),
            key: index,
        })
    })
}

#[cfg(test)]
mod tests;
