//! Key files: OpenSSH's format, PEM (PKCS#1, PKCS#8, SEC1), and public keys.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{Certificate, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::SkipReason;
use crate::identity::opaque_key::OpaqueKey;
use crate::identity::private_key;

/// Largest key file. An RSA key of 16384 bits takes about 13 KiB.
const MAX_KEY_FILE: u64 = 64 << 10;

/// What a file and its `.pub` contain, without a passphrase.
pub(super) struct KeyFile {
    pub(super) public: PublicKey,
    pub(super) private: Private,
}

/// Whether the private key is available.
pub(super) enum Private {
    /// Not encrypted.
    Open,
    /// With a passphrase.
    Encrypted,
    /// Not in this file, but the agent may have it.
    Absent(SkipReason),
}

/// Reads `path`. If the private key is missing or may not be used, the public key in `path.pub` (or
/// in `path` itself) still identifies a key of the agent.
pub(super) fn read(path: &Path) -> Result<KeyFile, SkipReason> {
    let reason = match read_private_text(path) {
        Ok(text) => match classify(path, &text) {
            Ok(file) => return Ok(file),
            Err(reason) => reason,
        },
        Err(reason) => reason,
    };
    match read_public(&with_suffix(path, ".pub")) {
        Ok(public) => {
            let absent = if matches!(reason, SkipReason::Missing) {
                SkipReason::NoPrivateKey
            } else {
                reason
            };
            Ok(KeyFile {
                public,
                private: Private::Absent(absent),
            })
        }
        // The public key shows its type.
        Err(public @ SkipReason::UnsupportedType { .. }) => Err(public),
        Err(_) => Err(reason),
    }
}

/// Reads the private key. `passphrase` is ignored if the key is not encrypted.
///
/// # Errors
/// `NoPassphrase` if the passphrase is missing or wrong.
pub(super) fn load(path: &Path, passphrase: Option<&str>) -> Result<PrivateKey, SkipReason> {
    let text = read_private_text(path)?;
    let undecoded = |_| {
        if is_encrypted(&text) {
            SkipReason::NoPassphrase
        } else {
            SkipReason::Unsupported
        }
    };
    private_key::decode(&text, passphrase).map_err(undecoded)
}

/// Reads a certificate, as `ssh-keygen -s` writes it.
pub(super) fn read_certificate(path: &Path) -> Result<Certificate, SkipReason> {
    let text = read_text(path)?;
    Certificate::from_openssh(text.trim()).map_err(|_| unsupported(OpaqueKey::from_text(&text)))
}

/// `path` with a suffix appended to its last component.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn classify(path: &Path, text: &str) -> Result<KeyFile, SkipReason> {
    if let Ok(public) = PublicKey::from_openssh(text.trim()) {
        return Ok(KeyFile {
            public,
            private: Private::Absent(SkipReason::NoPrivateKey),
        });
    }
    if let Ok(key) = PrivateKey::from_openssh(text) {
        let private = if key.is_encrypted() {
            Private::Encrypted
        } else {
            Private::Open
        };
        return Ok(KeyFile {
            public: key.public_key().clone(),
            private,
        });
    }
    if is_encrypted(text) {
        let public = read_public(&with_suffix(path, ".pub")).map_err(|_| SkipReason::NoPublicHalf)?;
        return Ok(KeyFile {
            public,
            private: Private::Encrypted,
        });
    }
    let key = private_key::decode(text, None);
    let key = key.map_err(|_| unsupported(private_key::opaque(text).or_else(|| OpaqueKey::from_text(text))))?;
    Ok(KeyFile {
        public: key.public_key().clone(),
        private: Private::Open,
    })
}

fn is_encrypted(text: &str) -> bool {
    text.contains("ENCRYPTED") || PrivateKey::from_openssh(text).is_ok_and(|key| key.is_encrypted())
}

fn read_public(path: &Path) -> Result<PublicKey, SkipReason> {
    let text = read_text(path)?;
    PublicKey::from_openssh(text.trim()).map_err(|_| unsupported(OpaqueKey::from_text(&text)))
}

/// Why a file with this content cannot be used.
fn unsupported(key: Option<OpaqueKey>) -> SkipReason {
    key.map_or(SkipReason::Unsupported, |key| SkipReason::UnsupportedType {
        name: key.name().to_owned(),
    })
}

/// Reads a file of a private key, unless it is our own and others may read it: ssh refuses that
/// too.
fn read_private_text(path: &Path) -> Result<Zeroizing<String>, SkipReason> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(|error| SkipReason::Unreadable(error.kind()))?;
    let text = read_all(file)?;
    let is_ours = metadata.uid() == rustix::process::getuid().as_raw();
    let mode = metadata.mode() & 0o7777;
    if is_ours && mode & 0o077 != 0 && text.contains("PRIVATE KEY") {
        return Err(SkipReason::TooOpen { mode });
    }
    Ok(text)
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, SkipReason> {
    read_all(open(path)?)
}

fn open(path: &Path) -> Result<File, SkipReason> {
    File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => SkipReason::Missing,
        kind => SkipReason::Unreadable(kind),
    })
}

fn read_all(file: File) -> Result<Zeroizing<String>, SkipReason> {
    let mut text = Zeroizing::new(String::new());
    let read = file.take(MAX_KEY_FILE).read_to_string(&mut text);
    match read {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(SkipReason::Unsupported),
        Err(error) => Err(SkipReason::Unreadable(error.kind())),
    }
}
