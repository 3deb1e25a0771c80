//! Sends any number of descriptors and their description over a socket.
//!
//! The description is sent as a memfd, so that a bundle with thousands of descriptors fits into the buffer of a socket
//! that nobody reads yet: a keeper sends one to the program that it becomes by exec.

use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    time::Duration,
};

use rustix::{
    event::PollFlags,
    fs::{MemfdFlags, SealFlags},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::seqpacket::{self, MAX_DESCRIPTORS};

/// Format version. The two ends differ only if the program on disk was replaced.
pub(in crate::server) const VERSION: u32 = 3;

/// The most bytes of a description. A name and its role take less than 100 bytes.
const MAX_DESCRIPTION: usize = 16 * 1024 * 1024;

/// The sender is sending already; if it takes longer than this, it has died or hangs.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Size of the send buffer in bytes. The kernel counts each packet's overhead, not its descriptors.
const BUFFER: usize = 1 << 20;

/// The first packet; the description comes with it.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    descriptors: usize,
}

/// Why a bundle could not be received.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum FdBundleError {
    /// No bundle was sent.
    #[error("no handover was sent")]
    Missing,
    /// The first packet came without the description.
    #[error("the handover has no description")]
    NoDescription,
    /// The bundle has another format version.
    #[error("the handover has format version {theirs}, but this program understands version {VERSION}")]
    Version {
        /// The sender's version.
        theirs: u32,
    },
    /// Some descriptors are missing.
    #[error("only {came} of {announced} descriptors were received")]
    Incomplete {
        /// How many were received.
        came: usize,
        /// How many were announced.
        announced: usize,
    },
    /// A system call failed, or a packet has the wrong format.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sends everything. Waits up to `timeout` for the socket to accept a packet.
///
/// # Errors
/// `TimedOut`; the errors of the system calls. Part of the bundle may have been sent.
pub(in crate::server) fn send(
    socket: impl AsFd,
    description: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
    timeout: Duration,
) -> io::Result<()> {
    let socket = socket.as_fd();
    // Without privileges the kernel allows less, which is enough for most bundles.
    if rustix::net::sockopt::set_socket_send_buffer_size_force(socket, BUFFER).is_err() {
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket, BUFFER);
    }
    let memory = sealed_memory("bowline-handover", &Zeroizing::new(serde_json::to_vec(description)?))?;
    let head = Head {
        version: VERSION,
        descriptors: descriptors.len(),
    };
    send_packet(socket, &serde_json::to_vec(&head)?, &[memory.as_fd()], timeout)?;
    for batch in descriptors.chunks(MAX_DESCRIPTORS) {
        send_packet(socket, b"+", batch, timeout)?;
    }
    Ok(())
}

fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    timeout: Duration,
) -> io::Result<()> {
    loop {
        match seqpacket::send(socket, bytes, descriptors) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
        if !seqpacket::wait_for(socket, PollFlags::OUT, timeout)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Receives everything, and waits for what has not arrived yet.
///
/// # Errors
/// See [`FdBundleError`].
pub(in crate::server) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<(T, Vec<OwnedFd>), FdBundleError> {
    let socket = socket.as_fd();
    let (head, memory) = receive_packet(socket)?.ok_or(FdBundleError::Missing)?;
    let head: Head = serde_json::from_slice(&head).map_err(io::Error::from)?;
    if head.version != VERSION {
        return Err(FdBundleError::Version { theirs: head.version });
    }
    let memory = memory.into_iter().next().ok_or(FdBundleError::NoDescription)?;
    let description = read_sealed(memory.as_fd(), MAX_DESCRIPTION)?;
    let mut descriptors = Vec::new();
    while descriptors.len() < head.descriptors {
        let (_, batch) = receive_packet(socket)?.ok_or(FdBundleError::Incomplete {
            came: descriptors.len(),
            announced: head.descriptors,
        })?;
        descriptors.extend(batch);
    }
    let description = serde_json::from_slice(&description).map_err(io::Error::from)?;
    Ok((description, descriptors))
}

fn receive_packet(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    match seqpacket::wait_for(socket, PollFlags::IN, RECEIVE_TIMEOUT)? {
        true => seqpacket::receive(socket),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A memfd that nobody can change any more: no reader must be able to alter what the next one reads.
pub(in crate::server) fn sealed_memory(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create(name, flags)?);
    memory.write_all(content)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory.into())
}

/// Reads such a memfd.
///
/// # Errors
/// `InvalidData` if it is not sealed or larger than `most`; the errors of reading.
pub(in crate::server) fn read_sealed(memory: BorrowedFd<'_>, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let is_sealed = rustix::fs::fcntl_get_seals(memory).is_ok_and(|seals| seals.contains(sealed));
    let length = usize::try_from(rustix::fs::fstat(memory)?.st_size).unwrap_or(usize::MAX);
    if !is_sealed || length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Zeroizing::new(vec![0; length]);
    // Does not use the file position, which is shared by all who have the file open.
    File::from(memory.try_clone_to_owned()?).read_exact_at(&mut content, 0)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_descriptors_wait_in_a_socket_that_nobody_reads_yet() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        // The same socket many times: only the number matters, and tests may have few descriptors.
        let many = vec![ours.as_fd(); 3001];
        send(&ours, &"described", &many, Duration::ZERO).unwrap();
        let (description, descriptors) = receive::<String>(&theirs).unwrap();
        assert_eq!((description.as_str(), descriptors.len()), ("described", 3001));
    }

    #[test]
    fn incomplete_bundle_is_refused() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let head = serde_json::to_vec(&Head {
            version: VERSION,
            descriptors: 2,
        })
        .unwrap();
        let memory = sealed_memory("test", b"1").unwrap();
        seqpacket::send(&ours, &head, &[memory.as_fd()]).unwrap();
        seqpacket::send(&ours, b"+", &[memory.as_fd()]).unwrap();
        drop(ours);
        let error = receive::<u32>(&theirs).unwrap_err();
        assert!(
            matches!(error, FdBundleError::Incomplete { came: 1, announced: 2 }),
            "{error}"
        );
    }

    #[test]
    fn bundle_without_its_description_is_not_said_to_be_missing() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        let head = format!(r#"{{"version":{VERSION},"descriptors":0}}"#);
        seqpacket::send(&ours, head.as_bytes(), &[]).unwrap();
        let error = receive::<u32>(&theirs).unwrap_err();
        assert!(matches!(error, FdBundleError::NoDescription), "{error}");
    }

    #[test]
    fn bundle_of_another_version_is_named_as_such() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        seqpacket::send(&ours, br#"{"version":99,"descriptors":0,"more":1}"#, &[]).unwrap();
        let error = receive::<u32>(&theirs).unwrap_err();
        assert!(matches!(error, FdBundleError::Version { theirs: 99 }), "{error}");
    }

    #[test]
    fn what_can_still_be_changed_is_not_read() {
        let open = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(read_sealed(open.as_fd(), 10).is_err());
        let sealed = sealed_memory("test", b"12345").unwrap();
        assert_eq!(**read_sealed(sealed.as_fd(), 5).unwrap(), *b"12345");
        assert!(read_sealed(sealed.as_fd(), 4).is_err());
    }
}
