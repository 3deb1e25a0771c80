//! Any number of descriptors and a description of them, in one go.
//!
//! The description travels as a file in memory, so that a parcel of thousands fits the buffer of a socket that nobody
//! reads yet: a keeper sends one to what it becomes by exec.

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

use super::packet::{self, MOST_DESCRIPTORS};

/// Of keeper and worker together. Differs between the ends only when the program on disk was replaced.
pub(super) const VERSION: u32 = 3;

/// Most bytes of a description. A name and its role take under 100 bytes.
const MOST_DESCRIPTION: usize = 16 * 1024 * 1024;

/// Whoever sends is at it already; longer than this means that it died or hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that are asked for as send buffer: 64 for each packet's descriptors are not counted there, its frame is.
const BUFFER: usize = 1 << 20;

/// The first packet; with it comes the description.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    descriptors: usize,
}

/// Why a parcel could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ParcelError {
    /// Nobody sends one here.
    #[error("there is nothing to take over")]
    Nothing,
    /// Another version's.
    #[error("it is of version {theirs}, this program understands {VERSION}")]
    Version {
        /// The sender's.
        theirs: u32,
    },
    /// It ends before its end.
    #[error("only {came} of {announced} descriptors came")]
    Torn {
        /// How many there are.
        came: usize,
        /// How many there should be.
        announced: usize,
    },
    /// A system call failed, or what came is none.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Sends everything. Waits for room up to `patience`.
///
/// # Errors
/// `TimedOut`; what the system calls failed with. Part of it may have been sent then.
pub(super) fn send(
    socket: impl AsFd,
    description: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
    patience: Duration,
) -> io::Result<()> {
    let socket = socket.as_fd();
    // Without privileges the kernel gives less, which does for most.
    if rustix::net::sockopt::set_socket_send_buffer_size_force(socket, BUFFER).is_err() {
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(socket, BUFFER);
    }
    let memory = sealed_memory("bowline-estate", &Zeroizing::new(serde_json::to_vec(description)?))?;
    let head = Head {
        version: VERSION,
        descriptors: descriptors.len(),
    };
    send_packet(socket, &serde_json::to_vec(&head)?, &[memory.as_fd()], patience)?;
    for batch in descriptors.chunks(MOST_DESCRIPTORS) {
        send_packet(socket, b"+", batch, patience)?;
    }
    Ok(())
}

fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
    patience: Duration,
) -> io::Result<()> {
    loop {
        match packet::send(socket, bytes, descriptors) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
        if !packet::wait_for(socket, PollFlags::OUT, patience)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Takes everything, waiting for what has not come yet.
///
/// # Errors
/// See [`ParcelError`].
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> Result<(T, Vec<OwnedFd>), ParcelError> {
    let socket = socket.as_fd();
    let (head, memory) = receive_packet(socket)?.ok_or(ParcelError::Nothing)?;
    let head: Head = serde_json::from_slice(&head).map_err(io::Error::from)?;
    if head.version != VERSION {
        return Err(ParcelError::Version { theirs: head.version });
    }
    let memory = memory.into_iter().next().ok_or(ParcelError::Nothing)?;
    let description = read_sealed(memory.as_fd(), MOST_DESCRIPTION)?;
    let mut descriptors = Vec::new();
    while descriptors.len() < head.descriptors {
        let (_, batch) = receive_packet(socket)?.ok_or(ParcelError::Torn {
            came: descriptors.len(),
            announced: head.descriptors,
        })?;
        descriptors.extend(batch);
    }
    let description = serde_json::from_slice(&description).map_err(io::Error::from)?;
    Ok((description, descriptors))
}

fn receive_packet(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    match packet::wait_for(socket, PollFlags::IN, PATIENCE)? {
        true => packet::receive(socket),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A file in memory that nobody can change any more: one reader must not alter what the next one reads.
pub(super) fn sealed_memory(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut memory = File::from(rustix::fs::memfd_create(name, flags)?);
    memory.write_all(content)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&memory, seals)?;
    Ok(memory.into())
}

/// Reads such a file.
///
/// # Errors
/// `InvalidData` for what can still be changed or is larger than `most`; what reading failed with.
pub(super) fn read_sealed(memory: BorrowedFd<'_>, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let is_sealed = rustix::fs::fcntl_get_seals(memory).is_ok_and(|seals| seals.contains(sealed));
    let length = usize::try_from(rustix::fs::fstat(memory)?.st_size).unwrap_or(usize::MAX);
    if !is_sealed || length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut content = Zeroizing::new(vec![0; length]);
    // Not by the file's position: that is shared with everyone who has it.
    File::from(memory.try_clone_to_owned()?).read_exact_at(&mut content, 0)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_of_descriptors_wait_in_a_socket_that_nobody_reads_yet() {
        let (ours, theirs) = packet::pair().unwrap();
        // All of one socket: it is the number that counts, and tests have few descriptors to give.
        let many = vec![ours.as_fd(); 3001];
        send(&ours, &"described", &many, Duration::ZERO).unwrap();
        let (description, descriptors) = receive::<String>(&theirs).unwrap();
        assert_eq!((description.as_str(), descriptors.len()), ("described", 3001));
    }

    #[test]
    fn torn_parcel_is_not_taken() {
        let (ours, theirs) = packet::pair().unwrap();
        let head = serde_json::to_vec(&Head {
            version: VERSION,
            descriptors: 2,
        })
        .unwrap();
        let memory = sealed_memory("test", b"1").unwrap();
        packet::send(&ours, &head, &[memory.as_fd()]).unwrap();
        packet::send(&ours, b"+", &[memory.as_fd()]).unwrap();
        drop(ours);
        let error = receive::<u32>(&theirs).unwrap_err();
        assert!(matches!(error, ParcelError::Torn { came: 1, announced: 2 }), "{error}");
    }

    #[test]
    fn parcel_of_another_version_is_named_as_such() {
        let (ours, theirs) = packet::pair().unwrap();
        packet::send(&ours, br#"{"version":99,"descriptors":0,"more":1}"#, &[]).unwrap();
        let error = receive::<u32>(&theirs).unwrap_err();
        assert!(matches!(error, ParcelError::Version { theirs: 99 }), "{error}");
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
