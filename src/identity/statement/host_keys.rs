//! The SSH host keys that a server half can read, and their certificates.
//!
//! The file names come from `sshd -T` or the command line.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{self, Certificate, PrivateKey, PublicKey};
use zeroize::Zeroizing;

use super::{StatementError, check_certificate, sign_host};
use crate::identity::opaque_key::OpaqueKey;
use crate::identity::private_key;
use crate::wire::Statement;

/// Largest key or certificate file. An RSA key of 16384 bits takes 13 KiB.
const MAX_FILE_LEN: u64 = 64 * 1024;

/// A private SSH host key in memory.
#[derive(Clone, Debug)]
pub struct HostKey {
    /// Its file.
    pub path: PathBuf,
    /// The key, never encrypted.
    pub key: PrivateKey,
    /// Host certificates for it, without duplicates.
    pub certificates: Vec<Certificate>,
}

impl HostKey {
    /// Signs statements about the TLS key `tls_spki`: one for the key itself, and one for each
    /// certificate.
    ///
    /// # Errors
    /// As [`sign_host`].
    pub fn statements(&self, tls_spki: &[u8]) -> Result<Vec<Statement>, StatementError> {
        let shown = std::iter::once(None).chain(self.certificates.iter().map(Some));
        shown
            .map(|certificate| sign_host(&self.key, certificate, tls_spki))
            .collect()
    }
}

/// A host key or certificate file that is skipped. The others are used.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyWarning {
    /// The file cannot be read.
    #[error("cannot read the host key file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// Other users may read the file. sshd does not use such a key either.
    #[error("the host key {} has mode {mode:04o} and is accessible to others", path.display())]
    Unprotected {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file contains no private key in a known format.
    #[error("no supported private key in {}", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: russh::keys::Error,
    },
    /// The type of the key is not supported by bowline; sshd may support it.
    #[error("the host key {} has the type {name}, which this version of bowline does not support", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The name of the type.
        name: String,
    },
    /// The file contains a public key.
    #[error("{} contains only a public key: an agent (HostKeyAgent) or a token has the private key, and bowline uses neither", path.display())]
    PublicOnly {
        /// The file.
        path: PathBuf,
    },
    /// The key needs a passphrase.
    #[error("the host key {} is encrypted", path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// The key cannot sign statements: a DSA key, or an RSA key with too few bits.
    #[error("the host key {} cannot be used", path.display())]
    CannotSign {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: StatementError,
    },
    /// The file contains no host certificate, or an invalid one.
    #[error("no host certificate in {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: StatementError,
    },
    /// The certificate is for a key that is not among the host keys.
    #[error("the certificate {} is for none of the host keys", path.display())]
    StrayCertificate {
        /// The file.
        path: PathBuf,
    },
}

/// Reads private host keys and their host certificates.
///
/// Formats: OpenSSH's own, PKCS#1, PKCS#8 and SEC1 PEM. Each of the `certificates` (sshd's
/// `HostCertificate`) is assigned to its key, as is a file `KEY-cert.pub` beside each key. What
/// cannot be used is skipped with a warning; duplicates are ignored.
#[must_use]
pub fn load_host_keys(keys: &[PathBuf], certificates: &[PathBuf]) -> (Vec<HostKey>, Vec<HostKeyWarning>) {
    let mut loaded: Vec<HostKey> = Vec::new();
    let mut warnings = Vec::new();
    for path in keys {
        match load_key(path) {
            Ok(key) if loaded.iter().any(|known| same_key(known, &key)) => {}
            Ok(key) => loaded.push(key),
            Err(warning) => warnings.push(warning),
        }
    }
    let beside = keys
        .iter()
        .map(|path| certificate_beside(path))
        .filter(|path| path.exists());
    for path in certificates.iter().cloned().chain(beside) {
        if let Err(warning) = add_certificate(&mut loaded, path) {
            warnings.push(warning);
        }
    }
    (loaded, warnings)
}

fn load_key(path: &Path) -> Result<HostKey, HostKeyWarning> {
    let file = || path.to_owned();
    let text = read(path, true)?;
    let key = private_key::decode(&text, None).map_err(|source| match source {
        russh::keys::Error::KeyIsEncrypted => HostKeyWarning::Encrypted { path: file() },
        source => not_a_key(file(), &text, source),
    })?;
    if key.is_encrypted() {
        return Err(HostKeyWarning::Encrypted { path: file() });
    }
    sign_host(&key, None, b"").map_err(|source| HostKeyWarning::CannotSign { path: file(), source })?;
    Ok(HostKey {
        path: file(),
        key,
        certificates: Vec::new(),
    })
}

fn not_a_key(path: PathBuf, text: &str, source: russh::keys::Error) -> HostKeyWarning {
    match private_key::opaque(text).or_else(|| OpaqueKey::from_text(text)) {
        Some(key) => HostKeyWarning::UnsupportedType {
            path,
            name: key.name().to_owned(),
        },
        None if PublicKey::from_openssh(text.trim()).is_ok() => HostKeyWarning::PublicOnly { path },
        None => HostKeyWarning::NotAKey { path, source },
    }
}

fn add_certificate(keys: &mut [HostKey], path: PathBuf) -> Result<(), HostKeyWarning> {
    let text = read(&path, false)?;
    let parsed = Certificate::from_openssh(text.trim()).map_err(StatementError::key);
    let checked = parsed.and_then(|certificate| {
        check_certificate(&certificate, ssh_key::certificate::CertType::Host)?;
        Ok(certificate)
    });
    let certificate = match checked {
        Ok(certificate) => certificate,
        Err(source) => return Err(HostKeyWarning::Certificate { path, source }),
    };
    let owner = |key: &&mut HostKey| key.key.public_key().key_data() == certificate.public_key();
    let Some(key) = keys.iter_mut().find(owner) else {
        return Err(HostKeyWarning::StrayCertificate { path });
    };
    if !key.certificates.contains(&certificate) {
        key.certificates.push(certificate);
    }
    Ok(())
}

fn read(path: &Path, secret: bool) -> Result<Zeroizing<String>, HostKeyWarning> {
    let error = |source| HostKeyWarning::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(error)?;
    let metadata = file.metadata().map_err(error)?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE_LEN).read_to_string(&mut text).map_err(error)?;
    // A public key file (with HostKeyAgent) may be readable by everybody.
    if secret && OpaqueKey::from_text(&text).is_none() && PublicKey::from_openssh(text.trim()).is_err() {
        check_protected(path, &metadata)?;
    }
    Ok(text)
}

/// sshkey_perm_ok() in OpenSSH's authfile.c: only for files of our own, because a group may be
/// allowed to read those of others.
fn check_protected(path: &Path, metadata: &fs::Metadata) -> Result<(), HostKeyWarning> {
    let ours = metadata.uid() == rustix::process::getuid().as_raw();
    let mode = metadata.mode() & 0o7777;
    if ours && mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(HostKeyWarning::Unprotected { path, mode });
    }
    Ok(())
}

fn certificate_beside(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push("-cert.pub");
    name.into()
}

fn same_key(one: &HostKey, other: &HostKey) -> bool {
    one.key.public_key().key_data() == other.key.public_key().key_data()
}
