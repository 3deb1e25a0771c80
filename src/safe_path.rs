//! Whether another user controls where a path leads, as OpenSSH's `safe_path()` and sudo check.
//!
//! This matters to root: a folder of another user may hold a link to any file of the machine. An unprivileged user
//! can only write where a link could lead anyway, so for them only the folder itself is checked.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Most symbolic links followed, as in the kernel.
const MAX_LINKS: usize = 40;

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// Another user controls where a path leads. Contained in an [`io::Error`] of kind `PermissionDenied`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnsafePath {
    /// Another user owns it, and may replace it.
    #[error("{} belongs to user id {owner}, expected root or the calling user", path.display())]
    Owner {
        /// A folder of the path, a link, or the file itself.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// Other users may add and remove entries.
    #[error("other users may write to {} (mode {mode:04o})", path.display())]
    Writable {
        /// A folder of the path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file has another name, which another user may have created.
    #[error("{} has {links} hard links, expected one", path.display())]
    HardLinks {
        /// The file.
        path: PathBuf,
        /// The number of names.
        links: u64,
    },
}

impl UnsafePath {
    /// The [`UnsafePath`] in an error, if there is one.
    pub(crate) fn of(error: &io::Error) -> Option<&UnsafePath> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<UnsafePath> for io::Error {
    fn from(error: UnsafePath) -> io::Error {
        io::Error::new(io::ErrorKind::PermissionDenied, error)
    }
}

/// Creates a folder and its parents, mode 0700, if they do not exist. For root, no other user may control its
/// content.
///
/// # Errors
/// [`UnsafePath`], then nothing was created; as `mkdir(2)`.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    if !is_root() {
        return DirBuilder::new().recursive(true).mode(0o700).create(path);
    }
    let mut resolved = ResolvedPath::resolve(path)?;
    while let Some(name) = resolved.missing.pop_front() {
        resolved.check_last()?;
        resolved.last.push(name);
        match DirBuilder::new().mode(0o700).create(&resolved.last) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        resolved.enter_last()?;
    }
    resolved.check_last()?;
    let about = fs::metadata(&resolved.last)?;
    check_mode(&resolved.last, &about, GROUP_WRITES | OTHERS_WRITE)
}

/// Creates a folder in one of our own and gives it to a user, who may then pass through the parent but not list it.
/// The ownership of the opened folder is changed, never that of a link's target.
///
/// # Errors
/// As `mkdirat(2)`, `openat(2)` (links are not followed) and `fchown(2)`.
pub(crate) fn make_folder_in(parent: &Path, name: &str, owner: Option<(u32, u32)>) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    match rustix::fs::mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let folder = rustix::fs::openat(&parent, name, flags | OFlags::NOFOLLOW, Mode::empty())?;
    let Some((user, group)) = owner else { return Ok(()) };
    fchown(&folder, Some(user), Some(group))?;
    Ok(rustix::fs::fchmod(&parent, Mode::RWXU | Mode::XGRP | Mode::XOTH)?)
}

/// Opens a file for appending, and creates it with mode 0600 if needed. Does not wait for the reader of a FIFO.
///
/// For root, neither the file nor a folder of the path may belong to another user, and no link of another user is
/// followed. The last folder may be writable by others as `/tmp` is, or by a group as `/var/log` is.
///
/// # Errors
/// [`UnsafePath`]; as `open(2)`.
pub(crate) fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    if !is_root() {
        return options.custom_flags(nonblocking).open(path);
    }
    let mut resolved = ResolvedPath::resolve(path)?;
    match (resolved.missing.pop_front(), resolved.missing.is_empty()) {
        (Some(name), true) => resolved.last.push(name),
        (Some(_), false) => return Err(io::ErrorKind::NotFound.into()),
        (None, _) => {}
    }
    let follow = match is_kernels(&resolved.last) {
        true => OFlags::empty(),
        false => OFlags::NOFOLLOW,
    };
    let file = options
        .custom_flags(nonblocking | follow.bits() as i32)
        .open(&resolved.last)?;
    check_file(&resolved.last, &file.metadata()?)?;
    Ok(file)
}

/// Opens one of our own files for reading; follows no link, and never blocks. `None` if it does not exist.
///
/// # Errors
/// [`UnsafePath`] if another user owns it; `InvalidInput` if it is not a regular file; as `open(2)`.
pub(crate) fn read(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    check_owner(path, &about)?;
    Ok(Some(file))
}

/// A path resolved as far as it exists, with every step checked.
struct ResolvedPath {
    /// The existing part, without links.
    last: PathBuf,
    /// The components that do not exist.
    missing: VecDeque<OsString>,
    /// Set if others may write to the last folder: then nothing in it may be followed.
    writable: Option<UnsafePath>,
}

impl ResolvedPath {
    fn resolve(path: &Path) -> io::Result<ResolvedPath> {
        let mut resolved = ResolvedPath {
            last: PathBuf::from("/"),
            missing: VecDeque::new(),
            writable: None,
        };
        let (mut links, mut ahead) = (0, names(&std::path::absolute(path)?));
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                resolved.last.pop();
                continue;
            }
            let step = resolved.last.join(&name);
            let about = match fs::symlink_metadata(&step) {
                Ok(about) => about,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    resolved.missing.push_back(name);
                    resolved.missing.extend(ahead);
                    return Ok(resolved);
                }
                Err(error) => return Err(error),
            };
            if is_kernels(&step) {
                resolved.last = step;
            } else if about.is_symlink() {
                resolved.check_last()?;
                check_owner(&step, &about)?;
                links += 1;
                if links > MAX_LINKS {
                    return Err(rustix::io::Errno::LOOP.into());
                }
                let to = fs::read_link(&step)?;
                if to.is_absolute() {
                    resolved.last = PathBuf::from("/");
                }
                let rest = std::mem::replace(&mut ahead, names(&to));
                ahead.extend(rest);
            } else {
                if about.is_dir() {
                    resolved.check_last()?;
                }
                resolved.last = step;
                resolved.enter(&about)?;
            }
        }
        Ok(resolved)
    }

    /// Records that the last component is `about`.
    fn enter(&mut self, about: &Metadata) -> io::Result<()> {
        if !about.is_dir() {
            return Ok(());
        }
        check_owner(&self.last, about)?;
        let forbidden = match about.mode() & STICKY {
            0 => OTHERS_WRITE | if about.gid() == 0 { 0 } else { GROUP_WRITES },
            // In a sticky folder nobody can remove or rename the entries of others.
            _ => 0,
        };
        self.writable = writable(&self.last, about, forbidden).err();
        Ok(())
    }

    fn enter_last(&mut self) -> io::Result<()> {
        let about = fs::symlink_metadata(&self.last)?;
        if !about.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        self.enter(&about)
    }

    fn check_last(&mut self) -> io::Result<()> {
        match self.writable.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let steps = path.components().filter_map(|step| match step {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    steps.collect()
}

/// Links in `/proc`, such as the target of `/dev/stderr`, lead to files that this process already has open.
fn is_kernels(path: &Path) -> bool {
    path.starts_with("/proc")
}

/// Writing to a device or to a pipe of ours changes no file.
fn check_file(path: &Path, about: &Metadata) -> io::Result<()> {
    if about.file_type().is_char_device() || is_kernels(path) {
        return Ok(());
    }
    check_owner(path, about)?;
    match about.nlink() {
        links @ 2.. if about.is_file() => Err(UnsafePath::HardLinks {
            path: path.to_owned(),
            links,
        }
        .into()),
        _ => Ok(()),
    }
}

fn check_owner(path: &Path, about: &Metadata) -> io::Result<()> {
    let owner = about.uid();
    if owner == 0 || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let path = path.to_owned();
    Err(UnsafePath::Owner { path, owner }.into())
}

fn check_mode(path: &Path, about: &Metadata, forbidden: u32) -> io::Result<()> {
    Ok(writable(path, about, forbidden)?)
}

fn writable(path: &Path, about: &Metadata, forbidden: u32) -> Result<(), UnsafePath> {
    if about.mode() & forbidden == 0 {
        return Ok(());
    }
    Err(UnsafePath::Writable {
        path: path.to_owned(),
        mode: about.mode() & 0o7777,
    })
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    /// The user id of `nobody`.
    const OTHER: u32 = 65534;

    fn with_mode(folder: &Path, name: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_folder_of_ones_own_is_made_with_those_above() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = scratch.path().join("a/b/c");
        for _ in 0..2 {
            make_folder(&deep).unwrap();
        }
        assert_eq!(fs::metadata(&deep).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn ways_of_writing_a_path_lead_to_one_place() {
        let scratch = tempfile::tempdir().unwrap();
        let (folder, path) = (scratch.path().canonicalize().unwrap(), |name: &str| {
            scratch.path().join(name)
        });
        fs::create_dir(path("real")).unwrap();
        symlink("real", path("link")).unwrap();
        symlink(path("link"), path("absolute")).unwrap();
        for name in ["real", "link", "absolute", "link/../real/./", "absolute/"] {
            assert_eq!(
                ResolvedPath::resolve(&path(name)).unwrap().last,
                folder.join("real"),
                "{name}"
            );
        }
        let resolved = ResolvedPath::resolve(&path("link/more/and/more")).unwrap();
        assert_eq!((resolved.last, resolved.missing.len()), (folder.join("real"), 3));
        symlink("loop", path("loop")).unwrap();
        assert!(ResolvedPath::resolve(&path("loop")).is_err());
    }

    #[test]
    fn devices_pipes_and_what_is_open_already_may_be_appended_to() {
        for path in ["/dev/null", "/dev/full", "/dev/stderr"] {
            append(Path::new(path)).unwrap();
        }
    }

    #[test]
    fn root_writes_nowhere_that_another_user_decides() {
        if !is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let theirs = with_mode(scratch.path(), "theirs", 0o755);
        let precious = scratch.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        symlink(&precious, theirs.join("link")).unwrap();
        fs::hard_link(&precious, theirs.join("name")).unwrap();
        symlink(scratch.path(), theirs.join("up")).unwrap();
        chown(&theirs, Some(OTHER), Some(OTHER)).unwrap();
        for name in ["", "new", "up/new", "up"] {
            let error = make_folder(&theirs.join(name)).unwrap_err();
            assert!(UnsafePath::of(&error).is_some(), "{name}: {error}");
        }
        for name in ["link", "name", "new", "up/new"] {
            assert!(append(&theirs.join(name)).is_err(), "{name}");
        }
        assert!(!scratch.path().join("new").exists() && !theirs.join("new").exists());
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }

    #[test]
    fn a_folder_is_given_away_and_what_a_link_leads_to_is_not() {
        if !is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let state = with_mode(scratch.path(), "state", 0o700);
        let treasure = with_mode(scratch.path(), "treasure", 0o700);
        symlink(&treasure, state.join("link")).unwrap();
        assert!(make_folder_in(&state, "link", Some((OTHER, OTHER))).is_err());
        assert_eq!(fs::metadata(&treasure).unwrap().uid(), 0);
        for _ in 0..2 {
            make_folder_in(&state, "given", Some((OTHER, OTHER))).unwrap();
        }
        assert_eq!(fs::metadata(state.join("given")).unwrap().uid(), OTHER);
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o711);
        make_folder_in(&state, "kept", None).unwrap();
        assert_eq!(fs::metadata(state.join("kept")).unwrap().uid(), 0);
    }

    #[test]
    fn in_a_folder_that_others_may_write_to_root_follows_nothing() {
        if !is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let precious = scratch.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        for (name, mode) in [("shared", 0o777), ("group", 0o770), ("temporary", 0o1777)] {
            let folder = with_mode(scratch.path(), name, mode);
            chown(&folder, None, Some(OTHER)).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            // As another user would have put them there.
            symlink(&precious, folder.join("link")).unwrap();
            std::os::unix::fs::lchown(folder.join("link"), Some(OTHER), Some(OTHER)).unwrap();
            fs::hard_link(&precious, folder.join("name")).unwrap();
            for file in ["link", "name"] {
                assert!(append(&folder.join(file)).is_err(), "{name}/{file}");
            }
            append(&folder.join("log")).unwrap();
            assert!(make_folder(&folder).is_err(), "{name}");
            fs::remove_file(folder.join("name")).unwrap();
        }
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }
}
