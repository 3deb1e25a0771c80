//! Writing a line into bowline's own known_hosts file.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use russh::keys::ssh_key::{PublicKey, public::KeyData};
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use super::{HostName, KnownHosts, ServerKey, plain};

/// Why a key could not be written down.
#[derive(Debug, Error)]
pub enum RememberError {
    /// The name has characters that mean something else in known_hosts.
    #[error("{name:?} cannot stand in a known_hosts file")]
    Name {
        /// The name.
        name: String,
    },
    /// The key has no text form.
    #[error("the key cannot be written")]
    Key(#[source] russh::keys::ssh_key::Error),
    /// The file cannot be written.
    #[error("cannot write {}", file.display())]
    File {
        /// The file.
        file: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Appends `NAME TYPE KEY` to `path`, whole or not at all, unless the file has that key for that name already.
///
/// A new file gets mode 0600; the folder must exist. Several processes may do this at once.
///
/// # Errors
/// `Name` for a name with blanks, commas, quotes, wildcards or other characters of known_hosts' own.
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
    // `[name]:port` is ours; ssh refuses to record a name that has brackets itself.
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
    // A full disk must not leave half a line behind, which would spoil the next one.
    if let Err(error) = file.write_all(text.as_bytes()) {
        file.set_len(length)?;
        Err(error)
    } else {
        file.sync_data()
    }
}
