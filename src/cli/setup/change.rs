//! A file that is to be changed: read, shown as a diff, and replaced in one step.

use super::say;
use crate::cli::args::SetupArgs;
use crate::cli::report::{self, Failure};
use crate::wire::Escaped;
use rustix::process::geteuid;
use similar::TextDiff;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

/// Why a file cannot be changed. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// A folder, a device, a pipe.
    #[error("{} is not a regular file", path.display())]
    NotPlain {
        /// Behind all links.
        path: PathBuf,
    },
    /// A new file in its place would be ours.
    #[error("{} belongs to another user (id {owner})", path.display())]
    NotOurs {
        /// Behind all links.
        path: PathBuf,
        /// The other's id.
        owner: u32,
    },
    /// Nobody may write to it.
    #[error("{} is write-protected", path.display())]
    WriteProtected {
        /// Behind all links.
        path: PathBuf,
    },
    /// It is not what the diff was made of.
    #[error("{} was changed by another program in the meantime", path.display())]
    Changed {
        /// Behind all links.
        path: PathBuf,
    },
    /// Links lead out of the folder that is to be prepared.
    #[error("{} leads outside of {}", path.display(), root.display())]
    Outside {
        /// As it was named.
        path: PathBuf,
        /// The folder.
        root: PathBuf,
    },
    /// As the system says.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// A verb.
        doing: &'static str,
        /// File or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Modes for what is not there yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Modes {
    pub(super) file: u32,
    pub(super) folder: u32,
}

/// A file as it was when it was looked at.
#[derive(Debug)]
pub(super) struct Original {
    path: PathBuf,
    found: Option<(Vec<u8>, Metadata)>,
}

impl Original {
    /// Reads it; that it is not there is no error. Where the name is a link, the file behind it is meant.
    ///
    /// # Errors
    /// It is no plain file, or cannot be read.
    pub(super) fn read(named: &Path) -> Result<Self, FileError> {
        let path = behind_links(named)?;
        let found = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io_error("look at", &path)(error)),
            Ok(metadata) if !metadata.is_file() => return Err(FileError::NotPlain { path }),
            Ok(_) => Some(read_open(&path).map_err(io_error("read", &path))?),
        };
        Ok(Original { path, found })
    }

    /// Where it is, behind all links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn exists(&self) -> bool {
        self.found.is_some()
    }

    /// Empty where there is no file.
    pub(super) fn content(&self) -> &[u8] {
        self.found.as_ref().map_or(&[], |(content, _)| content)
    }

    /// Whether another file may be put in its place.
    ///
    /// # Errors
    /// It is another's, or write-protected.
    pub(super) fn check_ours(&self) -> Result<(), FileError> {
        let Some((_, metadata)) = &self.found else {
            return Ok(());
        };
        let path = self.path.clone();
        if !geteuid().is_root() && metadata.uid() != geteuid().as_raw() {
            let owner = metadata.uid();
            return Err(FileError::NotOurs { path, owner });
        }
        match metadata.mode() & 0o200 {
            0 => Err(FileError::WriteProtected { path }),
            _ => Ok(()),
        }
    }

    /// Puts `content` in its place, in one step and lasting over a power cut. Mode and owner stay.
    ///
    /// # Errors
    /// It was changed since it was read; the system does not let us.
    pub(super) fn replace(&self, content: &[u8], modes: Modes) -> Result<(), FileError> {
        let folder = self.folder();
        fs::DirBuilder::new()
            .recursive(true)
            .mode(modes.folder)
            .create(folder)
            .map_err(io_error("make", folder))?;
        let anew = self.written(content, modes).map_err(io_error("write in", folder))?;
        self.check_unchanged()?;
        let moved = match self.found {
            Some(_) => anew.persist(&self.path),
            None => anew.persist_noclobber(&self.path),
        };
        match moved {
            Ok(_) => {}
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => {
                let path = self.path.clone();
                return Err(FileError::Changed { path });
            }
            Err(failed) => return Err(io_error("replace", &self.path)(failed.error)),
        }
        sync_folder(folder)
    }

    /// Removes it.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub(super) fn remove(&self) -> Result<(), FileError> {
        self.check_unchanged()?;
        fs::remove_file(&self.path).map_err(io_error("remove", &self.path))?;
        sync_folder(self.folder())
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        }
    }

    /// A file beside this one, gone again unless it is put in its place.
    fn written(&self, content: &[u8], modes: Modes) -> io::Result<NamedTempFile> {
        let mut anew = tempfile::Builder::new()
            .prefix(".bowline-")
            .tempfile_in(self.folder())?;
        anew.write_all(content)?;
        let mode = match &self.found {
            Some((_, metadata)) => {
                let own = anew.as_file().metadata()?;
                if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
                    fchown(anew.as_file(), Some(metadata.uid()), Some(metadata.gid()))?;
                }
                metadata.mode() & 0o7777
            }
            None => modes.file,
        };
        anew.as_file().set_permissions(Permissions::from_mode(mode))?;
        anew.as_file().sync_all()?;
        Ok(anew)
    }

    fn check_unchanged(&self) -> Result<(), FileError> {
        let facts = |original: &Original| {
            let found = original.found.as_ref();
            found.map(|(content, of)| (content.clone(), of.dev(), of.ino(), of.mode(), of.uid(), of.gid()))
        };
        match Original::read(&self.path) {
            Ok(present) if facts(&present) == facts(self) => Ok(()),
            Ok(_) | Err(FileError::NotPlain { .. }) => Err(FileError::Changed {
                path: self.path.clone(),
            }),
            Err(error) => Err(error),
        }
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { doing, path, source }
}

/// The last of a chain of links, whether it is there or not.
fn behind_links(named: &Path) -> Result<PathBuf, FileError> {
    let mut path = named.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(to) => path = path.parent().unwrap_or(Path::new("/")).join(to),
            // It is no link, or there is nothing.
            Err(_) => return Ok(path),
        }
    }
    Err(io_error("follow the links of", named)(rustix::io::Errno::LOOP.into()))
}

fn read_open(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    let mut file = File::open(path)?;
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok((content, file.metadata()?))
}

fn sync_folder(folder: &Path) -> Result<(), FileError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("write", folder))
}

/// A unified diff, fit for a terminal. `None` is no file.
pub(super) fn diff(path: &Path, old: Option<&[u8]>, new: Option<&[u8]>) -> String {
    let text = |content: Option<&[u8]>| String::from_utf8_lossy(content.unwrap_or_default()).into_owned();
    let name = |content: Option<&[u8]>| match content {
        Some(_) => path.display().to_string(),
        None => "/dev/null".to_owned(),
    };
    let (before, after) = (text(old), text(new));
    let lines = TextDiff::from_lines(&before, &after);
    let unified = lines.unified_diff().header(&name(old), &name(new)).to_string();
    let mut shown = String::new();
    for line in unified.split_terminator('\n') {
        let parts: Vec<_> = line.split('\t').map(|part| Escaped(part).to_string()).collect();
        writeln!(shown, "{}", parts.join("\t")).expect("a String takes every byte");
    }
    shown
}

/// Who says yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// The user, at the terminal.
    Ask,
    /// Whoever gave `--yes`.
    Given,
    /// Nobody: `--dry-run`.
    DryRun,
}

impl Consent {
    pub(super) fn of(args: &SetupArgs) -> Self {
        match (args.yes, args.dry_run) {
            (_, true) => Consent::DryRun,
            (true, false) => Consent::Given,
            (false, false) => Consent::Ask,
        }
    }

    /// Shows the diffs; whether to go on.
    ///
    /// # Errors
    /// The answer is no, or there is nobody to ask.
    pub(super) fn to(self, diffs: &str) -> Result<bool, Failure> {
        say(diffs);
        match self {
            Consent::Given => Ok(true),
            Consent::DryRun => {
                say("nothing was changed (--dry-run)\n");
                Ok(false)
            }
            Consent::Ask if !(io::stdin().is_terminal() && io::stdout().is_terminal()) => Err(report::nobody_to_ask()),
            Consent::Ask if is_yes(&asked()) => Ok(true),
            Consent::Ask => Err(report::declined()),
        }
    }
}

/// The end of input is an answer too.
fn asked() -> String {
    say("Make this change? [y/N] ");
    let _ = io::stdout().flush();
    let mut answer = String::new();
    if !matches!(io::stdin().read_line(&mut answer), Ok(1..)) {
        say("\n");
    }
    answer
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: Modes = Modes {
        file: 0o600,
        folder: 0o700,
    };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("dots/config"), folder.path().join("config"));
        fs::create_dir(folder.path().join("dots")).unwrap();
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("dots/config", &link).unwrap();
        Original::read(&link).unwrap().replace(b"new", MODES).unwrap();
        assert_eq!((fs::read(&file).unwrap(), mode(&file)), (b"new".to_vec(), 0o640));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            fs::read_dir(folder.path().join("dots")).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn what_is_missing_is_made_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(".ssh/config", &link).unwrap();
        Original::read(&link).unwrap().replace(b"new", MODES).unwrap();
        let file = folder.path().join(".ssh/config");
        assert_eq!((mode(&file), mode(&folder.path().join(".ssh"))), (0o600, 0o700));
    }

    #[test]
    fn what_changed_meanwhile_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let absent = Original::read(&file).unwrap();
        fs::write(&file, "one").unwrap();
        assert!(matches!(absent.replace(b"x", MODES), Err(FileError::Changed { .. })));
        let one = Original::read(&file).unwrap();
        fs::write(&file, "two").unwrap();
        assert!(matches!(one.replace(b"x", MODES), Err(FileError::Changed { .. })));
        assert!(matches!(one.remove(), Err(FileError::Changed { .. })));
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn folders_loops_and_protected_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Original::read(folder.path()), Err(FileError::NotPlain { .. })));
        let link = folder.path().join("loop");
        std::os::unix::fs::symlink("loop", &link).unwrap();
        assert!(matches!(Original::read(&link), Err(FileError::Io { .. })));
        let file = folder.path().join("config");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
        let original = Original::read(&file).unwrap();
        assert!(matches!(original.check_ours(), Err(FileError::WriteProtected { .. })));
    }

    #[test]
    fn a_diff_shows_what_a_terminal_would_obey_and_a_missing_end_of_line() {
        let shown = diff(
            Path::new("/f"),
            Some(b"a\r\nb\x1b[2J\tc"),
            Some(b"x\r\na\r\nb\x1b[2J\tc"),
        );
        assert_eq!(
            shown,
            "--- /f\n+++ /f\n@@ -1,2 +1,3 @@\n+x\\r\n a\\r\n b\\u{1b}[2J\tc\n\\ No newline at end of file\n"
        );
        let anew = diff(Path::new("/f"), None, Some(b"a\n"));
        assert_eq!(anew, "--- /dev/null\n+++ /f\n@@ -0,0 +1 @@\n+a\n");
    }

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y\n", "Y", " yes \r\n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n", "yess", "y y"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
