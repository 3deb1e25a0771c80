//! What a keeper is started with, and why it may not start.

use std::{ffi::OsString, io, os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use tracing::warn;

use super::{
    control::{Reply, Request},
    environment::ServiceManager,
    estate::{Estate, RunningWorker, Terms},
    listener::Listener,
    lobby::Door,
    parcel::sealed_memory,
    user::WorkerUser,
};
use crate::server::client_address::ClientAddresses;

/// Most listening sockets.
pub const MOST_LISTENERS: usize = 64;

/// Most bytes of settings and keys handed to a worker.
pub const MOST_HANDOVER: usize = 16 * 1024 * 1024;

/// What to run, and what with. Workers are of the very program that the keeper is.
#[derive(Debug)]
pub struct WorkerPlan {
    /// Where this program is on disk. Looked up anew for a reload, which so takes the one that is there by then.
    pub program: PathBuf,
    /// A worker's arguments.
    pub args: Vec<OsString>,
    /// Arguments of a keeper that a worker raises when its own is gone. It is given an [`Estate`](super::Estate).
    pub keeper_args: Vec<OsString>,
    /// Arguments of the keeper that this one becomes on SIGHUP, which reads its configuration anew. It is given an
    /// [`Estate`](super::Estate). `None`: SIGHUP only replaces the worker.
    pub reload_args: Option<Vec<OsString>>,
    /// Bound sockets, at most [`MOST_LISTENERS`]. Datagrams and connections wait in them while a worker is replaced.
    pub listeners: Vec<Listener>,
    /// Settings, keys and statements, opaque here, at most [`MOST_HANDOVER`]. Never on disk, in arguments or in the
    /// environment.
    pub handover: Vec<u8>,
    /// What [`Answer`] is made from, opaque here: for a keeper that goes on with this one's estate.
    pub answers: Vec<u8>,
    /// Most descriptors kept for workers.
    pub store_limit: usize,
    /// Whom the worker runs as; `None` is the keeper's own user.
    pub user: Option<WorkerUser>,
    /// A second program to keep running, as the keeper's own user: the built-in SSH server.
    pub companion: Option<CompanionPlan>,
    /// Where others ask who is running; `None`: where they did before, if they did.
    pub door: Option<Door>,
    /// How long a worker that is told to end its sessions may take before it is killed.
    pub grace: Duration,
    /// The service manager that started this program, with what it has kept.
    pub manager: ServiceManager,
    /// Which address of a client sshd sees, in a word: for those who ask.
    pub shown: String,
    /// Connects to sshd from clients' addresses, or keeps for sessions what an earlier one has set up; `None`: neither.
    pub addresses: Option<ClientAddresses>,
}

/// A program that runs beside the workers and outlives each of them.
#[derive(Debug)]
pub struct CompanionPlan {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its standard input, for instance a listening socket; `None` is `/dev/null`.
    pub stdin: Option<OwnedFd>,
}

/// Answers a worker's request. It runs in the keeper's loop, which does nothing else meanwhile.
pub type Answer = Box<dyn FnMut(Request) -> Reply>;

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// More sockets than can be handed over.
    #[error("{given} listening sockets, at most {MOST_LISTENERS} can be handed to the worker")]
    TooManyListeners {
        /// How many there are.
        given: usize,
    },
    /// More settings than can be handed over.
    #[error("{given} bytes of settings, at most {MOST_HANDOVER} can be handed to the worker")]
    HandoverTooLarge {
        /// How many there are.
        given: usize,
    },
    /// What every worker gets could not be prepared.
    #[error("cannot prepare the worker's settings")]
    Prepare(#[source] io::Error),
    /// Signals could not be caught, or another keeper in this process catches them.
    #[error("cannot catch signals")]
    Signals(#[source] io::Error),
    /// The first worker, or the companion, could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: PathBuf,
        /// What starting it failed with.
        source: io::Error,
    },
    /// The kernel refused to wait for events.
    #[error("cannot wait for the worker")]
    Wait(#[source] io::Error),
}

/// A plan, as what is kept of it.
pub(super) struct Settled {
    pub(super) terms: Terms,
    pub(super) settings: OwnedFd,
    pub(super) listeners: Vec<Listener>,
    pub(super) companion: Option<CompanionPlan>,
    pub(super) door: Option<Door>,
    /// What was kept for the worker.
    pub(super) stored: Vec<(String, Arc<OwnedFd>)>,
    /// What the service manager is not to keep any longer.
    pub(super) leftovers: Vec<String>,
    pub(super) addresses: Option<ClientAddresses>,
}

/// What somebody held beside it.
pub(super) struct Heirloom {
    pub(super) companion: Option<(u32, OwnedFd)>,
    pub(super) worker: Option<RunningWorker>,
    pub(super) door: Option<Door>,
}

impl Settled {
    /// What an estate says.
    pub(super) fn of(estate: Estate) -> (Self, Heirloom) {
        let companion = estate.terms.companion.clone().map(|(program, args)| CompanionPlan {
            program: program.into(),
            args,
            stdin: estate.companion_input,
        });
        let settled = Self {
            terms: estate.terms,
            settings: estate.settings,
            listeners: estate.listeners,
            companion,
            door: None,
            stored: estate.stored,
            leftovers: Vec::new(),
            addresses: None,
        };
        let heirloom = Heirloom {
            companion: estate.companion,
            worker: estate.worker,
            door: estate.door,
        };
        (settled, heirloom)
    }

    /// A companion that was there stays: sessions may be joined to it.
    pub(super) fn after(self, old: Self) -> Self {
        let mut terms = self.terms;
        terms.privileged |= old.terms.privileged;
        let companion = self.companion.or(old.companion);
        if terms.companion.is_none() {
            terms.companion = old.terms.companion;
        }
        // Sessions that were opened before need it still.
        terms.client_address = terms.client_address.or(old.terms.client_address);
        // One that is replaced has none: it would not have made way.
        terms.manager = terms.manager.or(old.terms.manager);
        Self {
            terms,
            companion,
            stored: old.stored,
            ..self
        }
    }

    /// What the keeper before has set up is needed for as long as there are sessions.
    pub(super) fn go_on_with_addresses(&mut self) {
        if self.addresses.is_some() {
            return;
        }
        let Some((target, families)) = self.terms.client_address else {
            return;
        };
        match ClientAddresses::go_on(target, families) {
            Ok(addresses) => self.addresses = Some(addresses),
            Err(error) => warn!(%error, "cannot look after the policy rules for connections to sshd"),
        }
    }
}

impl WorkerPlan {
    pub(super) fn settle(self) -> Result<Settled, KeeperError> {
        if self.listeners.len() > MOST_LISTENERS {
            return Err(KeeperError::TooManyListeners {
                given: self.listeners.len(),
            });
        }
        if self.handover.len() > MOST_HANDOVER {
            return Err(KeeperError::HandoverTooLarge {
                given: self.handover.len(),
            });
        }
        let companion = self
            .companion
            .as_ref()
            .map(|plan| (plan.program.clone().into_os_string(), plan.args.clone()));
        Ok(Settled {
            terms: Terms {
                program: self.program.into_os_string(),
                worker_args: self.args,
                keeper_args: self.keeper_args,
                reload_args: self.reload_args,
                user: self.user,
                answers: self.answers,
                grace: self.grace,
                privileged: rustix::process::geteuid().is_root(),
                store_limit: self.store_limit,
                companion,
                manager: self.manager.terms,
                shown: self.shown,
                client_address: self.addresses.as_ref().map(|own| (own.target(), own.families())),
            },
            settings: sealed_memory("bowline-worker-settings", &self.handover).map_err(KeeperError::Prepare)?,
            listeners: self.listeners,
            companion: self.companion,
            door: self.door,
            stored: self.manager.stored,
            leftovers: self.manager.leftovers,
            addresses: self.addresses,
        })
    }
}
