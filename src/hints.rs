//! Hints from earlier sessions: small files of names and values in the state folder.
//!
//! A missing, damaged or outdated file costs a round trip or two.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::atomic_file;

/// Most names per file; beyond that an old one is dropped.
const MAX_ENTRIES: usize = 1000;

/// Most bytes read: [`MAX_ENTRIES`] names and values of 400 bytes.
const MAX_BYTES: u64 = 512 << 10;

/// A hint could not be written.
#[derive(Debug, Error)]
#[error("cannot write {}", file.display())]
pub(crate) struct HintError {
    /// The file.
    pub(crate) file: PathBuf,
    /// The error.
    #[source]
    pub(crate) source: std::io::Error,
}

/// One file of hints.
#[derive(Clone, Debug)]
pub(crate) struct Hints(PathBuf);

/// The key that opened the last session, by `user@host`.
const KEYS: &str = "winners.toml";
/// The path that worked last, by host.
const PATHS: &str = "paths.toml";

impl Hints {
    /// Hints about which user key opened the last session, by `user@host`.
    pub(crate) fn of_keys(state_dir: &Path) -> Hints {
        Hints(state_dir.join(KEYS))
    }

    /// Hints about which path worked last, by host.
    pub(crate) fn of_paths(state_dir: &Path) -> Hints {
        Hints(state_dir.join(PATHS))
    }

    /// The value stored under `name`.
    pub(crate) fn recall(&self, name: &str) -> Option<String> {
        read(&self.0).remove(name)
    }

    /// Stores a value. Replaces the whole file, mode 0600; the folder must exist. Does nothing if the value is
    /// already stored.
    ///
    /// If two processes do this at the same moment, one value may be lost.
    ///
    /// # Errors
    /// The folder is not writable.
    pub(crate) fn remember(&self, name: &str, value: &str) -> Result<(), HintError> {
        let mut hints = read(&self.0);
        if hints.insert(name.to_owned(), value.to_owned()).as_deref() == Some(value) {
            return Ok(());
        }
        if hints.len() > MAX_ENTRIES {
            let forgotten = hints.keys().find(|other| *other != name).cloned();
            forgotten.and_then(|other| hints.remove(&other));
        }
        let text = toml::to_string(&hints).expect("a map of strings is valid TOML");
        atomic_file::replace(&self.0, text.as_bytes()).map_err(|source| HintError {
            file: self.0.clone(),
            source,
        })
    }
}

fn read(file: &Path) -> BTreeMap<String, String> {
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
    read.ok().and_then(|_| toml::from_str(&text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_value_is_recalled_by_its_name_alone() {
        let state = tempfile::tempdir().unwrap();
        let hints = Hints::of_keys(state.path());
        hints.remember("alice@h.example", "one").unwrap();
        hints.remember("bob \"the\" x@2001:db8::1", "two").unwrap();
        hints.remember("alice@h.example", "three").unwrap();
        assert_eq!(hints.recall("alice@h.example").as_deref(), Some("three"));
        assert_eq!(hints.recall("bob \"the\" x@2001:db8::1").as_deref(), Some("two"));
        assert_eq!(hints.recall("bob@h.example"), None);
        assert_eq!(Hints::of_paths(state.path()).recall("alice@h.example"), None);
        let mode = std::fs::metadata(&hints.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_or_damaged_file_is_empty_and_gets_mended() {
        let state = tempfile::tempdir().unwrap();
        let hints = Hints::of_keys(state.path());
        assert_eq!(hints.recall("h"), None);
        for damaged in [b"\xff\xfe".as_slice(), b"\"h\" = 3", b"\"h\" = ", b"[[["] {
            std::fs::write(&hints.0, damaged).unwrap();
            assert_eq!(hints.recall("h"), None, "{damaged:?}");
            hints.remember("h", "v").unwrap();
            assert_eq!(hints.recall("h").as_deref(), Some("v"));
        }
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let state = tempfile::tempdir().unwrap();
        let hints = Hints::of_keys(state.path());
        let full: BTreeMap<String, &str> = (0..MAX_ENTRIES).map(|n| (format!("h{n:04}"), "v")).collect();
        std::fs::write(&hints.0, toml::to_string(&full).unwrap()).unwrap();
        hints.remember("a", "v").unwrap();
        assert_eq!(hints.recall("a").as_deref(), Some("v"));
        assert_eq!(read(&hints.0).len(), MAX_ENTRIES);
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_an_error() {
        assert!(
            Hints::of_keys(Path::new("/nonexistent/state"))
                .remember("h", "v")
                .is_err()
        );
    }
}
