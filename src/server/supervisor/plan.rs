//! What a keeper is started with, and why a keeper cannot start.

use std::{ffi::OsString, io, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use tracing::warn;

use super::systemd::ServiceManager;
use crate::server::{
    client_address::ClientAddresses,
    handover::{Handover, KeeperConfig, Listener, MAX_WORKER_SETTINGS, RunningWorker},
    ipc::{Reply, Request, control_socket::ControlListener, fd_bundle::sealed_memory},
    worker_user::WorkerUser,
};

/// The most listening sockets.
pub const MAX_LISTENERS: usize = 64;

/// What to run, and its settings. Workers run the same program file as the keeper.
#[derive(Debug)]
pub struct WorkerPlan {
    /// Path of this program. It is opened again at each reload, so a reload runs the file that is there then.
    pub program: PathBuf,
    /// Arguments of a worker.
    pub args: Vec<OsString>,
    /// Arguments of a keeper that a worker starts when its own keeper has died. Standard input passes it a
    /// [`Handover`].
    pub keeper_args: Vec<OsString>,
    /// Arguments of the keeper that this one becomes on SIGHUP, which reads its configuration again. Standard input
    /// passes it a [`Handover`]. `None`: SIGHUP only replaces the worker.
    pub reload_args: Option<Vec<OsString>>,
    /// Bound sockets, at most [`MAX_LISTENERS`]. They queue datagrams and connections while a worker is replaced.
    pub listeners: Vec<Listener>,
    /// Settings, keys and statements of the worker, opaque here, at most [`MAX_WORKER_SETTINGS`] bytes. They are never
    /// passed in files, arguments or the environment.
    pub worker_settings: Vec<u8>,
    /// The settings of [`RequestHandler`], opaque here: a keeper that continues with this handover creates its handler
    /// from them.
    pub handler_settings: Vec<u8>,
    /// The most descriptors stored for workers.
    pub store_limit: usize,
    /// The user that the worker runs as; `None` is the keeper's own user.
    pub user: Option<WorkerUser>,
    /// A second program to keep running, as the keeper's own user: the built-in SSH server.
    pub sidecar: Option<SidecarPlan>,
    /// The control socket; `None` keeps the previous one, if there is one.
    pub control_listener: Option<ControlListener>,
    /// How long a worker may take to end its sessions before it is killed.
    pub grace: Duration,
    /// Whether the worker may ask the keeper to stop because there are no sessions.
    pub stops_when_idle: bool,
    /// The service manager that started this program, with the descriptors that it has stored.
    pub manager: ServiceManager,
    /// Which address of a client sshd sees, as a word for `bowline status`.
    pub client_address_name: String,
    /// Opens connections to sshd from clients' addresses, or keeps the rules that an earlier keeper has added; `None`:
    /// neither.
    pub addresses: Option<ClientAddresses>,
}

/// A program that runs beside the workers and outlives each of them.
#[derive(Debug)]
pub struct SidecarPlan {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its standard input, for instance a listening socket; `None` is `/dev/null`.
    pub stdin: Option<OwnedFd>,
}

/// Answers a worker's request. The keeper's loop does nothing else while it runs.
pub type RequestHandler = Box<dyn FnMut(Request) -> Reply>;

/// Why the keeper or its worker cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// More sockets than can be handed over.
    #[error("there are {given} listening sockets, but a worker can be given at most {MAX_LISTENERS}")]
    TooManyListeners {
        /// How many there are.
        given: usize,
    },
    /// More settings than can be handed over.
    #[error("the worker's settings have {given} bytes, but a worker can be given at most {MAX_WORKER_SETTINGS}")]
    WorkerSettingsTooLarge {
        /// The size in bytes.
        given: usize,
    },
    /// The worker's settings could not be prepared.
    #[error("cannot prepare the worker's settings")]
    Prepare(#[source] io::Error),
    /// Signal handlers could not be installed, or another keeper in this process has installed them.
    #[error("cannot catch signals")]
    Signals(#[source] io::Error),
    /// The first worker, or the sidecar, could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// The error of the start.
        source: io::Error,
    },
    /// The kernel failed to wait for events.
    #[error("cannot wait for the worker")]
    Wait(#[source] io::Error),
}

/// A plan in the form in which the keeper stores it.
pub(super) struct PreparedPlan {
    pub(super) config: KeeperConfig,
    pub(super) settings: OwnedFd,
    pub(super) listeners: Vec<Listener>,
    pub(super) sidecar: Option<SidecarPlan>,
    pub(super) control_listener: Option<ControlListener>,
    /// Descriptors that the service manager stored for the worker.
    pub(super) stored: Vec<(String, Arc<OwnedFd>)>,
    /// Names that the service manager is to remove from its store.
    pub(super) obsolete_names: Vec<String>,
    pub(super) addresses: Option<ClientAddresses>,
}

/// The running processes and sockets of a handover.
pub(super) struct RunningParts {
    pub(super) sidecar: Option<(u32, OwnedFd)>,
    pub(super) worker: Option<RunningWorker>,
    pub(super) control_listener: Option<ControlListener>,
}

impl PreparedPlan {
    /// Splits a handover.
    pub(super) fn of(handover: Handover) -> (Self, RunningParts) {
        let sidecar = handover.config.sidecar.clone().map(|(program, args)| SidecarPlan {
            program: program.into(),
            args,
            stdin: handover.sidecar_input,
        });
        let prepared = Self {
            config: handover.config,
            settings: handover.settings,
            listeners: handover.listeners,
            sidecar,
            control_listener: None,
            stored: handover.stored,
            obsolete_names: Vec::new(),
            addresses: None,
        };
        let running = RunningParts {
            sidecar: handover.sidecar,
            worker: handover.worker,
            control_listener: handover.control_listener,
        };
        (prepared, running)
    }

    /// Combines the new plan with the old one. The old sidecar stays: sessions may be connected to it.
    pub(super) fn after(self, old: Self) -> Self {
        let mut config = self.config;
        config.privileged |= old.config.privileged;
        let sidecar = self.sidecar.or(old.sidecar);
        if config.sidecar.is_none() {
            config.sidecar = old.config.sidecar;
        }
        // Sessions that were opened earlier still need it.
        config.client_address = config.client_address.or(old.config.client_address);
        // A keeper that is replaced by `--replace` has no service manager: it would have refused.
        config.manager = config.manager.or(old.config.manager);
        Self {
            config,
            sidecar,
            stored: old.stored,
            ..self
        }
    }

    /// The rules that the previous keeper added are needed as long as there are sessions.
    pub(super) fn adopt_addresses(&mut self) {
        if self.addresses.is_some() {
            return;
        }
        let Some((target, families)) = self.config.client_address else {
            return;
        };
        match ClientAddresses::adopt(target, families) {
            Ok(addresses) => self.addresses = Some(addresses),
            Err(error) => warn!(%error, "cannot watch the policy rules for connections to sshd"),
        }
    }
}

impl WorkerPlan {
    pub(super) fn prepare(self) -> Result<PreparedPlan, KeeperError> {
        if self.listeners.len() > MAX_LISTENERS {
            return Err(KeeperError::TooManyListeners {
                given: self.listeners.len(),
            });
        }
        if self.worker_settings.len() > MAX_WORKER_SETTINGS {
            return Err(KeeperError::WorkerSettingsTooLarge {
                given: self.worker_settings.len(),
            });
        }
        let sidecar = self
            .sidecar
            .as_ref()
            .map(|plan| (plan.program.clone().into_os_string(), plan.args.clone()));
        Ok(PreparedPlan {
            config: KeeperConfig {
                program: self.program.into_os_string(),
                worker_args: self.args,
                keeper_args: self.keeper_args,
                reload_args: self.reload_args,
                user: self.user,
                handler_settings: self.handler_settings,
                grace: self.grace,
                stops_when_idle: self.stops_when_idle,
                privileged: rustix::process::geteuid().is_root(),
                store_limit: self.store_limit,
                sidecar,
                manager: self.manager.config,
                client_address_name: self.client_address_name,
                client_address: self.addresses.as_ref().map(|own| (own.target(), own.families())),
            },
            settings: sealed_memory("bowline-worker-settings", &self.worker_settings).map_err(KeeperError::Prepare)?,
            listeners: self.listeners,
            sidecar: self.sidecar,
            control_listener: self.control_listener,
            stored: self.manager.stored,
            obsolete_names: self.manager.obsolete_names,
            addresses: self.addresses,
        })
    }
}
