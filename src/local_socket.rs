//! Unix sockets with a file name.
//!
//! A socket has its name only while it listens, so a socket that refuses connections is dead. Paths may be longer
//! than the 107 bytes of a socket address.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::Uid;

/// The end of the names of these sockets' files.
pub(crate) const SUFFIX: &str = ".sock";

/// Listens at `file`, for the file's owner only. Replaces an existing file. Connections beyond `backlog` are refused
/// at once.
///
/// # Errors
/// As `bind(2)`, `listen(2)` and `rename(2)`. Then no file is left.
pub(crate) fn listen(file: &Path, kind: SocketType, backlog: i32) -> io::Result<OwnedFd> {
    let early = file.with_extension(format!("{}", std::process::id()));
    let _ = fs::remove_file(&early);
    let socket = unconnected(kind)?;
    // Linux creates the file with the mode of the socket, so there is no moment in which others may connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    with_address(&early, |address| Ok(rustix::net::bind(&socket, address)?))?;
    let opened = protect(&early)
        .and_then(|()| Ok(rustix::net::listen(&socket, backlog)?))
        .and_then(|()| fs::rename(&early, file));
    match opened {
        Ok(()) => Ok(socket),
        Err(error) => {
            let _ = fs::remove_file(&early);
            Err(error)
        }
    }
}

/// Connects in non-blocking mode.
///
/// # Errors
/// As `connect(2)`; `ConnectionRefused` if no process listens, `WouldBlock` if the backlog is full.
pub(crate) fn connect(file: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = unconnected(kind)?;
    with_address(file, |address| Ok(rustix::net::connect(&socket, address)?))?;
    Ok(socket)
}

/// Who connected, or who listened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// 0 if it is not in the process id namespace of this process.
    pub(crate) pid: u32,
    pub(crate) user: Uid,
}

/// Asks the kernel who is at the other end of a connection. With libc: rustix takes a process id of 0 for impossible.
///
/// # Errors
/// It is no Unix socket.
pub(crate) fn peer(connection: &impl AsFd) -> io::Result<Peer> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `peer`, for which every pattern is valid.
    #[allow(unsafe_code)]
    let answer = unsafe {
        libc::getsockopt(
            connection.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut len,
        )
    };
    match answer {
        0 => Ok(Peer {
            pid: peer.pid.unsigned_abs(),
            user: Uid::from_raw(peer.uid),
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the peer of a connection is root or the user of this process. Nobody else is answered on any local socket.
pub(crate) fn is_permitted(connection: &impl AsFd) -> bool {
    peer(connection).is_ok_and(|peer| peer.user.is_root() || peer.user == rustix::process::geteuid())
}

/// The files of all sockets in a folder whose names have one of these prefixes, including those of dead processes.
pub(crate) fn files(folder: &Path, prefixes: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        prefixes.iter().any(|prefix| name.starts_with(prefix)) && name.ends_with(SUFFIX)
    };
    entries.map(|entry| entry.path()).filter(is_one).collect()
}

/// Other systems check the mode of the file.
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

/// A longer path is addressed through a descriptor of its folder.
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
