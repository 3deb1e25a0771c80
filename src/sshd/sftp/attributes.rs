//! File attributes: as sftp shows them, and as it sets them.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use russh_sftp::protocol::{File as Listed, FileAttributes};
use rustix::fs::{Gid, Timespec, Timestamps, Uid};

/// The bits of a mode that chmod(2) takes.
const MODE_BITS: u32 = 0o7777;

pub(super) fn of(metadata: &Metadata) -> FileAttributes {
    // Version 3 has 32 bits for seconds, as unsigned numbers.
    let seconds = |time: i64| u32::try_from(time).unwrap_or(if time < 0 { 0 } else { u32::MAX });
    FileAttributes {
        size: Some(metadata.len()),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        permissions: Some(metadata.mode()),
        atime: Some(seconds(metadata.atime())),
        mtime: Some(seconds(metadata.mtime())),
        ..FileAttributes::default()
    }
}

/// A directory entry with the line that `ls -l` shows for it.
pub(super) fn listed(name: String, metadata: &Metadata) -> Listed {
    let mut entry = Listed::new(name, of(metadata));
    // The crate knows directories and files only.
    entry.longname.replace_range(..1, kind(metadata.mode()));
    entry
}

fn kind(mode: u32) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => "d",
        libc::S_IFLNK => "l",
        libc::S_IFCHR => "c",
        libc::S_IFBLK => "b",
        libc::S_IFIFO => "p",
        libc::S_IFSOCK => "s",
        _ => "-",
    }
}

/// Sets what is given, following links. Size first: changing it would change the times.
pub(super) fn set_on_path(path: &Path, wanted: &FileAttributes) -> io::Result<()> {
    if let Some(size) = wanted.size {
        File::options().write(true).open(path)?.set_len(size)?;
    }
    if let Some(mode) = wanted.permissions {
        std::fs::set_permissions(path, Permissions::from_mode(mode & MODE_BITS))?;
    }
    if let Some(times) = times(wanted) {
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty())?;
    }
    if let Some((uid, gid)) = owner(wanted) {
        rustix::fs::chown(path, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// As [`set_on_path`], on an open file.
pub(super) fn set_on_file(file: &File, wanted: &FileAttributes) -> io::Result<()> {
    if let Some(size) = wanted.size {
        file.set_len(size)?;
    }
    if let Some(mode) = wanted.permissions {
        file.set_permissions(Permissions::from_mode(mode & MODE_BITS))?;
    }
    if let Some(times) = times(wanted) {
        rustix::fs::futimens(file, &times)?;
    }
    if let Some((uid, gid)) = owner(wanted) {
        rustix::fs::fchown(file, Some(uid), Some(gid))?;
    }
    Ok(())
}

fn times(wanted: &FileAttributes) -> Option<Timestamps> {
    let at = |seconds: u32| Timespec {
        tv_sec: i64::from(seconds),
        tv_nsec: 0,
    };
    Some(Timestamps {
        last_access: at(wanted.atime?),
        last_modification: at(wanted.mtime?),
    })
}

fn owner(wanted: &FileAttributes) -> Option<(Uid, Gid)> {
    Some((Uid::from_raw(wanted.uid?), Gid::from_raw(wanted.gid?)))
}

/// The mode for a file to be created, before the umask.
pub(super) fn mode_or(wanted: &FileAttributes, default: u32) -> u32 {
    wanted.permissions.map_or(default, |mode| mode & MODE_BITS)
}
