//! The keeper: the process of `bowline serve` that holds what needs privileges and what must outlive a worker. It
//! starts the worker and restarts it when it dies.
//!
//! It parses nothing from the network and has neither an async runtime nor threads: one loop waits for signals, for
//! the end of the worker's process, and for its two connections. Each worker is given the same settings and listening
//! sockets, which are made once, and every descriptor that earlier workers stored. A worker may die at any moment; the
//! next one continues its sessions.

mod control;
mod plan;
mod process;
mod reload;
mod sidecar;
mod signals;
mod stop;
mod systemd;
#[cfg(test)]
mod tests;
mod watchdog;
mod worker;
mod worker_messages;

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

use self::{
    plan::PreparedPlan,
    process::OwnProgram,
    sidecar::Sidecar,
    signals::{Signal, Signals},
    systemd::{Manager, StoreCheck},
    worker::Worker,
};
pub use self::{
    plan::{KeeperError, MAX_LISTENERS, RequestHandler, SidecarPlan, WorkerPlan},
    systemd::ServiceManager,
};
pub(super) use self::{process::RestartDelay, signals::with_signals_blocked};
use super::{
    client_address::ClientAddresses,
    handover::{Handover, Inventory, KeeperConfig, Listener, Role, StoredFds, raise_descriptor_limit},
    ipc::{Stop, control_socket::ControlServer},
};
use crate::clock;

/// Exit codes with which the first worker says that a restart would not help: sysexits' usage, unavailable, no
/// permission and configuration. After any other exit, and after any exit of a worker that has served, the keeper
/// starts a new worker.
pub const FINAL_EXIT_CODES: [i32; 4] = [64, 69, 77, 78];

/// Notifications handled before signals are checked again.
const NOTIFICATIONS_PER_TURN: usize = 1024;

/// Why the keeper ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeeperEnd {
    /// SIGTERM or SIGINT.
    Stopped,
    /// Another keeper has taken over.
    Replaced,
    /// The worker cannot work: it ended with one of [`FINAL_EXIT_CODES`].
    WorkerGaveUp {
        /// The worker's exit code.
        code: i32,
    },
}

/// Runs workers until it is told to stop. The first SIGTERM or SIGINT stops it gracefully, the second at once. SIGHUP
/// reloads.
pub struct Keeper {
    config: KeeperConfig,
    settings: OwnedFd,
    listeners: Vec<Listener>,
    stored_fds: StoredFds,
    /// Names of the descriptors by which the worker tests the service manager's store now.
    trials: BTreeSet<String>,
    worker: Worker,
    /// Whether a worker has served.
    served: bool,
    sidecar: Option<Sidecar>,
    control: Option<ControlServer>,
    manager: Option<Manager>,
    request_handler: RequestHandler,
    /// Opens connections to sshd from clients' addresses.
    addresses: Option<ClientAddresses>,
    signals: Signals,
    program: OwnProgram,
    ending: Option<KeeperEnd>,
    /// When sessions end, unless the service is started again before.
    end_sessions_at: Option<Instant>,
    store_check: StoreCheck,
}

impl Keeper {
    /// Prepares everything and starts the first worker. From now on the keeper handles this process's signals.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn start(plan: WorkerPlan, request_handler: RequestHandler) -> Result<Self, KeeperError> {
        let now = clock::now();
        let mut keeper = Self::new(plan.prepare()?, request_handler, now)?;
        keeper.start_worker(now).map_err(|source| KeeperError::Start {
            program: keeper.config.program.clone().into(),
            source,
        })?;
        Ok(keeper)
    }

    /// Continues with everything that another keeper held. If there is a plan, a new worker with the plan's settings
    /// replaces the running one; without a plan the worker keeps running.
    ///
    /// # Errors
    /// See [`KeeperError`].
    pub fn resume(
        handover: Handover,
        plan: Option<WorkerPlan>,
        request_handler: RequestHandler,
    ) -> Result<Self, KeeperError> {
        let now = clock::now();
        let is_changed = plan.is_some();
        let (old, running) = PreparedPlan::of(handover);
        let has_rights = !old.config.privileged || rustix::process::geteuid().is_root();
        if !has_rights {
            warn!(
                "this keeper was started by its worker and is not root: ports, host keys and sshd's settings stay as they \
                 are until bowline serve is restarted"
            );
            // This process has read secrets that other processes of its user must not see.
            let hidden = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
            hidden.map_err(|error| KeeperError::Prepare(error.into()))?;
        }
        let had_manager = old.config.manager.is_some();
        let mut prepared = match plan {
            Some(plan) => plan.prepare()?.after(old),
            None => old,
        };
        prepared.adopt_addresses();
        let sidecar = prepared.sidecar.take();
        let mut keeper = Self::new(prepared, request_handler, now)?;
        keeper.sidecar = sidecar.map(|plan| Sidecar::adopt(plan, running.sidecar, has_rights, now));
        keeper.inherit_control_listener(running.control_listener, now);
        keeper.served = true;
        if let Some(running) = running.worker {
            keeper.worker.adopt(running, now);
        }
        if !had_manager {
            keeper.forward_all();
        }
        if let Some(manager) = keeper.manager.as_ref().filter(|_| !is_changed) {
            manager.still_ready("the configuration was not reloaded");
        }
        if is_changed {
            keeper.worker.stop(Stop::HandOver, keeper.config.grace, now);
        }
        info!(
            kept = keeper.stored_fds.names(),
            worker = keeper.worker_pid(),
            "keeper continues with an existing worker"
        );
        Ok(keeper)
    }

    fn new(prepared: PreparedPlan, request_handler: RequestHandler, now: Instant) -> Result<Self, KeeperError> {
        raise_descriptor_limit();
        let signals = Signals::catch().map_err(KeeperError::Signals)?;
        let program = || OwnProgram::open().map_err(KeeperError::Prepare);
        let sidecar = prepared.sidecar.map(|plan| Sidecar::start(plan, now)).transpose()?;
        let manager = prepared.config.manager.as_ref();
        let manager = manager.and_then(|config| Manager::of(config, now));
        let mut store_check = StoreCheck::new(now);
        if let Some(manager) = &manager {
            manager.clear(prepared.obsolete_names);
            store_check.post_sentinel(manager);
            manager.keep_listeners(&prepared.listeners);
            manager.warn_if_unreachable();
        }
        Ok(Self {
            stored_fds: StoredFds::of(prepared.stored, prepared.config.store_limit),
            trials: BTreeSet::new(),
            manager,
            config: prepared.config,
            settings: prepared.settings,
            listeners: prepared.listeners,
            worker: Worker::none(program()?, now),
            served: false,
            sidecar,
            control: prepared
                .control_listener
                .map(|control_listener| ControlServer::new(control_listener, now)),
            request_handler,
            addresses: prepared.addresses,
            signals,
            program: program()?,
            ending: None,
            end_sessions_at: None,
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
    /// `Wait`. The worker is killed in that case.
    pub fn run(mut self) -> Result<KeeperEnd, KeeperError> {
        loop {
            let now = clock::now();
            self.reap(now);
            if let Some(end) = self.ending.filter(|_| self.has_ended()) {
                self.control.iter().for_each(ControlServer::close);
                self.remove_addresses();
                info!("keeper ended");
                return Ok(end);
            }
            self.start_what_is_due(now);
            self.wait(clock::now()).map_err(KeeperError::Wait)?;
            for signal in self.signals.take() {
                self.handle_signal(signal);
            }
            self.handle_notifications(NOTIFICATIONS_PER_TURN);
            self.answer_requests();
            self.end_sessions_if_due(clock::now());
            self.check_store_if_due(clock::now());
            self.kill_overdue(clock::now());
            if self.serve_control_socket(clock::now()) {
                self.ending = Some(KeeperEnd::Replaced);
                return Ok(KeeperEnd::Replaced);
            }
        }
    }

    /// Sessions that continue without this keeper need the rules for their connections to sshd.
    fn remove_addresses(&mut self) {
        let goes_on = self.worker.was_told_to_hand_over();
        if let Some(addresses) = self.addresses.as_mut().filter(|_| !goes_on) {
            addresses.remove_setup();
        }
    }

    fn has_ended(&self) -> bool {
        self.worker.process().is_none() && self.sidecar.as_ref().is_none_or(Sidecar::has_ended)
    }

    fn reap(&mut self, now: Instant) {
        if self.worker.has_ended() {
            // What it stored is for the next worker.
            self.handle_notifications(usize::MAX);
            self.end_trials();
        }
        let ended = self.worker.reap(now);
        if ended.is_some() {
            self.check_stop_again(now);
        }
        let code = ended.flatten();
        let gave_up = code.filter(|code| FINAL_EXIT_CODES.contains(code) && !self.served);
        if let Some(code) = gave_up.filter(|_| self.ending.is_none()) {
            warn!(code, "the worker cannot work; not starting another one");
            self.ending = Some(KeeperEnd::WorkerGaveUp { code });
        }
        if let Some(sidecar) = &mut self.sidecar {
            sidecar.reap(now);
            // After the worker: its sessions may still have bytes for the sidecar.
            if self.ending.is_some() && self.worker.process().is_none() {
                sidecar.stop(now + self.config.grace);
            }
        }
    }

    fn start_what_is_due(&mut self, now: Instant) {
        if let Some(sidecar) = &mut self.sidecar
            && sidecar.start_if_due(now)
        {
            self.send_sidecar();
        }
        if self.ending.is_none()
            && self.worker.is_due(now)
            && let Err(error) = self.start_worker(now)
        {
            self.worker.failed(&error, now);
        }
    }

    fn start_worker(&mut self, now: Instant) -> io::Result<()> {
        let (process, sockets) = match self.worker.take_next() {
            Some(next) => next,
            None => self.worker.start(&self.config, self.inventory())?,
        };
        self.worker.started(process, sockets, now);
        Ok(())
    }

    /// Everything except the worker.
    fn inventory(&self) -> Inventory<'_> {
        let mut inventory = Inventory::new(&self.config);
        inventory.add(Role::Settings, &self.settings);
        for listener in &self.listeners {
            inventory.add(Role::Listener, listener);
        }
        for (name, descriptor) in self.stored_fds.iter() {
            inventory.add(Role::Stored(name.to_owned()), &**descriptor);
        }
        if let Some(sidecar) = &self.sidecar {
            sidecar.list(&mut inventory);
        }
        if let Some(control) = &self.control {
            inventory.add_control_listener(control.listener());
        }
        inventory
    }

    fn kill_overdue(&mut self, now: Instant) {
        self.worker.kill_if_needed(now);
        if let Some(sidecar) = &mut self.sidecar {
            sidecar.kill_if_overdue(now);
        }
        if let Some(manager) = &mut self.manager {
            manager.send_watchdog(now);
        }
        if let Some(addresses) = &mut self.addresses {
            addresses.check(now);
        }
    }

    /// Waits for a signal, the end of a process, a request, a notification or the next deadline.
    fn wait(&self, now: Instant) -> io::Result<()> {
        // While the keeper ends, no next worker is started.
        let worker = self
            .worker
            .deadline()
            .filter(|_| self.ending.is_none() || self.worker.process().is_some());
        let sidecar = self.sidecar.as_ref().and_then(Sidecar::deadline);
        let control = self.control.as_ref().and_then(ControlServer::deadline);
        let manager = self.manager.as_ref().and_then(Manager::deadline);
        let addresses = self.addresses.as_ref().map(ClientAddresses::deadline);
        let deadlines = [
            worker,
            sidecar,
            control,
            manager,
            addresses,
            self.end_sessions_at,
            self.store_check_deadline(),
        ];
        let timeout = deadlines.into_iter().flatten().min().map(|deadline| {
            let wait = deadline.saturating_duration_since(now);
            Timespec {
                tv_sec: wait.as_secs() as _,
                tv_nsec: wait.subsec_nanos() as _,
            }
        });
        let processes = [self.worker.process(), self.sidecar.as_ref().and_then(Sidecar::process)];
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
            .chain(self.control.iter().flat_map(ControlServer::sources))
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
            Signal::Stop if self.ending.is_none() => self.handle_stop(now),
            Signal::Stop => {
                warn!("second signal to stop: killing the remaining processes");
                self.worker.kill();
                self.sidecar.iter_mut().for_each(Sidecar::kill);
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.worker.drop_next();
        // Another keeper owns these processes now.
        if self.ending != Some(KeeperEnd::Replaced) {
            self.worker.kill();
            self.sidecar.iter_mut().for_each(Sidecar::kill);
        }
    }
}
