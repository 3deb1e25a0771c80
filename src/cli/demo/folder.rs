//! A folder of the demo's own, which goes when the demo goes.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::DemoError;

/// A temporary folder that nobody else can look into. Removed with all that is in it when it is dropped.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes it where the system keeps such things (`$TMPDIR`, else `/tmp`).
    ///
    /// # Errors
    /// `DemoError::Folder`.
    pub(super) fn make() -> Result<Folder, DemoError> {
        let parent = std::env::temp_dir();
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).expect("the system gives random bytes");
        let path = parent.join(format!("bowline-demo-{:016x}", u64::from_ne_bytes(random)));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Folder(path)),
            Err(source) => Err(DemoError::Folder { parent, source }),
        }
    }

    /// Where `name` is in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
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

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove the temporary folder");
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
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn nobody_else_can_look_in_and_nothing_stays() {
        let folder = Folder::make().unwrap();
        let file = folder.write("key", b"secret").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.0), mode(&file)), (0o700, 0o600));
        let path = folder.0.clone();
        drop(folder);
        assert!(!path.exists());
    }
}
