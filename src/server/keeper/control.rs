//! What keeper and worker ask and tell each other: one message per packet.
//!
//! The keeper trusts its worker little: fixed limits, and whatever is not understood ends the worker. What is kept for
//! the worker travels beside, on a connection of its own ([`Notice`](super::notice::Notice)).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::packet;
use crate::server::sshd_config::SshdWarning;

/// What a worker may ask of its keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Whether anything may be opened while sshd sees all clients on loopback.
    MayOpen,
    /// What in sshd's settings ends or hinders sessions of this user.
    SshdLimits {
        /// Who.
        user: String,
        /// Where sshd is.
        local_address: IpAddr,
        /// sshd's port.
        local_port: u16,
    },
    /// The file of keys that decides who may open, opened anew.
    OpenKeyFile,
    /// A connection to sshd that comes from a client's address.
    ConnectToSshd {
        /// Where the client is; with port 0 from any port.
        client: SocketAddr,
        /// The address of this machine that the client reached, if that is known.
        reached: Option<IpAddr>,
    },
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Whether anything may be opened.
    MayOpen {
        /// Why not; the keeper has logged what is to be done.
        obstacle: Option<String>,
    },
    /// What in sshd's settings ends or hinders sessions.
    SshdLimits {
        /// The worst first.
        limits: Vec<SshdWarning>,
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
    /// The connection is being made; its descriptor comes with the answer.
    Connecting {
        /// Whether it goes to the address that the client reached.
        is_reached: bool,
    },
    /// There is no such connection.
    NotConnected(NotConnected),
}

/// Why the keeper makes no connection from a client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotConnected {
    /// The address is this machine's own: the worker may connect from it by itself.
    OwnAddress,
    /// No client can be there.
    NoClient,
    /// sshd does not listen where such a client could be connected to.
    NotListening,
    /// sshd does not listen where the client came to, and has rules for which that may matter.
    OtherAddress,
    /// The keeper may not, or not any more.
    NotAllowed,
    /// The kernel refused.
    Failed {
        /// What it said.
        errno: i32,
    },
}

/// An answer, and what comes with it.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub response: Response,
    /// Of [`Response::KeyFile`] and [`Response::Connecting`].
    pub descriptor: Option<OwnedFd>,
}

impl From<Response> for Reply {
    fn from(response: Response) -> Self {
        let descriptor = None;
        Self { response, descriptor }
    }
}

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
    /// Somebody who may ask about sessions; the connection comes with this.
    Visitor,
    /// End gracefully.
    Stop(Stop),
    /// The companion was started anew; what watches its process comes with this.
    Companion {
        /// Its process id.
        pid: u32,
    },
}

/// How a worker is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Another worker follows: leave the sessions to it, in [`hand_over`](super::KeeperClient::hand_over).
    HandOver,
    /// There will be none: end the sessions.
    End,
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
    packet::send(fd, &serde_json::to_vec(message)?, descriptors)
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
    match packet::receive(fd)? {
        Some((bytes, descriptors)) => Ok(Some((serde_json::from_slice(&bytes)?, descriptors))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::SendFlags;

    use super::packet::{MOST_BYTES, pair};
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
