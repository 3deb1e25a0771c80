//! What the keeper does when its worker says or asks something.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::io::Errno;
use tracing::warn;

use super::{
    Answer, Keeper, NotConnected, Reply, Request, Response,
    companion::Companion,
    control::{self, FromKeeper, ToKeeper},
    holdings::{may_be_kept, may_be_tried},
    manager::TRIAL_NAME,
    notice::{Notice, is_workers_name},
};
use crate::clock;
use crate::server::client_address::{ClientAddresses, NotOpened};

/// Requests answered before signals are looked at again.
const REQUESTS_PER_TURN: usize = 16;

/// Trials of a service manager that may run at once: one for each session that is being opened.
const MAX_TRIALS: usize = 256;

impl Keeper {
    /// Heeds what the worker has to say, up to a number of notices.
    pub(super) fn heed_notices(&mut self, most: usize) {
        for _ in 0..most {
            let Some((notice, descriptors)) = self.worker.next_notice() else {
                return;
            };
            self.worker.is_alive();
            match notice {
                Notice::Store { name } | Notice::Remove { name } if !is_workers_name(&name) => {
                    warn!(name, "the worker means what is the keeper's");
                }
                Notice::Store { name } if name.starts_with(TRIAL_NAME) => self.try_out(name, &descriptors),
                Notice::Store { name } => self.store(name, descriptors),
                Notice::Remove { name } => {
                    self.trials.remove(&name);
                    self.holdings.remove(&name);
                    self.pass_on(&Notice::Remove { name }, &[]);
                }
                // All before it is done here: once it is done above, nobody has what comes with it open any more.
                Notice::Barrier => {
                    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                    self.pass_on(&Notice::Barrier, &descriptors);
                }
                Notice::Watchdog => {}
                Notice::Ready => {
                    self.served = true;
                    self.worker.is_ready();
                    if let Some(manager) = &self.manager {
                        manager.ready(self.holdings.names());
                    }
                    self.give_up_if_ending(clock::now());
                }
                Notice::Stopping if self.ending.is_none() && self.worker.was_told_to_hand_over() => {
                    let next = self.worker.start(&self.terms, self.inventory());
                    self.worker.replace(&self.terms, next);
                }
                // It is leaving its sessions to a service manager.
                Notice::Stopping if self.worker.was_told_to_hand_over() => self.worker.kill(),
                Notice::Stopping => warn!("the worker stops, and nobody has told it to"),
            }
        }
    }

    /// Keeps it, here and above.
    fn store(&mut self, name: String, descriptors: Vec<OwnedFd>) {
        let may_be = descriptors.iter().all(|descriptor| may_be_kept(descriptor.as_fd()));
        let kept: Vec<_> = descriptors.into_iter().map(Arc::new).collect();
        if !may_be || self.holdings.put(&name, kept.clone()).is_err() {
            return warn!(name, "the worker wants more kept than it may");
        }
        let kept: Vec<_> = kept.iter().map(|descriptor| descriptor.as_fd()).collect();
        self.pass_on(&Notice::Store { name }, &kept);
    }

    /// It only shows the worker whether there was room above for what came before.
    fn try_out(&mut self, name: String, descriptors: &[OwnedFd]) {
        let [descriptor] = descriptors else {
            return warn!(name, "the worker tries out more than one thing at once");
        };
        let is_new = self.trials.len() < MAX_TRIALS && !self.trials.contains(&name);
        if !is_new || !may_be_tried(descriptor.as_fd()) {
            return warn!(name, "the worker wants more kept than it may");
        }
        self.trials.insert(name.clone());
        self.pass_on(&Notice::Store { name }, &[descriptor.as_fd()]);
    }

    /// What a dead worker tried out is of no use to the next.
    pub(super) fn end_trials(&mut self) {
        let names = std::mem::take(&mut self.trials);
        if let Some(manager) = &self.manager {
            manager.clear(names);
        }
    }

    fn pass_on(&self, notice: &Notice, descriptors: &[BorrowedFd<'_>]) {
        if let Some(manager) = &self.manager {
            manager.pass_on(notice, descriptors);
        }
    }

    /// Nobody above has anything of it yet.
    pub(super) fn pass_on_all(&self) {
        for (name, descriptor) in self.holdings.iter() {
            let name = name.to_owned();
            self.pass_on(&Notice::Store { name }, &[descriptor.as_fd()]);
        }
    }

    pub(super) fn answer_requests(&mut self) {
        for _ in 0..REQUESTS_PER_TURN {
            let Some(control) = self.worker.control() else { return };
            let answered = match control::receive::<ToKeeper>(control) {
                Ok(Some(ToKeeper { id, request })) => {
                    let Reply { response, descriptor } = match request {
                        Request::ConnectToSshd { client, reached } => {
                            connect(&mut self.addresses, &mut self.answer, client, reached)
                        }
                        request => (self.answer)(request),
                    };
                    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
                    control::send_with(control, &FromKeeper::Answer { id, response }, &descriptors)
                }
                Ok(None) => return self.worker.close(clock::now() + self.terms.grace),
                Err(error) => Err(error),
            };
            match answered {
                Ok(()) => {}
                // Nothing more to read; or an answer that found no room, and will be missed in time.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It is not to be trusted: it speaks another language, or does not read what it asked for.
                Err(error) => self.worker.hang_up(&error),
            }
        }
    }

    /// The worker knows what to hand to a keeper that it has to raise.
    pub(super) fn tell_of_companion(&mut self) {
        let process = self.companion.as_ref().and_then(Companion::process);
        let (Some(control), Some(process)) = (self.worker.control(), process) else {
            return;
        };
        let message = FromKeeper::Companion { pid: process.pid() };
        if let Err(error) = control::send_with(control, &message, &[process.as_fd()]) {
            self.worker.hang_up(&error);
        }
    }
}

/// Connects to sshd from a client's address, if this keeper can. At another address than the client reached only if
/// that makes no difference to sshd.
fn connect(
    addresses: &mut Option<ClientAddresses>,
    answer: &mut Answer,
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
        } = answer(Request::ConnectToSshd { client, reached }).response
    {
        warn!(%client, local = %opened.local, obstacle, "sshd does not listen where the client came to, and that may matter");
        return Response::NotConnected(NotConnected::OtherAddress).into();
    }
    Reply {
        response: Response::Connecting { is_reached },
        descriptor: Some(opened.socket),
    }
}

impl From<NotOpened> for NotConnected {
    fn from(error: NotOpened) -> Self {
        match error {
            NotOpened::OwnAddress(_) => Self::OwnAddress,
            NotOpened::NoClient(_) => Self::NoClient,
            NotOpened::NotListening(..) => Self::NotListening,
            NotOpened::Kernel(error) => match Errno::from_io_error(&error) {
                Some(Errno::PERM | Errno::ACCESS) => Self::NotAllowed,
                errno => Self::Failed {
                    errno: errno.unwrap_or(Errno::IO).raw_os_error(),
                },
            },
        }
    }
}
