//! The file of a server half's TLS key: PKCS#8 DER, readable only by its owner.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{NotATlsKey, TlsKey};
use crate::atomic_file;

/// An Ed25519 key in PKCS#8 takes 48 to 85 bytes; a longer file contains no such key.
const MAX_FILE_LEN: u64 = 256;

/// A TLS key file cannot be used. It was not changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file exists but cannot be read.
    #[error("cannot read the TLS key {}", path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The file cannot be created or written.
    #[error("cannot write the TLS key {}", path.display())]
    Write {
        /// The key file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// Not a regular file.
    #[error("the TLS key {} is not a regular file", path.display())]
    NotAFile {
        /// The key file.
        path: PathBuf,
    },
    /// The file belongs to another user, who could have put it there.
    #[error("the TLS key {} belongs to user {owner}, expected {expected}", path.display())]
    Owner {
        /// The key file.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
        /// The effective user id of this process.
        expected: u32,
    },
    /// Other users may read or write the file.
    #[error("the TLS key {} has mode {mode:04o}, expected 0600", path.display())]
    Mode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not contain a key.
    #[error("the TLS key {} is damaged", path.display())]
    Damaged {
        /// The key file.
        path: PathBuf,
        /// What is wrong with the content.
        source: NotATlsKey,
    },
}

impl TlsKey {
    /// Reads the key at `path`, or creates the file (mode 0600, atomically) if it does not exist.
    ///
    /// If two processes call this at the same time, both get the same key. The directory must
    /// exist.
    ///
    /// # Errors
    /// `KeyFileError`: a file that is damaged, belongs to another user or is accessible to others
    /// is refused and never replaced, because clients may have pinned its key.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        if let Some(key) = load(path)? {
            return Ok(key);
        }
        let write_error = |source| KeyFileError::Write {
            path: path.to_owned(),
            source,
        };
        let key = Self::generate();
        // Fails if another process was faster, instead of replacing that key.
        match atomic_file::create_synced(path, key.to_pkcs8()) {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                load(path)?.ok_or_else(|| write_error(io::ErrorKind::NotFound.into()))
            }
            Err(error) => Err(write_error(error)),
        }
    }
}

fn load(path: &Path) -> Result<Option<TlsKey>, KeyFileError> {
    let read_error = |source| KeyFileError::Read {
        path: path.to_owned(),
        source,
    };
    // With NONBLOCK, opening a FIFO does not block.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(read_error(error)),
    };
    check_owner(path, &file.metadata().map_err(read_error)?)?;
    let mut der = Zeroizing::new(Vec::with_capacity(MAX_FILE_LEN as usize));
    file.take(MAX_FILE_LEN).read_to_end(&mut der).map_err(read_error)?;
    TlsKey::from_pkcs8(&der)
        .map(Some)
        .map_err(|source| KeyFileError::Damaged {
            path: path.to_owned(),
            source,
        })
}

fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), KeyFileError> {
    let path = || path.to_owned();
    let (owner, expected) = (metadata.uid(), rustix::process::geteuid().as_raw());
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_file() {
        Err(KeyFileError::NotAFile { path: path() })
    } else if owner != expected {
        Err(KeyFileError::Owner {
            path: path(),
            owner,
            expected,
        })
    } else if mode & 0o077 != 0 {
        Err(KeyFileError::Mode { path: path(), mode })
    } else {
        Ok(())
    }
}
