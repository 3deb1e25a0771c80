//! Files that appear or change in one step: a reader finds the old content, the new content or no file, never a part.
//!
//! The new file has mode 0600. A symbolic link at the path is replaced, not followed.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// Replaces `path` by a file with this content. After a power cut the file may be damaged.
///
/// # Errors
/// The folder is missing or not writable, or the disk is full. Then `path` has not changed.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    written_beside(path, content)?.persist(path)?;
    Ok(())
}

/// The same, and the content survives a power cut. The folder's entry may still be the old one then.
///
/// # Errors
/// As [`replace`].
pub(crate) fn replace_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = written_beside(path, content)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Creates `path` with this content; both survive a power cut.
///
/// # Errors
/// `AlreadyExists` if there is a file already, which is left alone; otherwise as [`replace`].
pub(crate) fn create_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let file = written_beside(path, content)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    File::open(folder_of(path))?.sync_all()
}

/// A file with another name in the same folder. Removed when dropped.
fn written_beside(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::with_prefix_in(".new-", folder_of(path))?;
    file.write_all(content)?;
    Ok(file)
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_replaced_file_is_whole_private_and_alone_in_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        fs::write(&other, "other").unwrap();
        symlink(&other, &path).unwrap();
        for (replace, content) in [(replace as fn(&Path, &[u8]) -> _, b"one"), (replace_synced, b"two")] {
            replace(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(
                fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777,
                0o600
            );
        }
        assert_eq!(fs::read(&other).unwrap(), b"other");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_existing_file_is_not_created_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create_synced(&path, b"first").unwrap();
        let error = create_synced(&path, b"second").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
