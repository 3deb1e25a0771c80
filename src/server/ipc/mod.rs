//! Everything that is said to the keeper and by the keeper, the process with privileges.
//!
//! | who | to whom | what | over |
//! |---|---|---|---|
//! | worker | keeper | [`Request`], with a number ([`WorkerMessage`]) | the worker's control connection |
//! | keeper | worker | [`KeeperMessage`], among them the [`Response`] to a request | the same |
//! | worker | keeper | [`Notification`], which stores descriptors | the worker's notification connection |
//! | keeper | service manager | [`Notification`] | the service manager's own socket |
//! | root, or a process of the keeper's user | keeper | [`ControlRequest`] | the control socket ([`control_socket`]) |
//! | keeper | that process | [`ControlReply`] | the same |
//!
//! One message is one packet ([`seqpacket`]). All the descriptors that a process holds are passed on as a bundle
//! ([`fd_bundle`]). The keeper trusts its worker little: limits are fixed, and a message that it does not understand
//! ends the worker.

pub(super) mod control_socket;
pub(super) mod fd_bundle;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(super) mod seqpacket;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::control_socket::ControlListener;
use crate::server::sshd_config::SshdWarning;

/// The worker's message to its keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WorkerMessage {
    /// Returned with the answer.
    pub(super) id: u64,
    pub(super) request: Request,
}

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
    /// To stop, because there was no session for as long as the settings say. Answered by [`Response::Stopping`].
    StopIdle,
    /// A connection to sshd that comes from a client's address.
    ConnectToSshd {
        /// The client's address; port 0 means any port.
        client: SocketAddr,
        /// The local address that the client reached, if it is known.
        reached: Option<IpAddr>,
    },
}

/// The keeper's message to its worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum KeeperMessage {
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

/// The keeper's answers to requests.
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
    /// The keeper stops, and tells the worker so.
    Stopping,
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

/// How a worker is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Another worker follows: leave the sessions to it, in
    /// [`hand_over`](super::worker::keeper_client::KeeperClient::hand_over).
    HandOver,
    /// No worker follows: end the sessions.
    End,
}

/// A message of the sd_notify(3) protocol: the worker sends them to its keeper, and the keeper to its service manager.
/// Only the text; descriptors are sent as ancillary data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notification {
    /// Store the descriptors that come with this. Do not watch them (`FDPOLL=0`): a hang-up is no reason to drop them
    /// here.
    Store { name: String },
    /// Close what is stored under this name.
    Remove { name: String },
    /// Close the descriptor that comes with this once everything that was sent before is done.
    Barrier,
    /// The worker is alive.
    Watchdog,
    /// The worker serves.
    Ready,
    /// The worker stops and touches nothing any more.
    Stopping,
}

/// The most characters in a name: a service manager returns all names in one environment variable.
pub(super) const MAX_NAME: usize = 8;

/// The name of the descriptors with which the keeper tests the service manager's store. The names of those with which
/// the worker tests it begin with it.
pub(super) const TRIAL_NAME: &str = "trial";

/// Name of the descriptor whose removal tells the keeper that the service manager drops stored descriptors. The next
/// keeper takes it for a test descriptor and ignores it.
pub(super) const SENTINEL_NAME: &str = "trialend";

/// Names that the keeper uses with the service manager: for its listening sockets, as
/// [`Protocol`](super::handover::Protocol) is written, and for its sentinel.
const KEEPER_NAMES: [&str; 3] = ["udp", "tcp", SENTINEL_NAME];

/// What another process requests on the keeper's control socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum ControlRequest {
    /// Who are you?
    Identify,
    /// A connection to the worker, to ask about its sessions or to end some of them. Answered by
    /// [`ControlReply::WorkerConnection`].
    ConnectToWorker,
    /// Hand over. Answered by [`ControlReply::Granted`] and a bundle with everything except the worker.
    TakeOver {
        /// The format version of bundles that the other process understands.
        version: u32,
    },
    /// The handover was understood. Answered by a bundle with the worker; after that the keeper is not in charge any
    /// more.
    Commit,
}

/// The keeper's replies. Newer versions only add to them, and to [`ControlRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum ControlReply {
    Identity(KeeperInfo),
    /// A connection to the worker comes with this reply.
    WorkerConnection,
    /// There is no worker, or it accepts no more connections.
    NoWorker,
    Granted,
    Refused(TakeoverRefusal),
}

/// What a keeper says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperInfo {
    /// The keeper's process id.
    pub keeper: u32,
    /// The worker's process id, if there is a worker.
    pub worker: Option<u32>,
    /// The keeper's version of bowline.
    pub version: String,
    /// Where it listens for QUIC.
    pub addresses: Vec<SocketAddr>,
    /// Where it listens for TLS.
    #[serde(default)]
    pub tls_addresses: Vec<SocketAddr>,
    /// Which address of a client sshd sees: `real`, `real-ipv4`, `real-ipv6` or `loopback`.
    #[serde(default)]
    pub client_address: String,
    /// How long this keeper has been running.
    pub age: Duration,
    /// Whether a service manager runs it.
    pub managed: bool,
    /// Which descriptors the service manager should store but does not.
    #[serde(default)]
    pub store_shortage: Option<StoreShortage>,
    /// The network namespace of the addresses.
    pub(super) network: u64,
}

/// Descriptors that are missing in the service manager's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreShortage {
    /// The number of descriptors that should be stored.
    pub wanted: usize,
    /// The number that is stored.
    pub kept: usize,
    /// The capacity of the store now.
    pub most: usize,
}

/// Why a keeper refuses to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TakeoverRefusal {
    /// It writes bundles of another format version.
    Version {
        /// Its version.
        theirs: u32,
    },
    /// A service manager runs it, and would take its end for a failure.
    Managed,
    /// It is about to end.
    Ending,
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

impl Notification {
    /// The message's text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Store { name } => format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"),
            Self::Remove { name } => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
            Self::Barrier => "BARRIER=1".to_owned(),
            Self::Watchdog => "WATCHDOG=1".to_owned(),
            Self::Ready => "READY=1".to_owned(),
            Self::Stopping => "STOPPING=1".to_owned(),
        }
    }

    /// Parses a message; `None` if it is not one of these, or has an invalid name.
    pub(super) fn of(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
        };
        let says = |key: &str| value(key).is_some_and(|value| value == "1");
        let name = || value("FDNAME").filter(|name| is_name(name));
        match () {
            () if says("FDSTORE") => name().map(|name| Self::Store { name }),
            () if says("FDSTOREREMOVE") => name().map(|name| Self::Remove { name }),
            () if says("BARRIER") => Some(Self::Barrier),
            () if says("WATCHDOG") => Some(Self::Watchdog),
            () if says("READY") => Some(Self::Ready),
            () if says("STOPPING") => Some(Self::Stopping),
            () => None,
        }
    }
}

/// Whether a descriptor can be stored under this name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'))
}

/// Whether a worker may store a descriptor under this name: some names are reserved for the keeper.
pub(super) fn is_worker_name(name: &str) -> bool {
    is_name(name) && !KEEPER_NAMES.contains(&name)
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

    #[test]
    fn every_notification_is_understood_as_it_was_meant() {
        let name = || "1zz".to_owned();
        for notification in [
            Notification::Store { name: name() },
            Notification::Remove { name: name() },
            Notification::Barrier,
            Notification::Watchdog,
            Notification::Ready,
            Notification::Stopping,
        ] {
            assert_eq!(Notification::of(notification.text().as_bytes()), Some(notification));
        }
    }

    #[test]
    fn names_that_would_not_fit_an_environment_variable_are_none() {
        assert!(!is_name("a\n"));
        for name in ["", "123456789", "A", "a:b", "é"] {
            assert!(!is_name(name), "{name}");
            assert_eq!(Notification::of(format!("FDSTORE=1\nFDNAME={name}").as_bytes()), None);
        }
        assert!(is_name("closed") && is_name("zzzzzzzz"));
    }

    #[test]
    fn names_of_listening_sockets_and_the_sentinel_are_not_for_workers() {
        use crate::server::handover::Protocol;
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            assert!(!is_worker_name(&protocol.to_string()), "{protocol}");
        }
        assert!(!is_worker_name(SENTINEL_NAME));
        for name in ["closed", "lock", "0", "trial01a"] {
            assert!(is_worker_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_notification_is_passed_over() {
        for text in [&b""[..], b"STATUS=fine", b"READY=0", b"\xff", b"FDSTORE=1"] {
            assert_eq!(Notification::of(text), None);
        }
    }
}
