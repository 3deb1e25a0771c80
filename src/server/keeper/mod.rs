//! The keeper: holds what needs privilege and what must outlive a worker, starts the worker and keeps it running.
//!
//! It parses nothing from the network and has neither an async runtime nor threads: one loop over signals, the worker's
//! process and its two connections. Everything a worker needs is handed to each: settings and listening sockets, made
//! once, and all that the worker before wanted kept. A worker may die at any moment and the next goes on.

mod bus;
mod client;
mod companion;
mod control;
mod environment;
mod estate;
mod heed;
mod holdings;
mod inheritance;
mod limits;
mod link;
mod listener;
mod lobby;
mod manager;
mod notice;
mod pace;
mod packet;
mod parcel;
mod plan;
mod process;
mod reload;
mod signals;
mod stop;
mod store;
mod store_check;
#[cfg(test)]
mod tests;
mod unit;
mod user;
mod watchdog;
mod wire;
mod worker;

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tracing::{info, warn};

pub use self::{
    client::{KeeperClient, RequestError},
    control::{NotConnected, Reply, Request, Response, Stop},
    environment::ServiceManager,
    estate::{Estate, EstateError},
    inheritance::{Control, InheritanceError, WorkerInheritance},
    limits::{descriptors_for, raise_descriptor_limit, sessions_within, store_limit},
    listener::{Endpoint, Listener, Protocol},
    lobby::{Door, Neighbour, Neighbours, Offer, Refusal, TakeOverError, Who, neighbours},
    plan::{Answer, CompanionPlan, KeeperError, MOST_HANDOVER, MOST_LISTENERS, WorkerPlan},
    store::{Store, StoreError},
    store_check::StoreShortage,
    user::{WorkerUser, WorkerUserError, choose_worker_user},
};
use self::{
    companion::Companion,
    estate::{Inventory, Role, Terms},
    holdings::Holdings,
    lobby::Lobby,
    manager::Manager,
    plan::Settled,
    process::OwnProgram,
    signals::{Signal, Signals},
    store_check::StoreCheck,
    worker::Worker,
};
use crate::clock;
use crate::server::client_address::ClientAddresses;

/// Exit codes by which the first worker says that another start would not help either: sysexits' usage, unavailable,
/// no permission, configuration. Any other end, and any after one has served, is answered by a new worker.
pub const FINAL_EXIT_CODES: [i32; 4] = [64, 69, 77, 78];

/// Notices heeded before signals are looked at again.
const NOTICES_PER_TURN: usize = 1024;

/// How the keeper ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeeperEnd {
    /// It was told to by SIGTERM or SIGINT.
    Stopped,
    /// Another keeper has everything by now.
    Replaced,
    /// The worker said by its exit code, one of [`FINAL_EXIT_CODES`], that it cannot work.
    WorkerGaveUp {
        /// That exit code.
        code: i32,
    },
}

/// Runs workers until it is told to stop: SIGTERM or SIGINT stop it gracefully, a second one at once; SIGHUP
/// reloads.
pub struct Keeper {
    terms: Terms,
    settings: OwnedFd,
    listeners: Vec<Listener>,
    holdings: Holdings,
    /// Names under which the worker tries out the manager now.
    trials: BTreeSet<String>,
    worker: Worker,
    /// Whether a worker has served.
    served: bool,
    companion: Option<Companion>,
    lobby: Option<Lobby>,
    manager: Option<Manager>,
    answer: Answer,
    /// Connects to sshd from clients' addresses.
    addresses: Option<ClientAddresses>,
    signals: Signals,
    program: OwnProgram,
    ending: Option<KeeperEnd>,
    /// When sessions end, unless a start overtakes the stop.
    give_up_at: Option<Instant>,
    store_check: StoreCheck,
}

impl Keeper {
    /// Prepares everything and starts the first worker. From here on this process's signals are the keeper's.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn start(plan: WorkerPlan, answer: Answer) -> Result<Self, KeeperError> {
        let now = clock::now();
        let mut keeper = Self::new(plan.settle()?, answer, now)?;
        keeper.start_worker(now).map_err(|source| KeeperError::Start {
            program: keeper.terms.program.clone().into(),
            source,
        })?;
        Ok(keeper)
    }

    /// Goes on with what another keeper held. With a plan, the worker is replaced by one that goes by it; without, all
    /// stays as it was.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn go_on(estate: Estate, plan: Option<WorkerPlan>, answer: Answer) -> Result<Self, KeeperError> {
        let now = clock::now();
        let is_changed = plan.is_some();
        let (old, heirloom) = Settled::of(estate);
        let has_rights = !old.terms.privileged || rustix::process::geteuid().is_root();
        if !has_rights {
            warn!(
                "this keeper was raised by its worker and is not root: ports, host keys and sshd's settings stay as they \
                 are until bowline serve is started anew"
            );
            // It has read what its user must not show to others of that name.
            let hidden = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
            hidden.map_err(|error| KeeperError::Prepare(error.into()))?;
        }
        let had_manager = old.terms.manager.is_some();
        let mut settled = match plan {
            Some(plan) => plan.settle()?.after(old),
            None => old,
        };
        settled.go_on_with_addresses();
        let companion = settled.companion.take();
        let mut keeper = Self::new(settled, answer, now)?;
        keeper.companion = companion.map(|plan| Companion::go_on(plan, heirloom.companion, has_rights, now));
        keeper.inherit_door(heirloom.door, now);
        keeper.served = true;
        if let Some(running) = heirloom.worker {
            keeper.worker.go_on(running, now);
        }
        if !had_manager {
            keeper.pass_on_all();
        }
        if let Some(manager) = keeper.manager.as_ref().filter(|_| !is_changed) {
            manager.still_ready("not reloaded");
        }
        if is_changed {
            keeper.worker.stop(Stop::HandOver, keeper.terms.grace, now);
        }
        info!(
            kept = keeper.holdings.names(),
            worker = keeper.worker_pid(),
            "keeper goes on"
        );
        Ok(keeper)
    }

    fn new(settled: Settled, answer: Answer, now: Instant) -> Result<Self, KeeperError> {
        limits::raise_descriptor_limit();
        let signals = Signals::catch().map_err(KeeperError::Signals)?;
        let program = || OwnProgram::open().map_err(KeeperError::Prepare);
        let companion = settled.companion.map(|plan| Companion::start(plan, now)).transpose()?;
        let manager = settled.terms.manager.as_ref();
        let manager = manager.and_then(|terms| Manager::of(terms, now));
        let mut store_check = StoreCheck::new(now);
        if let Some(manager) = &manager {
            manager.clear(settled.leftovers);
            store_check.post_sentinel(manager);
            manager.keep_listeners(&settled.listeners);
            manager.warn_if_silent();
        }
        Ok(Self {
            holdings: Holdings::of(settled.stored, settled.terms.store_limit),
            trials: BTreeSet::new(),
            manager,
            terms: settled.terms,
            settings: settled.settings,
            listeners: settled.listeners,
            worker: Worker::none(program()?, now),
            served: false,
            companion,
            lobby: settled.door.map(|door| Lobby::new(door, now)),
            answer,
            addresses: settled.addresses,
            signals,
            program: program()?,
            ending: None,
            give_up_at: None,
            store_check,
        })
    }

    /// The process id of the worker, while there is one.
    pub fn worker_pid(&self) -> Option<u32> {
        self.worker.process().map(process::Process::pid)
    }

    /// Keeps the worker running until the end.
    ///
    /// # Errors
    /// `Wait`. The worker is killed then.
    pub fn run(mut self) -> Result<KeeperEnd, KeeperError> {
        loop {
            let now = clock::now();
            self.reap(now);
            if let Some(end) = self.ending.filter(|_| self.nothing_runs()) {
                self.lobby.iter().for_each(Lobby::close);
                self.leave_addresses();
                info!("keeper ended");
                return Ok(end);
            }
            self.start_what_is_due(now);
            self.wait(clock::now()).map_err(KeeperError::Wait)?;
            for signal in self.signals.take() {
                self.handle_signal(signal);
            }
            self.heed_notices(NOTICES_PER_TURN);
            self.answer_requests();
            self.give_up_if_due(clock::now());
            self.check_store_if_due(clock::now());
            self.kill_what_hangs(clock::now());
            if self.attend_lobby(clock::now()) {
                self.ending = Some(KeeperEnd::Replaced);
                return Ok(KeeperEnd::Replaced);
            }
        }
    }

    /// Sessions that go on without this keeper need what was set up for their connections to sshd.
    fn leave_addresses(&mut self) {
        let goes_on = self.worker.was_told_to_hand_over();
        if let Some(addresses) = self.addresses.as_mut().filter(|_| !goes_on) {
            addresses.take_back();
        }
    }

    fn nothing_runs(&self) -> bool {
        self.worker.process().is_none() && self.companion.as_ref().is_none_or(Companion::has_ended)
    }

    fn reap(&mut self, now: Instant) {
        if self.worker.has_ended() {
            // What it wanted kept is for the next one.
            self.heed_notices(usize::MAX);
            self.end_trials();
        }
        let ended = self.worker.reap(now);
        if ended.is_some() {
            self.look_once_more(now);
        }
        let code = ended.flatten();
        let gave_up = code.filter(|code| FINAL_EXIT_CODES.contains(code) && !self.served);
        if let Some(code) = gave_up.filter(|_| self.ending.is_none()) {
            warn!(code, "the worker cannot work, not starting another");
            self.ending = Some(KeeperEnd::WorkerGaveUp { code });
        }
        if let Some(companion) = &mut self.companion {
            companion.reap(now);
            // After the worker: its sessions may still have bytes for the companion.
            if self.ending.is_some() && self.worker.process().is_none() {
                companion.stop(now + self.terms.grace);
            }
        }
    }

    fn start_what_is_due(&mut self, now: Instant) {
        if let Some(companion) = &mut self.companion
            && companion.start_if_due(now)
        {
            self.tell_of_companion();
        }
        if self.ending.is_none()
            && self.worker.is_due(now)
            && let Err(error) = self.start_worker(now)
        {
            self.worker.failed(&error, now);
        }
    }

    fn start_worker(&mut self, now: Instant) -> io::Result<()> {
        let (process, ends) = match self.worker.take_next() {
            Some(next) => next,
            None => self.worker.start(&self.terms, self.inventory())?,
        };
        self.worker.started(process, ends, now);
        Ok(())
    }

    /// Everything but the worker.
    fn inventory(&self) -> Inventory<'_> {
        let mut inventory = Inventory::new(&self.terms);
        inventory.add(Role::Settings, &self.settings);
        for listener in &self.listeners {
            inventory.add(Role::Listener, listener);
        }
        for (name, descriptor) in self.holdings.iter() {
            inventory.add(Role::Stored(name.to_owned()), &**descriptor);
        }
        if let Some(companion) = &self.companion {
            companion.list(&mut inventory);
        }
        if let Some(lobby) = &self.lobby {
            inventory.add_door(lobby.door());
        }
        inventory
    }

    fn kill_what_hangs(&mut self, now: Instant) {
        self.worker.kill_if_needed(now);
        if let Some(companion) = &mut self.companion {
            companion.kill_if_overdue(now);
        }
        if let Some(manager) = &mut self.manager {
            manager.give_sign(now);
        }
        if let Some(addresses) = &mut self.addresses {
            addresses.check(now);
        }
    }

    /// Until a signal, an end, a request, a notice or the next deadline.
    fn wait(&self, now: Instant) -> io::Result<()> {
        // At the end there is no next worker to be started at its time.
        let worker = self
            .worker
            .deadline()
            .filter(|_| self.ending.is_none() || self.worker.process().is_some());
        let companion = self.companion.as_ref().and_then(Companion::deadline);
        let lobby = self.lobby.as_ref().and_then(Lobby::deadline);
        let manager = self.manager.as_ref().and_then(Manager::deadline);
        let addresses = self.addresses.as_ref().map(ClientAddresses::deadline);
        let deadlines = [
            worker,
            companion,
            lobby,
            manager,
            addresses,
            self.give_up_at,
            self.store_check_deadline(),
        ];
        let timeout = deadlines.into_iter().flatten().min().map(|deadline| {
            let wait = deadline.saturating_duration_since(now);
            Timespec {
                tv_sec: wait.as_secs() as _,
                tv_nsec: wait.subsec_nanos() as _,
            }
        });
        let processes = [
            self.worker.process(),
            self.companion.as_ref().and_then(Companion::process),
        ];
        let sources = [
            Some(self.signals.as_fd()),
            self.worker.control(),
            self.worker.notify(),
            self.addresses.as_ref().and_then(ClientAddresses::watch),
        ];
        let sources = sources
            .into_iter()
            .chain(processes.map(|process| process.map(AsFd::as_fd)));
        let mut fds: Vec<_> = sources
            .flatten()
            .chain(self.lobby.iter().flat_map(Lobby::sources))
            .chain(self.store_check.source())
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn handle_signal(&mut self, signal: Signal) {
        let now = clock::now();
        match signal {
            Signal::Reload if self.ending.is_some() => {}
            Signal::Reload => self.reload(now),
            Signal::Stop if self.ending.is_none() => self.begin_to_stop(now),
            Signal::Stop => {
                warn!("told to stop again: killing what is left");
                self.worker.kill();
                self.companion.iter_mut().for_each(Companion::kill);
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.worker.drop_next();
        // What another has now is none of ours.
        if self.ending != Some(KeeperEnd::Replaced) {
            self.worker.kill();
            self.companion.iter_mut().for_each(Companion::kill);
        }
    }
}
