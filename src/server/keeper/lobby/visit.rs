//! The asker's side: finds out who is running, and takes over from one of them.

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

use super::{
    super::{
        estate::{Estate, EstateError, RunningWorker},
        packet, parcel,
    },
    door::{doors, knock},
    words::{Ask, Refusal, Tell, Who},
};
use crate::{clock, fault};

/// A keeper that lives answers at once.
const ANSWER: Duration = Duration::from_secs(5);

/// The same where nothing depends on it.
const INTRODUCTION: Duration = Duration::from_secs(1);

/// A running keeper.
#[derive(Debug)]
pub struct Neighbour {
    connection: OwnedFd,
    who: Who,
    /// The user who began it.
    owner: u32,
    /// The user whom it runs as.
    user: u32,
}

/// Why there is nothing to go on with. Whoever was asked is undisturbed.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// It belongs to somebody else.
    #[error("it runs as the user with id {theirs}, not {ours}")]
    OtherUser {
        /// The running one's.
        theirs: u32,
        /// This process's.
        ours: u32,
    },
    /// It said no.
    #[error("it does not make way")]
    Refused(Refusal),
    /// What it hands over is not understood.
    #[error("what it hands over is not understood")]
    Estate(#[source] EstateError),
    /// It hands over a process that is none of its own.
    #[error("it hands over process {pid}, which is not its worker")]
    Foreign {
        /// The process.
        pid: u32,
    },
    /// It went away or went on by itself; it may be asked again.
    #[error("it does not answer any more")]
    Lost(#[source] io::Error),
}

/// Who is behind the doors of a folder.
#[derive(Debug, Default)]
pub struct Neighbours {
    /// Those who answer.
    pub there: Vec<Neighbour>,
    /// Doors that somebody holds open who does not.
    pub silent: Vec<PathBuf>,
}

/// Asks everybody in a folder who they are: those who answer within some time, or before one of them is `enough`.
pub fn neighbours(folder: &Path, within: Duration, enough: impl Fn(&Who) -> bool) -> Neighbours {
    let mut found = Neighbours::default();
    let mut asked = Vec::new();
    for door in doors(folder) {
        match ask_who(&door) {
            Ok(connection) => asked.push((door, connection)),
            // Nobody lets anybody in, the queue is full.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => found.silent.push(door),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => warn!(door = %door.display(), %error, "cannot ask who is there"),
        }
    }
    let end = clock::now() + within;
    while !asked.is_empty() && !found.there.iter().any(|neighbour| enough(&neighbour.who)) {
        match wait_for_any(&asked, end) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                debug!(%error, "cannot wait for answers");
                break;
            }
        }
        for (door, connection) in std::mem::take(&mut asked) {
            match hear(&connection) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => asked.push((door, connection)),
                heard => found
                    .there
                    .extend(heard.ok().and_then(|heard| Neighbour::of(connection, heard))),
            }
        }
    }
    found.silent.extend(asked.into_iter().map(|(door, _)| door));
    found
}

impl Neighbour {
    fn of(connection: OwnedFd, (tell, sender): (Tell, Option<UCred>)) -> Option<Self> {
        let (Tell::Here(who), Some(sender)) = (tell, sender) else {
            return None;
        };
        let owner = sockopt::socket_peercred(&connection).ok()?.uid.as_raw();
        Some(Self {
            // Its own word may be of another namespace of process ids.
            who: Who {
                keeper: sender.pid.as_raw_nonzero().get().unsigned_abs(),
                ..who
            },
            owner,
            user: sender.uid.as_raw(),
            connection,
        })
    }

    /// What it says of itself.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// A connection with its worker, to ask about sessions: see [`observe`](crate::observe).
    ///
    /// # Errors
    /// `NotConnected`: there is no worker. It does not answer in time, or is of a version that does not know the question.
    pub(crate) fn ask_for_worker(&self) -> io::Result<OwnedFd> {
        // Room for a descriptor only.
        sockopt::set_socket_passcred(&self.connection, false)?;
        say(&self.connection, &Ask::Worker)?;
        if !packet::wait_for(self.connection.as_fd(), PollFlags::IN, INTRODUCTION)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (text, descriptors) = packet::receive(&self.connection)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match (serde_json::from_slice(&text)?, descriptors.into_iter().next()) {
            (Tell::Worker, Some(connection)) => Ok(connection),
            (Tell::NoWorker, _) => Err(io::ErrorKind::NotConnected.into()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks it to make way. Until [`Offer::accept`] it goes on when anything fails, this process included.
    ///
    /// # Errors
    /// See [`TakeOverError`].
    pub fn ask_for_estate(self) -> Result<Offer, TakeOverError> {
        let ours = rustix::process::geteuid().as_raw();
        // One that root began and its worker raised again has only the worker's rights.
        if self.owner != ours || (self.user != ours && ours != 0) {
            let theirs = if self.owner != ours { self.owner } else { self.user };
            return Err(TakeOverError::OtherUser { theirs, ours });
        }
        sockopt::set_socket_passcred(&self.connection, false).map_err(|error| TakeOverError::Lost(error.into()))?;
        say(
            &self.connection,
            &Ask::GiveUp {
                parcel: parcel::VERSION,
            },
        )
        .map_err(TakeOverError::Lost)?;
        fault::pass("asked");
        match wait_and_hear(&self.connection).map_err(TakeOverError::Lost)? {
            Tell::Granted => {}
            Tell::Refused(refusal) => return Err(TakeOverError::Refused(refusal)),
            Tell::Here(_) | Tell::Worker | Tell::NoWorker => {
                return Err(TakeOverError::Lost(io::ErrorKind::InvalidData.into()));
            }
        }
        let mut estate = Estate::receive(&self.connection).map_err(not_received)?;
        fault::pass("offered");
        let stranger = (self.user != ours).then_some(self.user);
        if stranger.is_some() {
            estate.distrust();
        }
        Ok(Offer {
            connection: self.connection,
            estate,
            stranger,
        })
    }
}

/// Everything that a keeper holds but its worker, as long as it is still the keeper.
#[derive(Debug)]
pub struct Offer {
    connection: OwnedFd,
    estate: Estate,
    /// The user whom it runs as, where that is another than this process's.
    stranger: Option<u32>,
}

impl Offer {
    /// What there is to go on with.
    pub fn estate(&self) -> &Estate {
        &self.estate
    }

    /// Takes over: from here on this process is the keeper.
    ///
    /// # Errors
    /// See [`TakeOverError`]. `Foreign` only where a worker that has lost its senses has raised that keeper; nobody is
    /// the keeper then, and the worker raises another.
    pub fn accept(mut self) -> Result<Estate, TakeOverError> {
        say(&self.connection, &Ask::Ready).map_err(TakeOverError::Lost)?;
        fault::pass("said-ready");
        self.estate.receive_worker(&self.connection).map_err(not_received)?;
        fault::pass("taken-over");
        if let (Some(user), Some(worker)) = (self.stranger, &self.estate.worker)
            && !is_process_of(worker, user)
        {
            return Err(TakeOverError::Foreign { pid: worker.pid });
        }
        Ok(self.estate)
    }
}

fn not_received(error: EstateError) -> TakeOverError {
    match error {
        EstateError::NotGiven => TakeOverError::Lost(io::ErrorKind::UnexpectedEof.into()),
        EstateError::Io(error) => TakeOverError::Lost(error),
        error => TakeOverError::Estate(error),
    }
}

/// Whether a descriptor is of the process that it is said to be, and that is one of a user's. What is not may not be
/// ended with this process's rights.
fn is_process_of(worker: &RunningWorker, user: u32) -> bool {
    let field = |path: String, name: &str| -> Option<u32> {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let watched = field(format!("/proc/self/fdinfo/{}", worker.process.as_raw_fd()), "Pid:");
    let real = field(format!("/proc/{}/status", worker.pid), "Uid:");
    // Looked at last: the number was not another's before.
    let lives = !packet::wait_for(worker.process.as_fd(), PollFlags::IN, Duration::ZERO).unwrap_or(true);
    // A dead one can be done no harm: its number says nothing any more.
    !lives || (watched == Some(worker.pid) && real == Some(user))
}

fn ask_who(door: &Path) -> io::Result<OwnedFd> {
    let connection = knock(door)?;
    say(&connection, &Ask::Who)?;
    Ok(connection)
}

fn say(connection: &OwnedFd, ask: &Ask) -> io::Result<()> {
    packet::send(connection, &serde_json::to_vec(ask)?, &[])
}

fn wait_and_hear(connection: &OwnedFd) -> io::Result<Tell> {
    match packet::wait_for(connection.as_fd(), PollFlags::IN, ANSWER)? {
        true => Ok(hear(connection)?.0),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What somebody says, and who that is, where the kernel was asked for it.
fn hear(connection: &OwnedFd) -> io::Result<(Tell, Option<UCred>)> {
    let mut bytes = vec![0; packet::MOST_BYTES];
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

/// Whether one of them says something, or leaves, before the end.
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
        let (control, notify) = packet::pair().unwrap();
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
        // Of another user; of another process.
        assert!(!is_process_of(&worker(own, getpid()), user + 1));
        assert!(!is_process_of(&worker(own, getppid().unwrap()), user));
    }

    #[test]
    fn one_that_hands_over_nothing_is_lost_and_may_be_asked_again() {
        let (ours, theirs) = packet::pair().unwrap();
        drop(theirs);
        let neighbour = Neighbour {
            connection: ours,
            who: Who {
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
        let error = neighbour.ask_for_estate().unwrap_err();
        assert!(matches!(error, TakeOverError::Lost(_)), "{error}");
    }
}
