//! Which key opened the last session to a host: a small file in the state folder.
//!
//! Only a hint. A missing, damaged or outdated file costs one round trip.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::Fingerprint;
use thiserror::Error;

/// The file's name.
const FILE: &str = "winners.toml";

/// Most hosts remembered; beyond, one of the others is forgotten.
const MAX_ENTRIES: usize = 1000;

/// Most bytes read: [`MAX_ENTRIES`] with names of 400 bytes.
const MAX_BYTES: u64 = 512 << 10;

/// The winner could not be written down.
#[derive(Debug, Error)]
#[error("cannot write {}", file.display())]
pub struct WinnerError {
    /// The file.
    pub file: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// `user@host` to fingerprint.
type Winners = BTreeMap<String, String>;

/// The key that opened the last session as `user` on `host`.
pub fn recall_winner(state_dir: &Path, host: &str, user: &str) -> Option<Fingerprint> {
    read(&state_dir.join(FILE)).get(&entry_name(host, user))?.parse().ok()
}

/// Remembers the winner. Replaces the file whole, mode 0600; the folder must exist. Does nothing if it is known.
///
/// Of two processes that do this at the same moment one may be forgotten.
///
/// # Errors
/// If the folder cannot be written to.
pub fn remember_winner(state_dir: &Path, host: &str, user: &str, fingerprint: &Fingerprint) -> Result<(), WinnerError> {
    let file = state_dir.join(FILE);
    let mut winners = read(&file);
    let name = entry_name(host, user);
    if winners.insert(name.clone(), fingerprint.to_string()) == Some(fingerprint.to_string()) {
        return Ok(());
    }
    if winners.len() > MAX_ENTRIES {
        let forgotten = winners.keys().find(|other| **other != name).cloned();
        forgotten.and_then(|other| winners.remove(&other));
    }
    let text = toml::to_string(&winners).expect("a map of strings is valid TOML");
    replace(&file, text.as_bytes()).map_err(|source| WinnerError { file, source })
}

fn entry_name(host: &str, user: &str) -> String {
    format!("{user}@{host}")
}

fn read(file: &Path) -> Winners {
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
    read.ok().and_then(|_| toml::from_str(&text).ok()).unwrap_or_default()
}

fn replace(file: &Path, text: &[u8]) -> std::io::Result<()> {
    let scratch = file.with_extension(format!("toml.{}", std::process::id()));
    let written = write_new(&scratch, text).and_then(|()| std::fs::rename(&scratch, file));
    if written.is_err() {
        // The write is what failed; that the rest of it may stay behind adds nothing.
        let _ = std::fs::remove_file(&scratch);
    }
    written
}

fn write_new(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fingerprint(byte: u8) -> Fingerprint {
        Fingerprint::Sha256([byte; 32])
    }

    #[test]
    fn winner_is_recalled_for_its_host_and_user_alone() {
        let state = tempfile::tempdir().unwrap();
        remember_winner(state.path(), "h.example", "alice", &fingerprint(1)).unwrap();
        remember_winner(state.path(), "2001:db8::1", "bob \"the\" x", &fingerprint(2)).unwrap();
        remember_winner(state.path(), "h.example", "alice", &fingerprint(3)).unwrap();
        assert_eq!(recall_winner(state.path(), "h.example", "alice"), Some(fingerprint(3)));
        assert_eq!(
            recall_winner(state.path(), "2001:db8::1", "bob \"the\" x"),
            Some(fingerprint(2))
        );
        assert_eq!(recall_winner(state.path(), "h.example", "bob"), None);
        let mode = std::fs::metadata(state.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_or_damaged_file_is_none_and_gets_mended() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(recall_winner(state.path(), "h", "u"), None);
        for damaged in [
            b"\xff\xfe".as_slice(),
            b"\"u@h\" = 3",
            b"\"u@h\" = \"SHA256:short\"",
            b"\"u@h\" = ",
            b"[[[",
        ] {
            std::fs::write(state.path().join(FILE), damaged).unwrap();
            assert_eq!(recall_winner(state.path(), "h", "u"), None, "{damaged:?}");
            remember_winner(state.path(), "h", "u", &fingerprint(1)).unwrap();
            assert_eq!(recall_winner(state.path(), "h", "u"), Some(fingerprint(1)));
        }
    }

    #[test]
    fn number_of_hosts_is_bounded() {
        let state = tempfile::tempdir().unwrap();
        let full: Winners = (0..MAX_ENTRIES)
            .map(|n| (format!("u@h{n:04}"), fingerprint(1).to_string()))
            .collect();
        std::fs::write(state.path().join(FILE), toml::to_string(&full).unwrap()).unwrap();
        remember_winner(state.path(), "a", "a", &fingerprint(2)).unwrap();
        assert_eq!(recall_winner(state.path(), "a", "a"), Some(fingerprint(2)));
        assert_eq!(read(&state.path().join(FILE)).len(), MAX_ENTRIES);
    }

    #[test]
    fn folder_that_cannot_be_written_to_is_an_error() {
        let missing = remember_winner(Path::new("/nonexistent/state"), "h", "u", &fingerprint(1));
        assert!(missing.is_err());
    }
}
