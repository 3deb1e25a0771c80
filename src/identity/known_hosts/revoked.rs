//! Files of revoked host keys (`RevokedHostKeys`): lists of keys, or key revocation lists.
//!
//! Lists of keys are read here. A key revocation list is binary, and `ssh-keygen -Q` checks it.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use russh::keys::ssh_key::Fingerprint;
use tempfile::NamedTempFile;
use thiserror::Error;
use tokio::process::Command;

use super::line::LineKey;
use super::{ServerKey, line, read_bounded};

/// First bytes of a key revocation list (PROTOCOL.krl).
const KRL_MAGIC: &[u8] = b"SSHKRL\n\0";

/// Longest run of `ssh-keygen -Q`.
const KEYGEN_TIMEOUT: Duration = Duration::from_secs(10);

/// An offered key that is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedKey {
    /// The file.
    pub file: PathBuf,
    /// The key.
    pub fingerprint: Fingerprint,
}

/// A file of revoked keys could not be checked. As in ssh, the host is not trusted then.
#[derive(Debug, Error)]
pub enum RevocationError {
    /// The file cannot be read.
    #[error("cannot read the revoked host keys in {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// A line of the file is not a key.
    #[error("{}, line {line}, is not a key", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Line number, from 1.
        line: usize,
    },
    /// `ssh-keygen` could not check the key.
    #[error("ssh-keygen could not check the revoked host keys in {}: {}", file.display(), stderr.trim_end())]
    CheckFailed {
        /// The file.
        file: PathBuf,
        /// The standard error of ssh-keygen.
        stderr: String,
    },
    /// `ssh-keygen` did not end in time.
    #[error("ssh-keygen did not check {} within {KEYGEN_TIMEOUT:?}", file.display())]
    Timeout {
        /// The file.
        file: PathBuf,
    },
    /// `ssh-keygen` could not be run.
    #[error("cannot run {} to check {}", program.display(), file.display())]
    NotRunnable {
        /// The program as configured.
        program: PathBuf,
        /// The file.
        file: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
}

/// The first of the offered keys, or of the CAs that signed them, that one of the files revokes.
///
/// `ssh_keygen` is the program for key revocation lists: a path, or a name to be found in `PATH`.
///
/// # Errors
/// A file cannot be checked, for example because it is missing: ssh then refuses the host as well.
pub async fn check_revoked_files(
    files: &[PathBuf],
    offered: &[ServerKey],
    ssh_keygen: &Path,
) -> Result<Option<RevokedKey>, RevocationError> {
    for file in files {
        let text = read_bounded(file).map_err(|source| RevocationError::Unreadable {
            file: file.clone(),
            source,
        })?;
        let revoked = if text.starts_with(KRL_MAGIC) {
            check_revocation_list(file, offered, ssh_keygen).await?
        } else {
            check_plain_list(file, &text, offered)?
        };
        if let Some(key) = revoked {
            return Ok(Some(RevokedKey {
                file: file.clone(),
                fingerprint: key.fingerprint(),
            }));
        }
    }
    Ok(None)
}

fn check_plain_list<'a>(
    file: &Path,
    text: &[u8],
    offered: &'a [ServerKey],
) -> Result<Option<&'a ServerKey>, RevocationError> {
    for (index, bytes) in text.split(|byte| *byte == b'\n').enumerate() {
        let bytes = line::skip_blanks(bytes.strip_suffix(b"\r").unwrap_or(bytes));
        if bytes.is_empty() || bytes[0] == b'#' {
            continue;
        }
        let revoked = match line::decode_key(bytes) {
            Ok(LineKey::Supported(key)) => key,
            // Keys of unsupported types are never accepted, so they need not be compared.
            Ok(LineKey::Opaque(_)) => continue,
            Err(_) => {
                return Err(RevocationError::Malformed {
                    file: file.to_owned(),
                    line: index + 1,
                });
            }
        };
        let names_it = |key: &&ServerKey| *key.key_data() == revoked || key.authority() == Some(&revoked);
        if let Some(key) = offered.iter().find(names_it) {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

async fn check_revocation_list<'a>(
    list: &Path,
    offered: &'a [ServerKey],
    ssh_keygen: &Path,
) -> Result<Option<&'a ServerKey>, RevocationError> {
    for key in offered {
        if is_revoked_by(list, key, ssh_keygen).await? {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

async fn is_revoked_by(list: &Path, key: &ServerKey, ssh_keygen: &Path) -> Result<bool, RevocationError> {
    let not_runnable = |source| RevocationError::NotRunnable {
        program: ssh_keygen.to_owned(),
        file: list.to_owned(),
        source,
    };
    let key_file = key_file(key).map_err(not_runnable)?;
    let mut command = Command::new(ssh_keygen);
    command
        .arg("-Q")
        .arg("-f")
        .arg(list)
        .arg(key_file.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(KEYGEN_TIMEOUT, command.output()).await;
    let output = output
        .map_err(|_| RevocationError::Timeout { file: list.to_owned() })?
        .map_err(not_runnable)?;
    // The exit status is 1 for a revoked key and 255 for an error, but in some versions 1 for both.
    // So the output decides.
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains(": REVOKED") {
        return Ok(true);
    }
    if output.status.success() && said.contains(": ok") {
        return Ok(false);
    }
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(RevocationError::CheckFailed {
        file: list.to_owned(),
        stderr,
    })
}

/// A file with one public key, for a program that reads keys from files. Removed when dropped.
fn key_file(key: &ServerKey) -> io::Result<NamedTempFile> {
    let text = key.to_openssh().map_err(io::Error::other)?;
    let mut file = tempfile::Builder::new().prefix("bowline-").suffix(".pub").tempfile()?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}
