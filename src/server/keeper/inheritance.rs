//! What a worker inherits from its keeper.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::process::DumpableBehavior;
use zeroize::Zeroizing;

use super::{
    MOST_HANDOVER,
    client::KeeperClient,
    estate::{Estate, EstateError, take_stdin},
    limits::raise_descriptor_limit,
    listener::Listener,
    parcel::read_sealed,
};
use crate::tasks::Tasks;

/// What the keeper gave this process.
#[derive(Debug)]
pub struct WorkerInheritance {
    /// The bound sockets, in the order of the plan.
    pub listeners: Vec<Listener>,
    /// The settings of the plan, byte for byte. Secret: wiped when dropped.
    pub handover: Zeroizing<Vec<u8>>,
    /// All that earlier workers stored and did not remove, under their names.
    ///
    /// Shared with what a new keeper would be given: a second descriptor of the same file would, when it is closed,
    /// free this process's locks on it (fcntl_locking(2)).
    pub stored: Vec<(String, Arc<OwnedFd>)>,
    /// The way to the keeper.
    pub control: Control,
}

/// Why this process cannot be a worker.
#[derive(Debug, thiserror::Error)]
pub enum InheritanceError {
    /// Standard input is no control socket.
    #[error("a worker is started by its keeper, not by hand")]
    NotStartedByKeeper,
    /// What came is not what a keeper gives.
    #[error("the keeper's inheritance cannot be taken")]
    Estate(#[source] EstateError),
    /// The process still has root's rights though it should not.
    #[error("the worker still has the rights of root")]
    Privileged,
    /// A system call failed.
    #[error("cannot take over from the keeper")]
    Io(#[from] io::Error),
}

impl From<EstateError> for InheritanceError {
    fn from(error: EstateError) -> Self {
        match error {
            EstateError::NotGiven => Self::NotStartedByKeeper,
            error => Self::Estate(error),
        }
    }
}

impl WorkerInheritance {
    /// Takes everything over from standard input, where `/dev/null` is left, and gives up what a worker must not have:
    /// new privileges through exec, ambient capabilities, and (if it was root's to give) core dumps and
    /// debuggers that would show its keys to others of the same user.
    ///
    /// To be called before there is a second thread: privileges belong to threads.
    ///
    /// # Errors
    /// See [`InheritanceError`].
    pub fn take() -> Result<Self, InheritanceError> {
        let socket = take_stdin()?;
        // Before there are more than the soft limit allows.
        raise_descriptor_limit();
        let mut estate = Estate::receive(&socket)?;
        give_up_privileges(estate.terms.user.is_some())?;
        // For ps(1): it was started by way of a descriptor, whose number would be its name.
        rustix::thread::set_name(c"bowline-worker").map_err(io::Error::from)?;
        let notify = estate
            .notify
            .take()
            .ok_or(EstateError::Incomplete { what: "connection" })?;
        let listeners: io::Result<_> = estate.listeners.iter().map(Listener::try_clone).collect();
        Ok(Self {
            listeners: listeners?,
            handover: read_sealed(estate.settings.as_fd(), MOST_HANDOVER)?,
            stored: estate.stored.clone(),
            control: Control { socket, notify, estate },
        })
    }
}

/// The worker's ends of its connections with the keeper, not in use yet.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    notify: OwnedFd,
    estate: Estate,
}

impl Control {
    /// Puts it to use: a task listens to the keeper, and raises another should it die.
    ///
    /// Must be called in a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    /// What registering the sockets failed with.
    pub(crate) fn connect(self, tasks: &Tasks) -> io::Result<KeeperClient> {
        KeeperClient::connect(self.socket, self.notify, self.estate, tasks)
    }
}

fn give_up_privileges(unprivileged: bool) -> Result<(), InheritanceError> {
    use rustix::{process, thread};
    thread::set_no_new_privs(true).map_err(io::Error::from)?;
    thread::clear_ambient_capability_set().map_err(io::Error::from)?;
    if unprivileged {
        if process::getuid().is_root() || process::geteuid().is_root() || process::getegid().is_root() {
            return Err(InheritanceError::Privileged);
        }
        process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)?;
    }
    Ok(())
}
