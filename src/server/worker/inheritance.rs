//! What a worker inherits from its keeper.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::process::DumpableBehavior;
use zeroize::Zeroizing;

use super::keeper_client::KeeperClient;
use crate::{
    server::{
        handover::{Handover, HandoverError, Listener, MAX_WORKER_SETTINGS, raise_descriptor_limit, take_stdin},
        ipc::fd_bundle::read_sealed,
    },
    tasks::Tasks,
};

/// What the keeper has handed over to this process.
#[derive(Debug)]
pub struct WorkerInheritance {
    /// The bound sockets, in the order of the plan.
    pub listeners: Vec<Listener>,
    /// The settings of the plan, byte for byte. Secret: wiped when dropped.
    pub worker_settings: Zeroizing<Vec<u8>>,
    /// Everything that earlier workers stored and did not remove, with its names.
    ///
    /// Shared with the handover for a new keeper: closing a second descriptor of the same file would release this
    /// process's locks on it (fcntl_locking(2)).
    pub stored: Vec<(String, Arc<OwnedFd>)>,
    /// The connection to the keeper.
    pub control: Control,
}

/// Why this process cannot be a worker.
#[derive(Debug, thiserror::Error)]
pub enum InheritanceError {
    /// Standard input is not a control socket.
    #[error("a worker is started by its keeper, not by hand")]
    NotStartedByKeeper,
    /// The handover is invalid.
    #[error("cannot use the keeper's handover")]
    Handover(#[source] HandoverError),
    /// The process still has root's rights although it should not.
    #[error("the worker still has the rights of root")]
    Privileged,
    /// A system call failed.
    #[error("cannot become a worker")]
    Io(#[from] io::Error),
}

impl From<HandoverError> for InheritanceError {
    fn from(error: HandoverError) -> Self {
        match error {
            HandoverError::NotGiven => Self::NotStartedByKeeper,
            error => Self::Handover(error),
        }
    }
}

impl WorkerInheritance {
    /// Receives everything from standard input, which is replaced by `/dev/null`. Then drops what a worker must not
    /// have: new privileges through exec, ambient capabilities, and, if the keeper is root, core dumps and debuggers,
    /// which would show its keys to other processes of its user.
    ///
    /// To be called before there is a second thread: privileges belong to threads.
    ///
    /// # Errors
    /// See [`InheritanceError`].
    pub fn take() -> Result<Self, InheritanceError> {
        let socket = take_stdin()?;
        // Before more descriptors arrive than the soft limit allows.
        raise_descriptor_limit();
        let mut handover = Handover::receive(&socket)?;
        give_up_privileges(handover.config.user.is_some())?;
        // For ps(1): the program was started through a descriptor, whose number would be its name.
        rustix::thread::set_name(c"bowline-worker").map_err(io::Error::from)?;
        let notify = handover
            .notify
            .take()
            .ok_or(HandoverError::Incomplete { what: "connection" })?;
        let listeners: io::Result<_> = handover.listeners.iter().map(Listener::try_clone).collect();
        Ok(Self {
            listeners: listeners?,
            worker_settings: read_sealed(handover.settings.as_fd(), MAX_WORKER_SETTINGS)?,
            stored: handover.stored.clone(),
            control: Control {
                socket,
                notify,
                handover,
            },
        })
    }
}

/// The worker's ends of its connections to the keeper, not in use yet.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
    notify: OwnedFd,
    handover: Handover,
}

impl Control {
    /// Starts a task that serves the keeper, and starts a new keeper if it dies.
    ///
    /// Must be called in a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    /// The errors of registering the sockets.
    pub(crate) fn connect(self, tasks: &Tasks) -> io::Result<KeeperClient> {
        KeeperClient::connect(self.socket, self.notify, self.handover, tasks)
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
