//! Unix sockets that have a file.
//!
//! One is under its name only while it listens, so whatever has a name and refuses is dead. Paths may be longer than the
//! 107 bytes that a socket's address has room for.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

/// Listens there, for the file's owner only. What has that name is replaced. Askers beyond `waiting` are refused at once.
///
/// # Errors
/// As `bind(2)`, `listen(2)` and `rename(2)`. Nothing is left behind then.
pub(crate) fn listen(file: &Path, kind: SocketType, waiting: i32) -> io::Result<OwnedFd> {
    let early = file.with_extension(format!("{}", std::process::id()));
    let _ = fs::remove_file(&early);
    let socket = unconnected(kind)?;
    // Linux makes the file with the mode that the socket has, so it is never reached by its name.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    with_address(&early, |address| Ok(rustix::net::bind(&socket, address)?))?;
    let opened = protect(&early)
        .and_then(|()| Ok(rustix::net::listen(&socket, waiting)?))
        .and_then(|()| fs::rename(&early, file));
    match opened {
        Ok(()) => Ok(socket),
        Err(error) => {
            let _ = fs::remove_file(&early);
            Err(error)
        }
    }
}

/// A connection, in non-blocking mode, with whoever listens there.
///
/// # Errors
/// As `connect(2)`; `ConnectionRefused` if nobody does, `WouldBlock` if nobody lets anybody in.
pub(crate) fn connect(file: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = unconnected(kind)?;
    with_address(file, |address| Ok(rustix::net::connect(&socket, address)?))?;
    Ok(socket)
}

/// Others reach a socket's file by its mode only.
fn protect(file: &Path) -> io::Result<()> {
    match cfg!(target_os = "linux") {
        true => Ok(()),
        false => fs::set_permissions(file, Permissions::from_mode(0o600)),
    }
}

fn unconnected(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

/// A longer path is reached through the folder's descriptor.
fn with_address<T>(file: &Path, act: impl FnOnce(&SocketAddrUnix) -> io::Result<T>) -> io::Result<T> {
    if let Ok(address) = SocketAddrUnix::new(file) {
        return act(&address);
    }
    let folder = File::open(file.parent().unwrap_or(Path::new(".")))?;
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(file.file_name().unwrap_or_default());
    act(&SocketAddrUnix::new(short)?)
}
