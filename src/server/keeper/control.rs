//! What keeper and worker say to each other: one message per packet of a Unix socket.
//!
//! The keeper trusts its worker little: fixed limits, and whatever is not understood ends the worker. Descriptors for
//! the vault will travel here as well.

use std::{
    io,
    mem::MaybeUninit,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::{IoSlice, IoSliceMut},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::MOST_LISTENERS;

/// Most bytes in a message. A list of differences has some hundred; a socket's buffer takes several of these.
const MOST_BYTES: usize = 32 * 1024;

/// The settings and the listening sockets.
const MOST_DESCRIPTORS: usize = MOST_LISTENERS + 1;

/// What a worker may ask of its keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Whether sshd would treat this user from the real address other than from loopback.
    LoopbackMatch {
        /// Who wants to log in.
        user: String,
        /// Where the client is.
        real_address: IpAddr,
        /// The address at which the client reached us.
        local_address: IpAddr,
        /// sshd's port.
        local_port: u16,
    },
    /// The file of keys that decides who may open, opened anew.
    OpenKeyFile,
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Where sshd's settings differ; empty if they do not.
    LoopbackMatch {
        /// In sshd's order.
        differences: Vec<Difference>,
    },
    /// The file is open; its descriptor comes with the answer.
    KeyFile,
    /// The file could not be opened.
    CannotOpen {
        /// What the system said.
        errno: i32,
    },
    /// sshd could not be asked, or there is no such file. The keeper has logged why.
    Unavailable,
}

/// An answer, and what comes with it.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub response: Response,
    /// Of [`Response::KeyFile`].
    pub descriptor: Option<OwnedFd>,
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        let descriptor = None;
        Self { response, descriptor }
    }
}

/// One setting that sshd has otherwise for the real address than for loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The keyword, in lower case as `sshd -T` prints it.
    pub keyword: String,
    /// Its value for the real address; empty if unset.
    pub real: String,
    /// Its value for loopback; empty if unset.
    pub loopback: String,
    /// The `Match` line that makes the difference, where it is known.
    pub match_line: Option<String>,
}

/// The first message to a worker; with it come the settings and the listening sockets.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub(super) version: u32,
    /// Whether the worker must find itself without root's privileges.
    pub(super) unprivileged: bool,
}

/// Of this very protocol. Differs only when the program was replaced between fork and exec.
pub(super) const VERSION: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ToKeeper {
    pub(super) id: u64,
    pub(super) request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromKeeper {
    Answer {
        /// Of the request.
        id: u64,
        response: Response,
    },
    /// End gracefully: soon there is another worker, or none.
    Stop,
}

/// The two ends of a control socket.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Whether it can be the worker's end of a control socket.
pub(super) fn is_control(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_domain(fd).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && rustix::net::sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::SEQPACKET)
}

/// Sends a message, without waiting for room.
///
/// # Errors
/// `WouldBlock`, `BrokenPipe`, `InvalidInput` if it is longer than the receiver would take.
pub(super) fn send(fd: impl AsFd, message: &impl Serialize) -> io::Result<()> {
    send_with(fd, message, &[])
}

/// Sends a message with descriptors.
pub(super) fn send_with(fd: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MOST_BYTES || descriptors.len() > MOST_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&fd, &[IoSlice::new(&bytes)], &mut ancillary, flags))?;
    Ok(())
}

/// Takes the next message, without waiting for one; `None` at the end.
///
/// # Errors
/// `WouldBlock`, `InvalidData` for what is too long, not understood, or brings descriptors.
pub(super) fn receive<T: DeserializeOwned>(fd: impl AsFd) -> io::Result<Option<T>> {
    match receive_with(fd)? {
        Some((message, descriptors)) if descriptors.is_empty() => Ok(Some(message)),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
        None => Ok(None),
    }
}

/// Takes the next message with its descriptors.
pub(super) fn receive_with<T: DeserializeOwned>(fd: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MOST_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&fd, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
    })?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = rights.flatten().collect();
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // No message of ours is empty.
    if received.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_too_long_for_its_receiver_is_refused_by_its_sender() {
        let (left, _right) = pair().unwrap();
        let error = send(&left, &"x".repeat(MOST_BYTES)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn garbage_an_overlong_packet_and_unasked_descriptors_are_invalid() {
        let (left, right) = pair().unwrap();
        rustix::net::send(&left, b"garbage", SendFlags::empty()).unwrap();
        rustix::net::send(&left, &[b'1'; MOST_BYTES + 1], SendFlags::empty()).unwrap();
        send_with(&left, &1, &[left.as_fd()]).unwrap();
        for _ in 0..3 {
            assert_eq!(receive::<u64>(&right).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(receive::<u64>(&right).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert_eq!(receive::<u64>(&right).unwrap(), None);
    }
}
