//! Messages between keeper and worker: one message in each packet.
//!
//! The keeper trusts its worker little: limits are fixed, and a message that it does not understand ends the worker.
//! Descriptors that the worker stores use a connection of their own
//! ([`Notification`](super::sd_notify::Notification)).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::seqpacket;
use crate::server::sshd_config::SshdWarning;

/// What a worker may request from its keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Whether sessions may be opened while sshd sees all clients on loopback.
    MayOpen,
    /// Which of sshd's settings end or hinder sessions of this user.
    SshdLimits {
        /// The user name.
        user: String,
        /// sshd's address.
        local_address: IpAddr,
        /// sshd's port.
        local_port: u16,
    },
    /// The file of authorized keys, opened again.
    OpenKeyFile,
    /// A connection to sshd that comes from a client's address.
    ConnectToSshd {
        /// The client's address; port 0 means any port.
        client: SocketAddr,
        /// The local address that the client reached, if it is known.
        reached: Option<IpAddr>,
    },
}

/// The keeper's answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Whether sessions may be opened.
    MayOpen {
        /// Why not; the keeper has logged what to do.
        obstacle: Option<String>,
    },
    /// The settings of sshd that end or hinder sessions.
    SshdLimits {
        /// The worst first.
        limits: Vec<SshdWarning>,
    },
    /// The file is open; its descriptor comes with the answer.
    KeyFile,
    /// The file could not be opened.
    CannotOpen {
        /// The error number of the system call.
        errno: i32,
    },
    /// sshd could not be asked, or there is no such file. The keeper has logged why.
    Unavailable,
    /// A connection is being opened; its descriptor comes with the answer.
    Connecting {
        /// Whether it goes to the address that the client reached.
        is_reached: bool,
    },
    /// No connection was opened.
    NotConnected(NotConnected),
}

/// Why the keeper opens no connection from a client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotConnected {
    /// The address belongs to this machine: the worker may connect from it itself.
    OwnAddress,
    /// No client can have this address.
    NoClient,
    /// sshd does not listen at an address that a client of this family could be connected to.
    NotListening,
    /// sshd does not listen at the address that the client reached, and has rules that may depend on that address.
    OtherAddress,
    /// The keeper has not, or no longer, the right to do so.
    NotAllowed,
    /// A system call failed.
    Failed {
        /// Its error number.
        errno: i32,
    },
}

/// An answer and its descriptor.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub response: Response,
    /// With [`Response::KeyFile`] and [`Response::Connecting`].
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
        /// The id of the request.
        id: u64,
        response: Response,
    },
    /// A client of the status protocol; its connection comes with this message.
    StatusClient,
    /// Stop gracefully.
    Stop(Stop),
    /// The sidecar was started again; its pidfd comes with this message.
    Sidecar {
        /// Its process id.
        pid: u32,
    },
}

/// How a worker is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Another worker follows: leave the sessions to it, in [`hand_over`](super::KeeperClient::hand_over).
    HandOver,
    /// No worker follows: end the sessions.
    End,
}

/// Sends a message. Does not block.
///
/// # Errors
/// `WouldBlock`, `BrokenPipe`, `InvalidInput` if the message is longer than the receiver accepts.
pub(super) fn send(fd: impl AsFd, message: &impl Serialize) -> io::Result<()> {
    send_with(fd, message, &[])
}

/// Sends a message with descriptors.
pub(super) fn send_with(fd: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    seqpacket::send(fd, &serde_json::to_vec(message)?, descriptors)
}

/// Receives the next message; `None` at the end. Does not block.
///
/// # Errors
/// `WouldBlock`; `InvalidData` if the message is too long, is not understood or comes with descriptors.
pub(super) fn receive<T: DeserializeOwned>(fd: impl AsFd) -> io::Result<Option<T>> {
    match receive_with(fd)? {
        Some((message, descriptors)) if descriptors.is_empty() => Ok(Some(message)),
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
        None => Ok(None),
    }
}

/// Receives the next message with its descriptors.
pub(super) fn receive_with<T: DeserializeOwned>(fd: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    match seqpacket::receive(fd)? {
        Some((bytes, descriptors)) => Ok(Some((serde_json::from_slice(&bytes)?, descriptors))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::SendFlags;

    use super::seqpacket::{MAX_BYTES, pair};
    use super::*;

    #[test]
    fn message_too_long_for_its_receiver_is_refused_by_its_sender() {
        let (left, _right) = pair().unwrap();
        let error = send(&left, &"x".repeat(MAX_BYTES)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn garbage_an_overlong_packet_and_unasked_descriptors_are_invalid() {
        let (left, right) = pair().unwrap();
        rustix::net::send(&left, b"garbage", SendFlags::empty()).unwrap();
        rustix::net::send(&left, &[b'1'; MAX_BYTES + 1], SendFlags::empty()).unwrap();
        send_with(&left, &1, &[left.as_fd()]).unwrap();
        for _ in 0..3 {
            assert_eq!(receive::<u64>(&right).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(receive::<u64>(&right).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert_eq!(receive::<u64>(&right).unwrap(), None);
    }
}
