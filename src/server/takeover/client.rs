//! The client side of a takeover: finds running keepers, and takes over from one of them.

use std::{
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::IoSliceMut,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, UCred, sockopt},
};
use tracing::{debug, warn};

use crate::server::{
    handover::{Handover, HandoverError, RunningWorker},
    ipc::{
        ControlReply, ControlRequest, KeeperInfo, TakeoverRefusal,
        control_socket::{connect, socket_files},
        fd_bundle, seqpacket,
    },
};
use crate::{clock, fault, local_socket};

/// A running keeper answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The same for status, which can do without an answer.
const WORKER_CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// A running keeper.
#[derive(Debug)]
pub struct RunningKeeper {
    connection: OwnedFd,
    who: KeeperInfo,
    /// The user who started it.
    owner: u32,
    /// The user that it runs as.
    user: u32,
}

/// Why a takeover failed. The running keeper continues undisturbed.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// It belongs to another user.
    #[error("it runs as user id {theirs}, not {ours}")]
    OtherUser {
        /// The user id of the running keeper.
        theirs: u32,
        /// The user id of this process.
        ours: u32,
    },
    /// It refused.
    #[error("it refuses to hand over")]
    Refused(TakeoverRefusal),
    /// Its handover is not understood.
    #[error("its handover is not understood")]
    Handover(#[source] HandoverError),
    /// It hands over a process that is not its worker.
    #[error("it hands over process {pid}, which is not its worker")]
    Foreign {
        /// The process.
        pid: u32,
    },
    /// Its reply is of another kind.
    #[error("it answered with an unexpected message")]
    UnexpectedReply,
    /// It ended or aborted the handover. It may be asked again.
    #[error("it stopped answering during the handover")]
    Lost(#[source] io::Error),
}

/// The keepers whose sockets are in a folder.
#[derive(Debug, Default)]
pub struct RunningKeepers {
    /// Those that answered.
    pub responding: Vec<RunningKeeper>,
    /// Sockets that a process has open but does not serve.
    pub unresponsive: Vec<PathBuf>,
}

/// Asks all keepers in a folder who they are. Returns after `within`, or as soon as one of them is `enough`.
pub fn find_running_keepers(folder: &Path, within: Duration, enough: impl Fn(&KeeperInfo) -> bool) -> RunningKeepers {
    let mut found = RunningKeepers::default();
    let mut asked = Vec::new();
    for file in socket_files(folder) {
        match ask_who(&file) {
            Ok(connection) => asked.push((file, connection)),
            // The queue of this socket is full because nobody accepts connections.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => found.unresponsive.push(file),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => warn!(file = %file.display(), %error, "cannot ask a running keeper who it is"),
        }
    }
    let end = clock::now() + within;
    while !asked.is_empty() && !found.responding.iter().any(|keeper| enough(&keeper.who)) {
        match wait_for_any(&asked, end) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                debug!(%error, "cannot wait for the answers of running keepers");
                break;
            }
        }
        for (file, connection) in std::mem::take(&mut asked) {
            match receive(&connection) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => asked.push((file, connection)),
                received => found.responding.extend(
                    received
                        .ok()
                        .and_then(|received| RunningKeeper::of(connection, received)),
                ),
            }
        }
    }
    found.unresponsive.extend(asked.into_iter().map(|(file, _)| file));
    found
}

impl RunningKeeper {
    fn of(connection: OwnedFd, (tell, sender): (ControlReply, Option<UCred>)) -> Option<Self> {
        let (ControlReply::Identity(who), Some(sender)) = (tell, sender) else {
            return None;
        };
        let owner = local_socket::peer(&connection).ok()?.user.as_raw();
        Some(Self {
            // The kernel's process id: its own may be of another pid namespace.
            who: KeeperInfo {
                keeper: sender.pid.as_raw_nonzero().get().unsigned_abs(),
                ..who
            },
            owner,
            user: sender.uid.as_raw(),
            connection,
        })
    }

    /// What it says about itself.
    pub fn info(&self) -> &KeeperInfo {
        &self.who
    }

    /// A connection to its worker, to ask about sessions: see [`observe`](crate::observe).
    ///
    /// # Errors
    /// `NotConnected`: there is no worker. `TimedOut`, or an error of its version, which may not know this request.
    pub(crate) fn connect_to_worker(&self) -> io::Result<OwnedFd> {
        // The buffer has room for a descriptor only, not for credentials.
        sockopt::set_socket_passcred(&self.connection, false)?;
        send(&self.connection, &ControlRequest::ConnectToWorker)?;
        if !seqpacket::wait_for(self.connection.as_fd(), PollFlags::IN, WORKER_CONNECTION_TIMEOUT)? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the keeper does not answer"));
        }
        let (text, descriptors) = seqpacket::receive(&self.connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match (serde_json::from_slice(&text)?, descriptors.into_iter().next()) {
            (ControlReply::WorkerConnection, Some(connection)) => Ok(connection),
            (ControlReply::NoWorker, _) => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "there is none, or it accepts no more connections",
            )),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the keeper's answer is not understood",
            )),
        }
    }

    /// Asks it to hand over. Until [`Offer::accept`] it continues if anything fails, including this process.
    ///
    /// # Errors
    /// See [`TakeoverError`].
    pub fn request_handover(self) -> Result<Offer, TakeoverError> {
        let ours = rustix::process::geteuid().as_raw();
        // If root started a keeper and its worker started the next one, that one has only the worker's rights.
        if self.owner != ours || (self.user != ours && ours != 0) {
            let theirs = if self.owner != ours { self.owner } else { self.user };
            return Err(TakeoverError::OtherUser { theirs, ours });
        }
        sockopt::set_socket_passcred(&self.connection, false).map_err(|error| TakeoverError::Lost(error.into()))?;
        send(
            &self.connection,
            &ControlRequest::TakeOver {
                version: fd_bundle::VERSION,
            },
        )
        .map_err(TakeoverError::Lost)?;
        fault::pass("asked");
        match wait_and_receive(&self.connection).map_err(TakeoverError::Lost)? {
            ControlReply::Granted => {}
            ControlReply::Refused(refusal) => return Err(TakeoverError::Refused(refusal)),
            ControlReply::Identity(_) | ControlReply::WorkerConnection | ControlReply::NoWorker => {
                return Err(TakeoverError::UnexpectedReply);
            }
        }
        let mut handover = Handover::receive(&self.connection).map_err(not_received)?;
        fault::pass("offered");
        let stranger = (self.user != ours).then_some(self.user);
        if stranger.is_some() {
            handover.drop_privileged_parts();
        }
        Ok(Offer {
            connection: self.connection,
            handover,
            stranger,
        })
    }
}

/// Everything that a keeper holds except its worker. The other keeper is still in charge.
#[derive(Debug)]
pub struct Offer {
    connection: OwnedFd,
    handover: Handover,
    /// The user that it runs as, if that is another than this process's user.
    stranger: Option<u32>,
}

impl Offer {
    /// What would be taken over.
    pub fn handover(&self) -> &Handover {
        &self.handover
    }

    /// Takes over: from now on this process is the keeper.
    ///
    /// # Errors
    /// See [`TakeoverError`]. `Foreign` only if a compromised worker has started that keeper; there is no keeper then,
    /// and the worker starts another one.
    pub fn accept(mut self) -> Result<Handover, TakeoverError> {
        send(&self.connection, &ControlRequest::Commit).map_err(TakeoverError::Lost)?;
        fault::pass("said-ready");
        self.handover.receive_worker(&self.connection).map_err(not_received)?;
        fault::pass("taken-over");
        if let (Some(user), Some(worker)) = (self.stranger, &self.handover.worker)
            && !is_process_of(worker, user)
        {
            return Err(TakeoverError::Foreign { pid: worker.pid });
        }
        Ok(self.handover)
    }
}

fn not_received(error: HandoverError) -> TakeoverError {
    match error {
        HandoverError::NotGiven | HandoverError::NotSent => TakeoverError::Lost(io::ErrorKind::UnexpectedEof.into()),
        HandoverError::Io(error) => TakeoverError::Lost(error),
        error => TakeoverError::Handover(error),
    }
}

/// Whether a pidfd belongs to the process with this pid, and that process to this user. Otherwise this process must
/// not end it with its own rights.
fn is_process_of(worker: &RunningWorker, user: u32) -> bool {
    let field = |path: String, name: &str| -> Option<u32> {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let watched = field(format!("/proc/self/fdinfo/{}", worker.process.as_raw_fd()), "Pid:");
    let real = field(format!("/proc/{}/status", worker.pid), "Uid:");
    // Checked last: if the process is still running, the pid did not belong to another one before.
    let lives = !seqpacket::wait_for(worker.process.as_fd(), PollFlags::IN, Duration::ZERO).unwrap_or(true);
    // A process that has ended cannot be harmed, and its pid says nothing any more.
    !lives || (watched == Some(worker.pid) && real == Some(user))
}

fn ask_who(file: &Path) -> io::Result<OwnedFd> {
    let connection = connect(file)?;
    send(&connection, &ControlRequest::Identify)?;
    Ok(connection)
}

fn send(connection: &OwnedFd, ask: &ControlRequest) -> io::Result<()> {
    seqpacket::send(connection, &serde_json::to_vec(ask)?, &[])
}

fn wait_and_receive(connection: &OwnedFd) -> io::Result<ControlReply> {
    match seqpacket::wait_for(connection.as_fd(), PollFlags::IN, ANSWER_TIMEOUT)? {
        true => Ok(receive(connection)?.0),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Receives a reply, with the sender's credentials if the kernel was asked for them.
fn receive(connection: &OwnedFd) -> io::Result<(ControlReply, Option<UCred>)> {
    if local_socket::peer(connection)?.pid == 0 {
        // rustix takes such credentials for impossible.
        return Err(io::Error::other("the keeper is in another process id namespace"));
    }
    let mut bytes = vec![0; seqpacket::MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(connection, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
    })?;
    let sender = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender),
        _ => None,
    });
    match received.bytes {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => Ok((serde_json::from_slice(&bytes[..length])?, sender)),
    }
}

/// Whether one of them can be read or has hung up before `end`.
fn wait_for_any(connections: &[(PathBuf, OwnedFd)], end: Instant) -> io::Result<bool> {
    let wait = end.saturating_duration_since(clock::now());
    let wait = Timespec {
        tv_sec: wait.as_secs() as _,
        tv_nsec: wait.subsec_nanos() as _,
    };
    let mut fds: Vec<_> = connections
        .iter()
        .map(|(_, connection)| PollFd::new(connection, PollFlags::IN))
        .collect();
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&wait)))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, getpid, getppid, pidfd_open};

    fn worker(pid: u32, watched: Pid) -> RunningWorker {
        let (control, notify) = seqpacket::pair().unwrap();
        RunningWorker {
            pid,
            asked: None,
            process: pidfd_open(watched, PidfdFlags::empty()).unwrap(),
            control,
            notify,
        }
    }

    #[test]
    fn process_is_known_by_its_descriptor_and_its_user() {
        let (own, user) = (std::process::id(), rustix::process::getuid().as_raw());
        assert!(is_process_of(&worker(own, getpid()), user));
        // Of another user, and of another process.
        assert!(!is_process_of(&worker(own, getpid()), user + 1));
        assert!(!is_process_of(&worker(own, getppid().unwrap()), user));
    }

    #[test]
    fn one_that_hands_over_nothing_is_lost_and_may_be_asked_again() {
        let (ours, theirs) = seqpacket::pair().unwrap();
        drop(theirs);
        let keeper = RunningKeeper {
            connection: ours,
            who: KeeperInfo {
                keeper: 1,
                worker: None,
                version: String::new(),
                addresses: Vec::new(),
                tls_addresses: Vec::new(),
                client_address: String::new(),
                age: Duration::ZERO,
                managed: false,
                store_shortage: None,
                network: 0,
            },
            owner: rustix::process::geteuid().as_raw(),
            user: rustix::process::geteuid().as_raw(),
        };
        let error = keeper.request_handover().unwrap_err();
        assert!(matches!(error, TakeoverError::Lost(_)), "{error}");
    }
}
