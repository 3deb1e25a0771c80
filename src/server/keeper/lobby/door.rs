//! A listening socket with its file in the runtime folder.

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

/// Askers that wait to be let in; each is let in at once.
const WAITING: i32 = 16;

/// Where others ask who is running. The file stays when this is dropped: the socket may live on elsewhere.
#[derive(Debug)]
pub struct Door {
    file: PathBuf,
    socket: OwnedFd,
}

impl Door {
    /// Opens one in a folder, named after what is listened on. The file that another has left there is replaced: whoever
    /// has bound those addresses is the only one to have that name.
    ///
    /// # Errors
    /// As `bind(2)`, `listen(2)` and `rename(2)`.
    pub fn open(folder: &Path, addresses: &[SocketAddr]) -> io::Result<Self> {
        let file = file_in(folder, addresses)?;
        let socket = local_socket::listen(&file, SocketType::SEQPACKET, WAITING)?;
        Ok(Self { file, socket })
    }

    /// Whether it is the one that [`Door::open`] would open, and can still be found.
    pub fn is_for(&self, folder: &Path, addresses: &[SocketAddr]) -> bool {
        file_in(folder, addresses).is_ok_and(|file| file == self.file && file.exists())
    }

    /// One that somebody else has opened.
    pub(in super::super) fn of(file: OsString, socket: OwnedFd) -> Self {
        let file = file.into();
        Self { file, socket }
    }

    pub(in super::super) fn file(&self) -> &Path {
        &self.file
    }

    /// Nobody will be found behind it any more.
    pub(in super::super) fn remove(&self) {
        if let Err(error) = fs::remove_file(&self.file) {
            debug!(file = %self.file.display(), %error, "cannot remove the socket's file");
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// All doors of a folder, dead ones too.
pub(super) fn doors(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_door = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(START) && name.ends_with(END)
    };
    entries.map(|entry| entry.path()).filter(is_door).collect()
}

/// A connection with whoever listens there.
///
/// # Errors
/// As `connect(2)`; `WouldBlock` for one that lets nobody in any more.
pub(super) fn knock(file: &Path) -> io::Result<OwnedFd> {
    let socket = local_socket::connect(file, SocketType::SEQPACKET)?;
    // Whoever answers is named by the kernel: it need not be who listened first.
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    Ok(socket)
}

/// Absolute: another keeper may have another working folder.
fn file_in(folder: &Path, addresses: &[SocketAddr]) -> io::Result<PathBuf> {
    std::path::absolute(folder.join(name_of(addresses)))
}

/// Which network this process is in: the same address in another is another.
pub(super) fn network() -> u64 {
    fs::metadata("/proc/self/ns/net").map_or(0, |metadata| metadata.ino())
}

/// Short, and the same for the same addresses whatever their order: a path of a socket has at most 107 bytes.
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
        let dead = Door::open(folder.path(), &addresses).unwrap();
        let file = dead.file().to_owned();
        drop(dead);
        assert_eq!(doors(folder.path()), [file.as_path()]);
        assert_eq!(knock(&file).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let live = Door::open(folder.path(), &addresses).unwrap();
        assert!(live.is_for(folder.path(), &addresses));
        knock(&file).unwrap();
        live.remove();
        assert_eq!(doors(folder.path()), [] as [&Path; 0]);
    }

    #[test]
    fn folder_with_a_path_longer_than_a_socket_s_may_be_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(100));
        fs::create_dir(&deep).unwrap();
        let door = Door::open(&deep, &addresses(&["127.0.0.1:22"])).unwrap();
        knock(door.file()).unwrap();
        assert_eq!(doors(&deep).len(), 1);
    }
}
