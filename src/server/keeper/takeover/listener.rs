//! The listening socket for takeovers, and its file in the runtime folder.

use std::{
    ffi::OsString,
    fs, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::net::SocketType;
use tracing::debug;

use crate::local_socket;

const START: &str = "serve-";
const END: &str = ".sock";

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 16;

/// The socket on which other keepers ask who is running. Dropping it leaves the file: another process may have the
/// socket too.
#[derive(Debug)]
pub struct TakeoverListener {
    file: PathBuf,
    socket: OwnedFd,
}

impl TakeoverListener {
    /// Listens in a folder, at a name that depends on the server half's addresses. An existing file of that name is
    /// replaced: nobody else can have bound these addresses.
    ///
    /// # Errors
    /// As `bind(2)`, `listen(2)` and `rename(2)`.
    pub fn open(folder: &Path, addresses: &[SocketAddr]) -> io::Result<Self> {
        let file = file_in(folder, addresses)?;
        let socket = local_socket::listen(&file, SocketType::SEQPACKET, BACKLOG)?;
        Ok(Self { file, socket })
    }

    /// Whether this is the socket that [`TakeoverListener::open`] would open, and its file still exists.
    pub fn is_for(&self, folder: &Path, addresses: &[SocketAddr]) -> bool {
        file_in(folder, addresses).is_ok_and(|file| file == self.file && file.exists())
    }

    /// A socket that another keeper has opened.
    pub(in super::super) fn of(file: OsString, socket: OwnedFd) -> Self {
        let file = file.into();
        Self { file, socket }
    }

    pub(in super::super) fn file(&self) -> &Path {
        &self.file
    }

    /// Removes the file, so that nobody finds the socket any more.
    pub(in super::super) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.file) {
            debug!(file = %self.file.display(), %error, "cannot remove the socket's file");
        }
    }
}

impl AsFd for TakeoverListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The files of all such sockets in a folder, including those of dead keepers.
pub(super) fn socket_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_door = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(START) && name.ends_with(END)
    };
    entries.map(|entry| entry.path()).filter(is_door).collect()
}

/// Connects to such a socket.
///
/// # Errors
/// As `connect(2)`; `WouldBlock` if its queue is full.
pub(super) fn connect(file: &Path) -> io::Result<OwnedFd> {
    let socket = local_socket::connect(file, SocketType::SEQPACKET)?;
    // The kernel names the sender of each reply, which need not be the process that called listen(2).
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    Ok(socket)
}

/// Absolute: another keeper may have another working directory.
fn file_in(folder: &Path, addresses: &[SocketAddr]) -> io::Result<PathBuf> {
    std::path::absolute(folder.join(name_of(addresses)))
}

/// The network namespace of this process: the same address in another namespace is a different one.
pub(super) fn network() -> u64 {
    fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino())
}

/// A short name, the same for the same addresses in any order. The path of a socket has at most 107 bytes.
fn name_of(addresses: &[SocketAddr]) -> String {
    let port = addresses.first().map_or(0, SocketAddr::port);
    let mut sorted: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    sorted.sort();
    sorted.push(network().to_string());
    // FNV-1a: names must not differ between builds, and nobody gains by a collision.
    let hash = sorted.join(" ").bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    format!("{START}{port}-{hash:08x}{END}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &[&str]) -> Vec<SocketAddr> {
        text.iter().map(|address| address.parse().unwrap()).collect()
    }

    #[test]
    fn names_differ_by_address_and_port_not_by_order() {
        let name = |text: &[&str]| name_of(&addresses(text));
        let both = name(&["0.0.0.0:22", "[::]:22"]);
        assert!(both.starts_with("serve-22-") && both.ends_with(".sock"), "{both}");
        assert_eq!(both, name(&["[::]:22", "0.0.0.0:22"]));
        for other in [
            &["0.0.0.0:22"][..],
            &["0.0.0.0:23", "[::]:23"],
            &["127.0.0.1:22", "[::]:22"],
        ] {
            assert_ne!(both, name(other));
        }
    }

    #[test]
    fn file_of_a_dead_one_is_replaced_and_of_a_live_one_found() {
        let folder = tempfile::tempdir().unwrap();
        let addresses = addresses(&["127.0.0.1:22"]);
        let dead = TakeoverListener::open(folder.path(), &addresses).unwrap();
        let file = dead.file().to_owned();
        drop(dead);
        assert_eq!(socket_files(folder.path()), [file.as_path()]);
        assert_eq!(connect(&file).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let live = TakeoverListener::open(folder.path(), &addresses).unwrap();
        assert!(live.is_for(folder.path(), &addresses));
        connect(&file).unwrap();
        live.remove();
        assert_eq!(socket_files(folder.path()), [] as [&Path; 0]);
    }

    #[test]
    fn folder_with_a_path_longer_than_a_socket_s_may_be_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(100));
        fs::create_dir(&deep).unwrap();
        let listener = TakeoverListener::open(&deep, &addresses(&["127.0.0.1:22"])).unwrap();
        connect(listener.file()).unwrap();
        assert_eq!(socket_files(&deep).len(), 1);
    }
}
