//! The SSH host keys that a server half may read, with their certificates.
//!
//! Which files those are comes from `sshd -T` or the command line.

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

/// Longest key or certificate file read, in bytes. An RSA key of 16384 bits takes 13 KiB.
const MAX_FILE_LEN: u64 = 64 * 1024;

/// One private SSH host key in memory.
#[derive(Clone, Debug)]
pub struct HostKey {
    /// Where it was read.
    pub path: PathBuf,
    /// The key; never encrypted.
    pub key: PrivateKey,
    /// Host certificates for it, without doubles.
    pub certificates: Vec<Certificate>,
}

impl HostKey {
    /// The statements about the TLS key `tls_spki` that this key can make: one for itself, one for each certificate.
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

/// A host key or certificate file that is left out, and why. The others stand.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyWarning {
    /// It could not be read.
    #[error("cannot read the host key file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may read it: sshd does not use such a key either.
    #[error("the host key {} has mode {mode:04o} and is open to others", path.display())]
    Unprotected {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no private key in a known format.
    #[error("no usable private key in {}", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: russh::keys::Error,
    },
    /// A type of key that is not supported here; sshd may have it all the same.
    #[error("the host key {} is of the type {name}, which this version of bowline does not support", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The name of the type.
        name: String,
    },
    /// It is a public key.
    #[error("{} holds a public key only: an agent (HostKeyAgent) or a token has the private one, and bowline asks neither", path.display())]
    PublicOnly {
        /// The file.
        path: PathBuf,
    },
    /// It needs a passphrase.
    #[error("the host key {} is encrypted", path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// It cannot make statements: a DSA key, an RSA key of too few bits.
    #[error("the host key {} cannot be used", path.display())]
    CannotSign {
        /// The file.
        path: PathBuf,
        /// Why.
        source: StatementError,
    },
    /// It is no certificate, or no valid host certificate.
    #[error("no host certificate in {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: StatementError,
    },
    /// None of the host keys is the one in this certificate.
    #[error("the certificate {} is for none of the host keys", path.display())]
    StrayCertificate {
        /// The file.
        path: PathBuf,
    },
}

/// Reads private host keys and the host certificates for them.
///
/// OpenSSH's own format, PKCS#1, PKCS#8 and SEC1 PEM. `certificates` (sshd's `HostCertificate`) are joined to their
/// keys, as is a file `KEY-cert.pub` beside each key. Whatever cannot be used is left out with a warning; a key that is
/// given twice is taken once.
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
    // A public key (with HostKeyAgent) is anybody's to read.
    if secret && OpaqueKey::from_text(&text).is_none() && PublicKey::from_openssh(text.trim()).is_err() {
        check_protected(path, &metadata)?;
    }
    Ok(text)
}

/// sshkey_perm_ok() in OpenSSH's authfile.c: of our own files only, for a group may be meant to read another's.
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
