//! A folder of the demo's own, which goes when the demo goes.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::DemoError;

/// A temporary folder that nobody else can look into. Removed with all that is in it when it is dropped.
pub(super) struct Folder(TempDir);

impl Folder {
    /// Makes it where the system keeps such things (`$TMPDIR`, else `/tmp`).
    ///
    /// # Errors
    /// `DemoError::Folder`.
    pub(super) fn make() -> Result<Folder, DemoError> {
        let mut options = tempfile::Builder::new();
        options
            .prefix("bowline-demo-")
            .permissions(Permissions::from_mode(0o700));
        let made = options.tempdir();
        made.map(Folder).map_err(|source| DemoError::Folder {
            parent: std::env::temp_dir(),
            source,
        })
    }

    /// Where `name` is in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file that only the user can read.
    ///
    /// # Errors
    /// `DemoError::File`.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, DemoError> {
        let path = self.path(name);
        match write_private(&path, content) {
            Ok(()) => Ok(path),
            Err(source) => Err(DemoError::File { path, source }),
        }
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_look_in_and_nothing_stays() {
        let folder = Folder::make().unwrap();
        let file = folder.write("key", b"secret").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(folder.0.path()), mode(&file)), (0o700, 0o600));
        let path = folder.0.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }
}
