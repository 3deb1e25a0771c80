//! Everything a keeper holds, in a form that another process can continue with.
//!
//! The same handover is used in four cases: a keeper becomes another program by exec, a keeper takes over from
//! another, a worker starts a new keeper, and a keeper starts a worker, which is given everything but its own process.

mod listener;
mod stored_fds;

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

pub(super) use self::{
    listener::addresses,
    stored_fds::{STORED_BESIDE, STORED_PER_SESSION, StoredFds, may_be_stored, may_test_store},
};
pub use self::{
    listener::{Endpoint, Listener, Protocol},
    stored_fds::{FdStore, FdStoreError, descriptors_for, raise_descriptor_limit, sessions_within, store_limit},
};

#[cfg(test)]
pub(super) use self::stored_fds::disconnect;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    client_address::Families,
    ipc::{
        Stop,
        control_socket::ControlListener,
        fd_bundle::{self, FdBundleError},
        seqpacket,
    },
    worker_user::WorkerUser,
};

/// The most bytes of settings and keys that a worker is given.
pub const MAX_WORKER_SETTINGS: usize = 16 * 1024 * 1024;

/// The keeper's configuration, without descriptors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeeperConfig {
    /// Path of the program: each reload opens it again.
    pub(super) program: OsString,
    /// Arguments of a worker.
    pub(super) worker_args: Vec<OsString>,
    /// Arguments of a keeper that is started by its worker.
    pub(super) keeper_args: Vec<OsString>,
    /// Arguments with which the keeper reads its configuration again; `None`: a reload only replaces the worker.
    pub(super) reload_args: Option<Vec<OsString>>,
    /// The user that the worker runs as.
    pub(super) user: Option<WorkerUser>,
    /// The request handler's settings, opaque here.
    pub(super) handler_settings: Vec<u8>,
    /// How long a worker may take to end its sessions.
    pub(super) grace: Duration,
    /// Whether the worker may ask the keeper to stop because there are no sessions.
    #[serde(default)]
    pub(super) stops_when_idle: bool,
    /// Whether the first keeper was root. A later one that is not root cannot repeat everything that the first one
    /// did.
    pub(super) privileged: bool,
    /// The most descriptors stored for workers.
    pub(super) store_limit: usize,
    /// The sidecar's program and arguments.
    pub(super) sidecar: Option<(OsString, Vec<OsString>)>,
    /// The service manager.
    pub(super) manager: Option<ManagerConfig>,
    /// Which address of a client sshd sees, as a word.
    #[serde(default)]
    pub(super) client_address_name: String,
    /// Where sshd is, and which clients it can be connected to from their own addresses.
    #[serde(default)]
    pub(super) client_address: Option<(SocketAddr, Families)>,
}

/// What is known about a service manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManagerConfig {
    /// The process id that it manages: it accepts messages from no other process.
    pub(super) pid: u32,
    /// The socket of its notifications: NOTIFY_SOCKET.
    pub(super) address: String,
    /// How often it expects WATCHDOG=1: half of WATCHDOG_USEC.
    pub(super) watchdog_interval: Option<Duration>,
    /// How many descriptors it says that it stores: FDSTORE, since systemd 254.
    pub(super) advertised: Option<usize>,
    /// How many descriptors it can store, as far as that was tested; 0: none.
    pub(super) capacity: usize,
}

/// What a descriptor is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// The worker's settings.
    Settings,
    /// A socket on which the worker accepts clients.
    Listener,
    /// Stored under this name.
    Stored(String),
    /// The sidecar's standard input.
    SidecarInput,
    /// The pidfd of the sidecar.
    SidecarProcess { pid: u32 },
    /// The pidfd of the worker.
    WorkerProcess { pid: u32, asked: Option<Stop> },
    /// The keeper's end of the control connection to the worker.
    WorkerControl,
    /// One end of the connection on which the worker stores descriptors: the worker's own end in what a worker is
    /// given, the keeper's end elsewhere.
    Notify,
    /// The keeper's control socket, and its file.
    #[serde(rename = "TakeoverListener")]
    ControlListener { file: OsString },
}

/// A list of what a process holds.
pub(super) struct Inventory<'a> {
    config: &'a KeeperConfig,
    roles: Vec<Role>,
    descriptors: Vec<BorrowedFd<'a>>,
}

#[derive(Deserialize)]
struct Description {
    config: KeeperConfig,
    roles: Vec<Role>,
}

#[derive(Serialize)]
struct DescriptionOf<'a> {
    config: &'a KeeperConfig,
    roles: &'a [Role],
}

impl<'a> Inventory<'a> {
    pub(super) fn new(config: &'a KeeperConfig) -> Self {
        let (roles, descriptors) = Default::default();
        Self {
            config,
            roles,
            descriptors,
        }
    }

    pub(super) fn add_control_listener(&mut self, control_listener: &'a ControlListener) {
        let file = control_listener.file().as_os_str().to_owned();
        self.add(Role::ControlListener { file }, control_listener);
    }

    pub(super) fn add(&mut self, role: Role, descriptor: &'a impl AsFd) {
        self.roles.push(role);
        self.descriptors.push(descriptor.as_fd());
    }

    /// Sends everything. See [`fd_bundle::send`].
    pub(super) fn send(&self, socket: impl AsFd, timeout: Duration) -> io::Result<()> {
        let description = DescriptionOf {
            config: self.config,
            roles: &self.roles,
        };
        fd_bundle::send(socket, &description, &self.descriptors, timeout)
    }
}

/// Everything a keeper holds.
#[derive(Debug)]
pub struct Handover {
    pub(super) config: KeeperConfig,
    pub(super) settings: OwnedFd,
    pub(super) listeners: Vec<Listener>,
    pub(super) stored: Vec<(String, Arc<OwnedFd>)>,
    pub(super) sidecar_input: Option<OwnedFd>,
    pub(super) sidecar: Option<(u32, OwnedFd)>,
    pub(super) worker: Option<RunningWorker>,
    pub(super) notify: Option<OwnedFd>,
    pub(super) control_listener: Option<ControlListener>,
}

/// A worker that another keeper has started.
#[derive(Debug)]
pub(super) struct RunningWorker {
    pub(super) pid: u32,
    /// How it was asked to end, if it was.
    pub(super) asked: Option<Stop>,
    pub(super) process: OwnedFd,
    pub(super) control: OwnedFd,
    pub(super) notify: OwnedFd,
}

impl RunningWorker {
    /// `None`: no worker is running.
    fn of(
        process: Option<(u32, Option<Stop>, OwnedFd)>,
        control: Option<OwnedFd>,
        notify: &mut Option<OwnedFd>,
    ) -> Result<Option<Self>, HandoverError> {
        let (Some((pid, asked, process)), Some(control)) = (process, control) else {
            return Ok(None);
        };
        let notify = notify.take().ok_or(HandoverError::Incomplete { what: "worker" })?;
        Ok(Some(Self {
            pid,
            asked,
            process,
            control,
            notify,
        }))
    }
}

/// Why a handover could not be received.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Standard input is not a connection with a keeper or a worker.
    #[error("standard input is not a connection with a keeper")]
    NotGiven,
    /// The other end closed the connection without sending one.
    #[error("no handover was sent")]
    NotSent,
    /// The two programs are of incompatible versions.
    #[error("the handover has format version {theirs}, but this program understands version {ours}")]
    Version {
        /// The sender's version.
        theirs: u32,
        /// This program's version.
        ours: u32,
    },
    /// A required part is missing or has the wrong type.
    #[error("the handover is incomplete: {what}")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// A system call failed.
    #[error("cannot receive the handover")]
    Io(#[from] io::Error),
}

impl From<FdBundleError> for HandoverError {
    fn from(error: FdBundleError) -> Self {
        match error {
            FdBundleError::Missing => Self::NotSent,
            FdBundleError::Version { theirs } => Self::Version {
                theirs,
                ours: fd_bundle::VERSION,
            },
            FdBundleError::NoDescription => Self::Incomplete { what: "description" },
            FdBundleError::Incomplete { .. } => Self::Incomplete { what: "descriptors" },
            FdBundleError::Io(error) => Self::Io(error),
        }
    }
}

impl Handover {
    /// Receives a handover from standard input, which is replaced by `/dev/null`.
    ///
    /// # Errors
    /// See [`HandoverError`].
    pub fn take() -> Result<Self, HandoverError> {
        Self::receive(&take_stdin()?)
    }

    /// Receives a handover from the other end of a socket.
    ///
    /// # Errors
    /// See [`HandoverError`].
    pub(super) fn receive(socket: &OwnedFd) -> Result<Self, HandoverError> {
        let (Description { config, roles }, descriptors) = fd_bundle::receive(socket)?;
        let mut settings = None;
        let mut listeners = Vec::new();
        let mut stored = Vec::new();
        let (mut sidecar_input, mut sidecar) = (None, None);
        let (mut process, mut control, mut notify, mut control_listener) = (None, None, None, None);
        for (role, descriptor) in roles.into_iter().zip(descriptors) {
            match role {
                Role::Settings => settings = Some(descriptor),
                Role::Listener => {
                    let listener = Listener::of(descriptor);
                    listeners.push(listener.map_err(|_| HandoverError::Incomplete { what: "listeners" })?);
                }
                // A process that shares the socket can make a listening socket of it.
                Role::Stored(name) if !may_be_stored(descriptor.as_fd()) => {
                    warn!(name, "a stored descriptor is not a connection any more: dropped");
                }
                Role::Stored(name) => stored.push((name, Arc::new(descriptor))),
                Role::SidecarInput => sidecar_input = Some(descriptor),
                Role::SidecarProcess { pid } => sidecar = Some((pid, descriptor)),
                Role::WorkerProcess { pid, asked } => process = Some((pid, asked, descriptor)),
                Role::WorkerControl => control = Some(descriptor),
                Role::Notify => notify = Some(descriptor),
                Role::ControlListener { file } => control_listener = Some(ControlListener::of(file, descriptor)),
            }
        }
        let worker = RunningWorker::of(process, control, &mut notify)?;
        Ok(Self {
            config,
            settings: settings.ok_or(HandoverError::Incomplete { what: "settings" })?,
            listeners,
            stored,
            sidecar_input,
            sidecar,
            worker,
            notify,
            control_listener,
        })
    }

    /// Receives the worker, which is sent last and separately.
    ///
    /// # Errors
    /// See [`HandoverError`].
    pub(super) fn receive_worker(&mut self, socket: &OwnedFd) -> Result<(), HandoverError> {
        let (Description { roles, .. }, descriptors) = fd_bundle::receive(socket)?;
        let (mut process, mut control, mut notify) = (None, None, None);
        for (role, descriptor) in roles.into_iter().zip(descriptors) {
            match role {
                Role::WorkerProcess { pid, asked } => process = Some((pid, asked, descriptor)),
                Role::WorkerControl => control = Some(descriptor),
                Role::Notify => notify = Some(descriptor),
                _ => return Err(HandoverError::Incomplete { what: "worker" }),
            }
        }
        self.worker = RunningWorker::of(process, control, &mut notify)?;
        Ok(())
    }

    /// Removes everything that this process must not run or end because a sender with fewer rights says so.
    pub(super) fn drop_privileged_parts(&mut self) {
        (self.config.sidecar, self.config.manager) = (None, None);
        self.config.client_address = None;
        (self.sidecar, self.sidecar_input, self.control_listener) = (None, None, None);
    }

    /// The keeper's control socket.
    pub fn control_listener(&self) -> Option<&ControlListener> {
        self.control_listener.as_ref()
    }

    /// Bound sockets, to be used again if the addresses are the same.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The sidecar's standard input, for instance a listening socket.
    pub fn sidecar_input(&self) -> Option<BorrowedFd<'_>> {
        self.sidecar_input.as_ref().map(AsFd::as_fd)
    }

    /// The request handler's settings, as the plan had them.
    pub fn handler_settings(&self) -> &[u8] {
        &self.config.handler_settings
    }
}

/// The connection that is standard input. `/dev/null` replaces it.
///
/// # Errors
/// `NotGiven`; the errors of the system calls.
pub(super) fn take_stdin() -> Result<OwnedFd, HandoverError> {
    let stdin = rustix::stdio::stdin();
    if !seqpacket::is_seqpacket(stdin) {
        return Err(HandoverError::NotGiven);
    }
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(io::Error::from)?;
    replace_stdin()?;
    Ok(socket)
}

/// Replaces standard input by `/dev/null`.
pub(super) fn replace_stdin() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::stdio::dup2_stdin(null)?)
}
