//! Appends a line to bowline's own known_hosts file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use russh::keys::ssh_key::{PublicKey, public::KeyData};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::{HostName, KnownHosts, ServerKey, plain};

/// A key could not be appended.
#[derive(Debug, Error)]
pub enum RememberError {
    /// The name contains characters with a meaning in known_hosts.
    #[error("{name:?} cannot be written to a known_hosts file")]
    Name {
        /// The name.
        name: String,
    },
    /// The key cannot be encoded as text.
    #[error("the key cannot be written")]
    Key(#[source] russh::keys::ssh_key::Error),
    /// The file cannot be written.
    #[error("cannot write {}", file.display())]
    File {
        /// The file.
        file: std::path::PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
}

/// Appends `NAME TYPE KEY` to `path` as one whole line, unless the file has that key for that name
/// already.
///
/// A new file gets mode 0600; the directory must exist. Several processes may do this at the same
/// time.
///
/// # Errors
/// `Name` if the name contains blanks, commas, quotes, wildcards or other special characters of
/// known_hosts.
pub fn remember(path: &Path, name: &HostName, key: &ServerKey) -> Result<(), RememberError> {
    let line = line_for(name.as_str(), key.key_data())?;
    let failed = |source| RememberError::File {
        file: path.to_owned(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    flock(&file, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
    let known = KnownHosts::read(&[path.to_owned()], name);
    if plain(&known.entries).any(|entry| entry.key.is(key.key_data())) {
        return Ok(());
    }
    append(&mut file, &line).map_err(failed)
}

fn line_for(name: &str, key: &KeyData) -> Result<String, RememberError> {
    // bowline itself adds the brackets of `[name]:port`; ssh does not record a name that contains
    // brackets.
    let bare = name
        .strip_prefix('[')
        .and_then(|rest| rest.rsplit_once("]:"))
        .map_or(name, |(host, _port)| host);
    let reserved = |c: char| c.is_whitespace() || c.is_control() || "@?*#[]|'\"\\,!".contains(c);
    if bare.is_empty() || bare.contains(reserved) {
        return Err(RememberError::Name { name: name.to_owned() });
    }
    let key = PublicKey::new(key.clone(), "")
        .to_openssh()
        .map_err(RememberError::Key)?;
    Ok(format!("{name} {}\n", key.trim_end()))
}

fn append(file: &mut File, line: &str) -> std::io::Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut last = [b'\n'];
    if length > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    let text = if last[0] == b'\n' {
        line.to_owned()
    } else {
        format!("\n{line}")
    };
    // On a full disk, the incomplete line must be removed, because it would damage the next one.
    if let Err(error) = file.write_all(text.as_bytes()) {
        file.set_len(length)?;
        Err(error)
    } else {
        file.sync_data()
    }
}
