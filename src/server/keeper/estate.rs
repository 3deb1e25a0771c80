//! Everything a keeper holds, so that another can go on with it.
//!
//! One currency for all who follow somebody: a keeper that becomes another program, a keeper that takes over from
//! another, a keeper raised by its worker, and the worker itself, which gets all but its own process.

use std::{
    ffi::OsString,
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    control::Stop,
    environment,
    holdings::may_be_kept,
    listener::Listener,
    lobby::Door,
    manager::ManagerTerms,
    packet,
    parcel::{self, ParcelError},
    user::WorkerUser,
};
use crate::server::client_address::Families;

/// What a keeper goes by, beside descriptors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Terms {
    /// The program's place on disk: what a reload looks up anew.
    pub(super) program: OsString,
    /// Arguments of a worker.
    pub(super) worker_args: Vec<OsString>,
    /// Arguments of a keeper that is raised by its worker.
    pub(super) keeper_args: Vec<OsString>,
    /// Arguments that make the keeper read everything anew; `None`: it only replaces its worker.
    pub(super) reload_args: Option<Vec<OsString>>,
    /// Whom the worker runs as.
    pub(super) user: Option<WorkerUser>,
    /// What answers are made from, opaque here.
    pub(super) answers: Vec<u8>,
    /// How long a worker may take to end its sessions.
    pub(super) grace: Duration,
    /// Whether the first keeper was root. One that is not cannot do all that was done then.
    pub(super) privileged: bool,
    /// Most descriptors kept for workers.
    pub(super) store_limit: usize,
    /// The companion's program and arguments.
    pub(super) companion: Option<(OsString, Vec<OsString>)>,
    /// The service manager above.
    pub(super) manager: Option<ManagerTerms>,
    /// Which address of a client sshd sees, in a word.
    #[serde(default)]
    pub(super) shown: String,
    /// Where sshd is, and for whom it is connected to from clients' addresses.
    #[serde(default)]
    pub(super) client_address: Option<(SocketAddr, Families)>,
}

/// What a descriptor is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// The worker's settings.
    Settings,
    /// Where the worker listens.
    Listener,
    /// Kept under this name.
    Stored(String),
    /// The companion's standard input.
    CompanionInput,
    /// What watches the companion.
    CompanionProcess { pid: u32 },
    /// What watches the worker.
    WorkerProcess { pid: u32, asked: Option<Stop> },
    /// The keeper's end of the way to the worker.
    WorkerControl,
    /// The keeper's end of what the worker stores by; the worker's own end in what a worker gets.
    Notify,
    /// Where others ask who is running, and the file that leads there.
    Lobby { file: OsString },
}

/// A list of what somebody holds.
pub(super) struct Inventory<'a> {
    terms: &'a Terms,
    roles: Vec<Role>,
    descriptors: Vec<BorrowedFd<'a>>,
}

#[derive(Deserialize)]
struct Description {
    terms: Terms,
    roles: Vec<Role>,
}

#[derive(Serialize)]
struct DescriptionOf<'a> {
    terms: &'a Terms,
    roles: &'a [Role],
}

impl<'a> Inventory<'a> {
    pub(super) fn new(terms: &'a Terms) -> Self {
        let (roles, descriptors) = Default::default();
        Self {
            terms,
            roles,
            descriptors,
        }
    }

    pub(super) fn add_door(&mut self, door: &'a Door) {
        let file = door.file().as_os_str().to_owned();
        self.add(Role::Lobby { file }, door);
    }

    pub(super) fn add(&mut self, role: Role, descriptor: &'a impl AsFd) {
        self.roles.push(role);
        self.descriptors.push(descriptor.as_fd());
    }

    /// Sends it all. See [`parcel::send`].
    pub(super) fn send(&self, socket: impl AsFd, patience: Duration) -> io::Result<()> {
        let description = DescriptionOf {
            terms: self.terms,
            roles: &self.roles,
        };
        parcel::send(socket, &description, &self.descriptors, patience)
    }
}

/// Everything a keeper holds.
#[derive(Debug)]
pub struct Estate {
    pub(super) terms: Terms,
    pub(super) settings: OwnedFd,
    pub(super) listeners: Vec<Listener>,
    pub(super) stored: Vec<(String, Arc<OwnedFd>)>,
    pub(super) companion_input: Option<OwnedFd>,
    pub(super) companion: Option<(u32, OwnedFd)>,
    pub(super) worker: Option<RunningWorker>,
    pub(super) notify: Option<OwnedFd>,
    pub(super) door: Option<Door>,
}

/// A worker that somebody has started.
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
    /// `None`: there is none.
    fn of(
        process: Option<(u32, Option<Stop>, OwnedFd)>,
        control: Option<OwnedFd>,
        notify: &mut Option<OwnedFd>,
    ) -> Result<Option<Self>, EstateError> {
        let (Some((pid, asked, process)), Some(control)) = (process, control) else {
            return Ok(None);
        };
        let notify = notify.take().ok_or(EstateError::Incomplete { what: "worker" })?;
        Ok(Some(Self {
            pid,
            asked,
            process,
            control,
            notify,
        }))
    }
}

/// Why an estate could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum EstateError {
    /// Standard input is no connection with a keeper or a worker.
    #[error("nobody is there to take over from")]
    NotGiven,
    /// Programs are of versions that do not understand each other.
    #[error("what is to be taken over is of version {theirs}, this program understands {ours}")]
    Version {
        /// The giver's.
        theirs: u32,
        /// This program's.
        ours: u32,
    },
    /// Something that must be there is not, or is not what it should be.
    #[error("what is to be taken over is not whole: {what}")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// A system call failed.
    #[error("cannot take over")]
    Io(#[from] io::Error),
}

impl From<ParcelError> for EstateError {
    fn from(error: ParcelError) -> Self {
        match error {
            ParcelError::Nothing => Self::NotGiven,
            ParcelError::Version { theirs } => Self::Version {
                theirs,
                ours: parcel::VERSION,
            },
            ParcelError::Torn { .. } => Self::Incomplete { what: "descriptors" },
            ParcelError::Io(error) => Self::Io(error),
        }
    }
}

impl Estate {
    /// Takes over from whoever is at the other end of standard input, where `/dev/null` is left.
    ///
    /// # Errors
    /// See [`EstateError`].
    pub fn take() -> Result<Self, EstateError> {
        Self::receive(&take_stdin()?)
    }

    /// Takes over from whoever is at the other end.
    ///
    /// # Errors
    /// See [`EstateError`].
    pub(super) fn receive(socket: &OwnedFd) -> Result<Self, EstateError> {
        let (Description { terms, roles }, descriptors) = parcel::receive(socket)?;
        let mut settings = None;
        let mut listeners = Vec::new();
        let mut stored = Vec::new();
        let (mut companion_input, mut companion) = (None, None);
        let (mut process, mut control, mut notify, mut door) = (None, None, None, None);
        for (role, descriptor) in roles.into_iter().zip(descriptors) {
            match role {
                Role::Settings => settings = Some(descriptor),
                Role::Listener => {
                    let listener = Listener::of(descriptor);
                    listeners.push(listener.map_err(|_| EstateError::Incomplete { what: "listeners" })?);
                }
                // Whoever shares a connection can make something else of it.
                Role::Stored(name) if !may_be_kept(descriptor.as_fd()) => {
                    warn!(name, "what was kept is no connection any more: dropped");
                }
                Role::Stored(name) => stored.push((name, Arc::new(descriptor))),
                Role::CompanionInput => companion_input = Some(descriptor),
                Role::CompanionProcess { pid } => companion = Some((pid, descriptor)),
                Role::WorkerProcess { pid, asked } => process = Some((pid, asked, descriptor)),
                Role::WorkerControl => control = Some(descriptor),
                Role::Notify => notify = Some(descriptor),
                Role::Lobby { file } => door = Some(Door::of(file, descriptor)),
            }
        }
        let worker = RunningWorker::of(process, control, &mut notify)?;
        Ok(Self {
            terms,
            settings: settings.ok_or(EstateError::Incomplete { what: "settings" })?,
            listeners,
            stored,
            companion_input,
            companion,
            worker,
            notify,
            door,
        })
    }

    /// The worker, where it comes by itself, after the rest.
    ///
    /// # Errors
    /// See [`EstateError`].
    pub(super) fn receive_worker(&mut self, socket: &OwnedFd) -> Result<(), EstateError> {
        let (Description { roles, .. }, descriptors) = parcel::receive(socket)?;
        let (mut process, mut control, mut notify) = (None, None, None);
        for (role, descriptor) in roles.into_iter().zip(descriptors) {
            match role {
                Role::WorkerProcess { pid, asked } => process = Some((pid, asked, descriptor)),
                Role::WorkerControl => control = Some(descriptor),
                Role::Notify => notify = Some(descriptor),
                _ => return Err(EstateError::Incomplete { what: "worker" }),
            }
        }
        self.worker = RunningWorker::of(process, control, &mut notify)?;
        Ok(())
    }

    /// What must not be run or ended by the word of whoever sent this, who has fewer rights.
    pub(super) fn distrust(&mut self) {
        (self.terms.companion, self.terms.manager) = (None, None);
        self.terms.client_address = None;
        (self.companion, self.companion_input, self.door) = (None, None, None);
    }

    /// Where others ask who is running.
    pub fn door(&self) -> Option<&Door> {
        self.door.as_ref()
    }

    /// Bound sockets, for whoever listens at the same addresses again.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The companion's standard input, for instance a listening socket.
    pub fn companion_input(&self) -> Option<BorrowedFd<'_>> {
        self.companion_input.as_ref().map(AsFd::as_fd)
    }

    /// How many sessions the service manager above can keep, of `wanted`; `None` if it keeps none.
    pub fn most_sessions(&mut self, wanted: usize) -> Option<usize> {
        let kept = self.stored.len() + self.listeners.len();
        let terms = self.terms.manager.as_mut()?;
        let fit = environment::most_sessions(terms, wanted, kept)?;
        if fit == 0 && wanted > 0 {
            environment::give_up_store(terms);
            return None;
        }
        Some(fit)
    }

    /// What answers are made from, as the plan had it.
    pub fn answers(&self) -> &[u8] {
        &self.terms.answers
    }
}

/// The connection that is standard input. `/dev/null` takes its place.
///
/// # Errors
/// `NotGiven`; what the system calls failed with.
pub(super) fn take_stdin() -> Result<OwnedFd, EstateError> {
    let stdin = rustix::stdio::stdin();
    if !packet::is_packet_socket(stdin) {
        return Err(EstateError::NotGiven);
    }
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(io::Error::from)?;
    leave_stdin()?;
    Ok(socket)
}

/// Puts `/dev/null` in the place of standard input.
pub(super) fn leave_stdin() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::stdio::dup2_stdin(null)?)
}
