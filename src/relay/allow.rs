//! Who may register at a relay.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{Fingerprint, HashAlg, PublicKey};

use crate::identity::key_digest;
use crate::wire::KeyDigest;

/// Largest file that is read. It holds 100,000 keys.
const MAX_FILE_LEN: u64 = 64 << 20;

/// Prefixes of key type names.
const KEY_TYPES: [&str; 3] = ["ssh-", "ecdsa-", "sk-"];

/// Which server halves may register at a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowList {
    /// Everyone who proves a host key.
    Open,
    /// Everyone who proves one of these host keys.
    Keys(HashSet<KeyDigest>),
}

/// The file of allowed host keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AllowListError {
    /// The file cannot be read.
    #[error("cannot read the allowed servers in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A line contains no key.
    #[error("{}, line {line}: neither a fingerprint (SHA256:..) nor a public host key", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
    /// The file contains no key, so nobody could register.
    #[error("{} allows no server", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl AllowList {
    /// Reads a file with one host key per line: its fingerprint, or its public key as in
    /// known_hosts, authorized_keys or a `.pub` file. Empty lines and lines that begin with `#` are
    /// skipped.
    ///
    /// # Errors
    /// See [`AllowListError`]. One invalid line makes the whole file invalid: who is allowed must
    /// not depend on a typing error.
    pub fn read(path: &Path) -> Result<AllowList, AllowListError> {
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_FILE_LEN).read_to_string(&mut text));
        read.map_err(|source| AllowListError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut keys = HashSet::new();
        for (at, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            keys.insert(key_in(line).ok_or_else(|| AllowListError::Line {
                path: path.to_owned(),
                line: at + 1,
            })?);
        }
        match keys.is_empty() {
            true => Err(AllowListError::Empty { path: path.to_owned() }),
            false => Ok(AllowList::Keys(keys)),
        }
    }

    /// Whether the owner of these keys may register.
    pub fn permits(&self, keys: &[KeyDigest]) -> bool {
        match self {
            AllowList::Open => true,
            AllowList::Keys(allowed) => keys.iter().any(|key| allowed.contains(key)),
        }
    }
}

fn key_in(line: &str) -> Option<KeyDigest> {
    let words: Vec<&str> = line.split_whitespace().collect();
    if let Some(Ok(fingerprint)) = words.first().map(|word| word.parse::<Fingerprint>()) {
        return key_digest(fingerprint);
    }
    // `@revoked` revokes a key, `@cert-authority` is about the keys that it signs. Neither allows
    // this key.
    if line.starts_with('@') {
        return None;
    }
    let at = words
        .iter()
        .position(|word| KEY_TYPES.iter().any(|kind| word.starts_with(kind)))?;
    let key = PublicKey::from_openssh(&words.get(at..at + 2)?.join(" ")).ok()?;
    key_digest(key.fingerprint(HashAlg::Sha256))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
    const FINGERPRINT: &str = "SHA256:UCUiLr7Pjs9wFFJMDByLgc3NrtdU344OgUM45wZPcIQ";

    fn read(text: &str) -> Result<AllowList, AllowListError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("servers");
        std::fs::write(&path, text).unwrap();
        AllowList::read(&path)
    }

    #[test]
    fn a_key_may_be_written_in_every_form_that_ssh_has() {
        let expected = read(FINGERPRINT).unwrap();
        for line in [
            KEY.to_owned(),
            format!("{KEY} root@build"),
            format!("build.example.org,192.0.2.1 {KEY}"),
            format!("no-pty,command=\"a b\" {KEY} comment"),
            format!("# build\n\n  {FINGERPRINT}  build"),
        ] {
            assert_eq!(read(&line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn invalid_line_makes_the_file_invalid_and_is_reported() {
        for line in [
            "build.example.org".to_owned(),
            "SHA256:short".to_owned(),
            "MD5:00:11".to_owned(),
            format!("@revoked build {KEY}"),
            format!("@cert-authority build {KEY}"),
            "ssh-ed25519 AAAA".to_owned(),
        ] {
            let error = read(&format!("{FINGERPRINT}\n{line}\n")).unwrap_err();
            assert!(matches!(error, AllowListError::Line { line: 2, .. }), "{line}: {error}");
        }
        assert!(matches!(read("# nobody\n"), Err(AllowListError::Empty { .. })));
    }

    #[test]
    fn only_who_proves_an_allowed_key_is_permitted() {
        let list = read(FINGERPRINT).unwrap();
        let AllowList::Keys(keys) = &list else { panic!("a list") };
        let allowed = *keys.iter().next().unwrap();
        assert_eq!(allowed.to_string(), FINGERPRINT);
        let other = KeyDigest::new([1; 32]);
        assert!(list.permits(&[other, allowed]));
        assert!(!list.permits(&[other]) && !list.permits(&[]));
        assert!(AllowList::Open.permits(&[]));
    }
}
