//! How the keeper handles notifications and requests of its worker.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::io::Errno;
use tracing::{info, warn};

use super::{Keeper, KeeperEnd, RequestHandler, sidecar::Sidecar, systemd::Manager};
use crate::{
    clock,
    server::{
        client_address::{ClientAddresses, ConnectError},
        handover::{may_be_stored, may_test_store},
        ipc::{
            self, KeeperMessage, NotConnected, Notification, Reply, Request, Response, Stop, TRIAL_NAME, WorkerMessage,
            is_worker_name,
        },
    },
};

/// Requests answered before signals are checked again.
const REQUESTS_PER_TURN: usize = 16;

/// The most tests of the service manager's store at once: one for each session that is being opened.
const MAX_TRIALS: usize = 256;

impl Keeper {
    /// Handles the worker's notifications, at most `most` of them.
    pub(super) fn handle_notifications(&mut self, most: usize) {
        for _ in 0..most {
            let Some((notification, descriptors)) = self.worker.next_notification() else {
                return;
            };
            self.worker.is_alive();
            match notification {
                Notification::Store { name } | Notification::Remove { name } if !is_worker_name(&name) => {
                    warn!(name, "the worker used a name that is reserved for the keeper: ignored");
                }
                Notification::Store { name } if name.starts_with(TRIAL_NAME) => self.try_out(name, &descriptors),
                Notification::Store { name } => self.store(name, descriptors),
                Notification::Remove { name } => {
                    self.trials.remove(&name);
                    self.stored_fds.remove(&name);
                    self.forward(&Notification::Remove { name }, &[]);
                }
                // The keeper has handled everything before it. When the service manager has too, no process has this
                // descriptor open any more.
                Notification::Barrier => {
                    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                    self.forward(&Notification::Barrier, &descriptors);
                }
                Notification::Watchdog => {}
                Notification::Ready => {
                    self.served = true;
                    self.worker.is_ready();
                    if let Some(manager) = &self.manager {
                        manager.ready(self.stored_fds.names());
                    }
                    self.schedule_end_of_sessions(clock::now());
                }
                Notification::Stopping if self.ending.is_none() && self.worker.was_told_to_hand_over() => {
                    let next = self.worker.start(&self.config, self.inventory());
                    self.worker.replace(&self.config, next);
                }
                // It leaves its sessions to the service manager.
                Notification::Stopping if self.worker.was_told_to_hand_over() => self.worker.kill(),
                Notification::Stopping => warn!("the worker stops without having been told to"),
            }
        }
    }

    /// Stores descriptors, here and with the service manager.
    fn store(&mut self, name: String, descriptors: Vec<OwnedFd>) {
        let may_be = descriptors.iter().all(|descriptor| may_be_stored(descriptor.as_fd()));
        let kept: Vec<_> = descriptors.into_iter().map(Arc::new).collect();
        if !may_be || self.stored_fds.put(&name, kept.clone()).is_err() {
            return warn!(name, "the worker tried to store more than it is allowed to: refused");
        }
        let kept: Vec<_> = kept.iter().map(|descriptor| descriptor.as_fd()).collect();
        self.forward(&Notification::Store { name }, &kept);
    }

    /// Stores a test descriptor with the service manager only, which shows whether its store had room for the
    /// descriptors before it.
    fn try_out(&mut self, name: String, descriptors: &[OwnedFd]) {
        let [descriptor] = descriptors else {
            return warn!(name, "a test of the store must have one descriptor: refused");
        };
        let is_new = self.trials.len() < MAX_TRIALS && !self.trials.contains(&name);
        if !is_new || !may_test_store(descriptor.as_fd()) {
            return warn!(name, "the worker tried to store more than it is allowed to: refused");
        }
        self.trials.insert(name.clone());
        self.forward(&Notification::Store { name }, &[descriptor.as_fd()]);
    }

    /// The test descriptors of a dead worker are of no use to the next one.
    pub(super) fn end_trials(&mut self) {
        let names = std::mem::take(&mut self.trials);
        if let Some(manager) = &self.manager {
            manager.clear(names);
        }
    }

    fn forward(&self, notification: &Notification, descriptors: &[BorrowedFd<'_>]) {
        if let Some(manager) = &self.manager {
            manager.forward(notification, descriptors);
        }
    }

    /// Stores everything with a service manager that has nothing of it yet.
    pub(super) fn forward_all(&self) {
        for (name, descriptor) in self.stored_fds.iter() {
            let name = name.to_owned();
            self.forward(&Notification::Store { name }, &[descriptor.as_fd()]);
        }
    }

    pub(super) fn answer_requests(&mut self) {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(control) = self.worker.control() else { return };
            let mut is_idle = false;
            let answered = match ipc::receive::<WorkerMessage>(control) {
                Ok(Some(WorkerMessage { id, request })) => {
                    let Reply { response, descriptor } = match request {
                        Request::ConnectToSshd { client, reached } => {
                            connect(&mut self.addresses, &mut self.request_handler, client, reached)
                        }
                        Request::StopIdle if self.config.stops_when_idle => {
                            is_idle = true;
                            Response::Stopping.into()
                        }
                        request => (self.request_handler)(request),
                    };
                    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
                    ipc::send_with(control, &KeeperMessage::Answer { id, response }, &descriptors)
                }
                Ok(None) => return self.worker.close(clock::now() + self.config.grace),
                Err(error) => Err(error),
            };
            match answered {
                Ok(()) if is_idle => self.stop_idle(),
                Ok(()) => {}
                // There is nothing more to read; or the answer did not fit into the socket, and the request will time
                // out.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // This worker is not to be trusted: it violates the protocol, or does not read the answers to its
                // requests.
                Err(error) => self.worker.hang_up(&error),
            }
        }
    }

    /// The worker has had no session for as long as the settings say.
    fn stop_idle(&mut self) {
        if self.ending.is_some() {
            return;
        }
        info!(
            event = "idle",
            "stopping: there was no session for as long as --exit-when-idle says"
        );
        self.ending = Some(KeeperEnd::Stopped);
        self.manager.iter().for_each(Manager::stopping);
        self.worker.stop(Stop::End, self.config.grace, clock::now());
    }

    /// Tells the worker about the new sidecar, which it must hand over if it has to start a keeper.
    pub(super) fn send_sidecar(&mut self) {
        let process = self.sidecar.as_ref().and_then(Sidecar::process);
        let (Some(control), Some(process)) = (self.worker.control(), process) else {
            return;
        };
        let message = KeeperMessage::Sidecar { pid: process.pid() };
        if let Err(error) = ipc::send_with(control, &message, &[process.as_fd()]) {
            self.worker.hang_up(&error);
        }
    }
}

/// Connects to sshd from a client's address, if this keeper can. Connects to another address than the one that the
/// client reached only if that makes no difference to sshd.
fn connect(
    addresses: &mut Option<ClientAddresses>,
    handler: &mut RequestHandler,
    client: SocketAddr,
    reached: Option<IpAddr>,
) -> Reply {
    let Some(addresses) = addresses else {
        return Response::NotConnected(NotConnected::NotAllowed).into();
    };
    let opened = match addresses.connect(client, reached) {
        Ok(opened) => opened,
        Err(error) => return Response::NotConnected(error.into()).into(),
    };
    let is_reached = opened.is_reached;
    if !is_reached
        && let Response::MayOpen {
            obstacle: Some(obstacle),
        } = handler(Request::ConnectToSshd { client, reached }).response
    {
        warn!(%client, local = %opened.local, obstacle, "sshd does not listen at the address that the client reached, and its rules may depend on that address");
        return Response::NotConnected(NotConnected::OtherAddress).into();
    }
    Reply {
        response: Response::Connecting { is_reached },
        descriptor: Some(opened.socket),
    }
}

impl From<ConnectError> for NotConnected {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::OwnAddress(_) => Self::OwnAddress,
            ConnectError::NoClient(_) => Self::NoClient,
            ConnectError::NotListening(..) => Self::NotListening,
            ConnectError::Kernel(error) => match Errno::from_io_error(&error) {
                Some(Errno::PERM | Errno::ACCESS) => Self::NotAllowed,
                errno => Self::Failed {
                    errno: errno.unwrap_or(Errno::IO).raw_os_error(),
                },
            },
        }
    }
}
