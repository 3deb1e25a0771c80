//! `known_hosts` files, as ssh(1) reads them, and the verdict on a server's keys.
//!
//! By hand: russh's reader knows no `@cert-authority`, no `@revoked` and no negated patterns.
//! Follows OpenSSH's `hostfile.c` and `check_host_key()` in `sshconnect.c`, with one difference:
//! ssh sees one host key per connection, bowline sees all keys that the server half has proved, so
//! the verdict is about all of them. What happens with an unknown host is decided elsewhere.

mod command;
mod line;
mod remember;
mod revoked;
mod server_key;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use russh::keys::ssh_key::{Fingerprint, HashAlg, public::KeyData};

pub use self::command::{CommandError, KnownHostsCommand};
pub(crate) use self::command::{DEFERRED, DEFERRED_TOKENS, split_words};
pub use self::line::LineError;
use self::line::{Line, LineKey, Marker};
pub use self::remember::{RememberError, remember};
pub use self::revoked::{RevocationError, RevokedKey, check_revoked_files};
pub use self::server_key::{Pin, PinError, ServerKey, ServerKeyError, pin_matches, tls_key_fingerprint};

/// Most bytes read from one file. The rest is ignored, with a warning.
///
/// 64 MiB hold about 300,000 hosts.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The names of one host in known_hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName {
    /// The name that is looked up: the host name, the alias, or `[name]:port`.
    search: String,
    /// If that is not found: the name without the port. Only matching keys count then.
    without_port: Option<String>,
    /// The principal that a host certificate must contain.
    principal: String,
}

impl HostName {
    /// The names of `hostname` at `port`, in lower case. If the port is not 22, ssh looks for
    /// `[hostname]:port`, and only if that is not found for `hostname`.
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

    /// The name given by `HostKeyAlias`: it is used unchanged, whatever the port.
    pub fn alias(alias: &str) -> Self {
        let alias = alias.to_ascii_lowercase();
        Self {
            search: alias.clone(),
            without_port: None,
            principal: alias,
        }
    }

    /// The name without the port, which is used if nothing else is found.
    pub(crate) fn without_port(&self) -> Option<&str> {
        self.without_port.as_deref()
    }

    /// The name as it is written in known_hosts and in ssh's messages.
    pub fn as_str(&self) -> &str {
        &self.search
    }
}

/// A line in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinePosition {
    /// The file.
    pub file: Arc<Path>,
    /// Line number, from 1.
    pub line: usize,
}

/// The result of looking up the keys that a server proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKeyStatus {
    /// The line contains one of the keys, or the CA that signed one of the host certificates.
    Known {
        /// The line.
        place: LinePosition,
        /// Index of the key among those offered.
        key: usize,
    },
    /// The line revokes one of the keys. This takes precedence over known keys.
    Revoked {
        /// The line.
        place: LinePosition,
        /// The revoked key: one of those offered, or the CA of one.
        fingerprint: Fingerprint,
    },
    /// Keys of this host are known, but none of those offered is among them.
    Changed {
        /// The first line with a key of this host.
        place: LinePosition,
        /// All known keys of this host.
        expected: Vec<Fingerprint>,
        /// The keys offered.
        presented: Vec<Fingerprint>,
    },
    /// Keys of this host are known, but all have unsupported types, so that they cannot be compared
    /// with those offered.
    Incomparable {
        /// The first such line.
        place: LinePosition,
        /// The types, without duplicates.
        types: Vec<String>,
    },
    /// The files have no key for this host.
    Unknown,
}

/// A part of the files that could not be used. The look-up continues without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// The file exists but cannot be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The kind of error.
        reason: std::io::ErrorKind,
    },
    /// The file is larger than [`MAX_FILE_BYTES`]; the rest was not read.
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// A line that may be for this host was skipped.
    Malformed {
        /// The line.
        place: LinePosition,
        /// What is wrong with the line.
        fault: LineError,
    },
}

/// The lines of several known_hosts files that are for one host.
#[derive(Debug)]
pub struct KnownHosts {
    principal: String,
    entries: Vec<HostLine>,
    /// Lines for the name without its port.
    fallback: Vec<HostLine>,
    warnings: Vec<Warning>,
}

#[derive(Debug)]
struct HostLine {
    place: LinePosition,
    marker: Marker,
    key: LineKey,
}

impl KnownHosts {
    /// Reads the files for `host`. Missing files are ignored; parts that cannot be used become
    /// warnings. Blocks.
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

    /// Adds the output of a `KnownHostsCommand` after the files.
    #[must_use]
    pub fn and_said(mut self, program: &Path, lines: &[u8], host: &HostName) -> Self {
        self.take_in(program, lines, host);
        self
    }

    /// What was skipped.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Fingerprints of the host's known keys, without CAs and revoked keys.
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

    /// The verdict on the `offered` keys at the time `now`. The caller has verified that the server
    /// holds them.
    pub fn check(&self, offered: &[ServerKey], now: SystemTime) -> HostKeyStatus {
        if let Some(revoked) = self.revoked(offered) {
            return revoked;
        }
        let principal = &self.principal;
        if let Some(known) = find_known(&self.entries, offered, principal, now) {
            return known;
        }
        let comparable = plain(&self.entries).find(|entry| matches!(entry.key, LineKey::Supported(_)));
        if let Some(first) = comparable {
            return HostKeyStatus::Changed {
                place: first.place.clone(),
                expected: plain(&self.entries).map(|entry| entry.key.fingerprint()).collect(),
                presented: offered.iter().map(ServerKey::fingerprint).collect(),
            };
        }
        let known = find_known(&self.fallback, offered, principal, now);
        known.or_else(|| self.incomparable()).unwrap_or(HostKeyStatus::Unknown)
    }

    /// The types of the host's known keys, if none of these keys can be compared with those of a
    /// server half.
    pub fn unsupported_types(&self) -> Vec<String> {
        let is_comparable = |entry: &HostLine| matches!(entry.key, LineKey::Supported(_));
        match self.incomparable() {
            Some(HostKeyStatus::Incomparable { types, .. }) if !plain(&self.entries).any(is_comparable) => types,
            _ => Vec::new(),
        }
    }

    /// [`HostKeyStatus::Incomparable`], if this host has such lines.
    fn incomparable(&self) -> Option<HostKeyStatus> {
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
        Some(HostKeyStatus::Incomparable { place: place?, types })
    }

    /// [`HostKeyStatus::Revoked`], if one of these keys or the CA that signed it is revoked.
    pub fn revoked(&self, offered: &[ServerKey]) -> Option<HostKeyStatus> {
        let keys = offered
            .iter()
            .flat_map(|key| std::iter::once(key.key_data()).chain(key.authority()));
        keys.into_iter().find_map(|key| {
            let entry = self.revocation_of(key)?;
            Some(HostKeyStatus::Revoked {
                place: entry.place.clone(),
                fingerprint: key.fingerprint(HashAlg::Sha256),
            })
        })
    }

    fn revocation_of(&self, key: &KeyData) -> Option<&HostLine> {
        let mut entries = self.entries.iter().chain(&self.fallback);
        entries.find(|entry| entry.marker == Marker::Revoked && entry.key.is(key))
    }

    fn take_in(&mut self, file: &Path, text: &[u8], host: &HostName) {
        if text.len() as u64 > MAX_FILE_BYTES {
            self.warnings.push(Warning::TooLarge { file: file.to_owned() });
        }
        let path: Arc<Path> = Arc::from(file);
        for (index, bytes) in text.split(|byte| *byte == b'\n').enumerate() {
            let place = || LinePosition {
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

    fn take_line(&mut self, line: &Line<'_>, place: LinePosition, host: &HostName) {
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
            Ok(key) => entries.push(HostLine {
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

fn plain(entries: &[HostLine]) -> impl Iterator<Item = &HostLine> {
    entries.iter().filter(|entry| entry.marker == Marker::None)
}

fn has_plain(entries: &[HostLine]) -> bool {
    plain(entries).next().is_some()
}

/// The first offered key that is known, or whose certificate is valid and signed by a known CA.
fn find_known(entries: &[HostLine], offered: &[ServerKey], principal: &str, now: SystemTime) -> Option<HostKeyStatus> {
    offered.iter().enumerate().find_map(|(index, key)| {
        let by_authority = entries
            .iter()
            .find(|entry| entry.marker == Marker::CertAuthority && key.authority().is_some_and(|ca| entry.key.is(ca)))
            .filter(|_| key.certifies(principal, now));
        // As ssh does: an invalid certificate counts as the plain key in it.
        let entry = by_authority.or_else(|| plain(entries).find(|entry| entry.key.is(key.key_data())))?;
        Some(HostKeyStatus::Known {
            place: entry.place.clone(),
            key: index,
        })
    })
}

#[cfg(test)]
mod tests;
