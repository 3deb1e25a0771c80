//! A worker's connection with whichever keeper there is; and how it raises another when its own is gone.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use rustix::process::{PidfdFlags, WaitOptions, getpid, pidfd_open, wait};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Stop, StoreError,
    control::FromKeeper,
    estate::{Estate, Inventory, Role},
    holdings::Holdings,
    notice::Notice,
    pace::Pace,
    packet, process,
    wire::Wire,
};
use crate::clock;

/// Requests under way at once; the rest wait. The keeper answers one after the other.
const MOST_REQUESTS: usize = 16;

/// A new keeper is there within milliseconds; after this long it is tried anew.
const RAISE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Link {
    /// What every keeper gets, beside what is in `state`.
    estate: Estate,
    state: Mutex<State>,
    /// The present keeper's; `None` once there will be no other.
    present: watch::Sender<Option<Arc<Wire>>>,
    pub(super) next_id: AtomicU64,
    pub(super) slots: Semaphore,
    /// There is something to become.
    has_next: Notify,
    /// Cancelled when this process is to stop.
    pub(super) stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    holdings: Holdings,
    companion: Option<(u32, OwnedFd)>,
    how_to_stop: Option<Stop>,
    next: Option<Next>,
    /// There is a next: this process is not the one to go on any more.
    is_over: bool,
}

/// What this process is to become.
#[derive(Debug)]
struct Next {
    command: Command,
    /// Open until then.
    _program: OwnedFd,
}

impl Link {
    pub(super) fn new(control: OwnedFd, notify: OwnedFd, mut estate: Estate) -> io::Result<Arc<Self>> {
        let holdings = Holdings::of(std::mem::take(&mut estate.stored), estate.terms.store_limit);
        let companion = estate.companion.take();
        let wire = Wire::new(control, notify)?;
        Ok(Arc::new(Self {
            estate,
            state: Mutex::new(State {
                holdings,
                companion,
                how_to_stop: None,
                next: None,
                is_over: false,
            }),
            has_next: Notify::new(),
            present: watch::Sender::new(Some(Arc::new(wire))),
            next_id: AtomicU64::new(0),
            slots: Semaphore::new(MOST_REQUESTS),
            stop: CancellationToken::new(),
        }))
    }

    /// A keeper that lives, as far as is known; `None` when there will be none.
    pub(super) async fn wire(&self) -> Option<Arc<Wire>> {
        let mut present = self.present.subscribe();
        let is_news = |wire: &Option<Arc<Wire>>| wire.as_ref().is_none_or(|wire| !wire.is_gone());
        present.wait_for(is_news).await.ok()?.clone()
    }

    /// Whether a service manager has all that is stored: it starts another keeper, and needs none from here.
    fn is_kept_above(&self) -> bool {
        let manager = self.estate.terms.manager.as_ref();
        manager.is_some_and(|manager| manager.keeps > 0)
    }

    pub(super) fn how_to_stop(&self) -> Option<Stop> {
        self.state().how_to_stop
    }

    pub(super) fn ready(&self) {
        self.post(Notice::Ready, Vec::new());
    }

    /// Keeps more, here and with the keeper.
    pub(super) fn keep(&self, name: &str, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), StoreError> {
        let mut state = self.state();
        let kept = state.holdings.put(name, descriptors.clone());
        kept.map_err(|_full| StoreError::Full {
            limit: self.estate.terms.store_limit,
        })?;
        // With the state locked: a keeper is given what was kept before it, and told what is kept after.
        self.post(Notice::Store { name: name.to_owned() }, descriptors);
        Ok(())
    }

    pub(super) fn release(&self, name: &str) {
        let mut state = self.state();
        if state.holdings.remove(name) {
            self.post(Notice::Remove { name: name.to_owned() }, Vec::new());
        }
    }

    fn post(&self, notice: Notice, descriptors: Vec<Arc<OwnedFd>>) {
        if let Some(wire) = &*self.present.borrow() {
            wire.post(notice, descriptors);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Becomes the next worker, once the keeper says so. Returns only if that failed.
    pub(super) async fn become_next(&self) {
        self.has_next.notified().await;
        if let Some(mut next) = self.state().next.take() {
            let error = next.command.exec();
            warn!(%error, "cannot become the next worker");
        }
    }

    fn handle_message(&self, message: FromKeeper, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        match message {
            FromKeeper::Stop(stop) => {
                info!(?stop, "the keeper asks to stop");
                self.state().how_to_stop = Some(stop);
                self.stop.cancel();
            }
            FromKeeper::Companion { pid } => self.state().companion = descriptors.next().map(|watch| (pid, watch)),
            FromKeeper::Become { name, args } => {
                let (Some(connection), Some(program)) = (descriptors.next(), descriptors.next()) else {
                    return warn!("the keeper does not say what to become");
                };
                let mut output = || descriptors.next().map_or_else(Stdio::inherit, Stdio::from);
                let mut command = process::command(program.as_fd());
                command.arg0(name).args(args).stdin(Stdio::from(connection));
                command.stdout(output()).stderr(output());
                let mut state = self.state();
                state.is_over = true;
                state.next = Some(Next {
                    command,
                    _program: program,
                });
                self.has_next.notify_one();
            }
            // Whoever waits for it has got it from the wire.
            FromKeeper::Answer { .. } => {}
        }
    }

    /// Starts a keeper of the very program that runs here, and gives it everything.
    fn raise(&self) -> io::Result<(Arc<Wire>, Child)> {
        let (heirs, theirs) = packet::pair()?;
        let (control, their_control) = packet::pair()?;
        let (notify, their_notify) = packet::pair()?;
        let terms = &self.estate.terms;
        let child = Command::new("/proc/self/exe")
            .arg0(&terms.program)
            .args(&terms.keeper_args)
            .stdin(Stdio::from(theirs))
            .process_group(0)
            .spawn()?;
        let given = self.give(&heirs, (their_control, their_notify), Wire::new(control, notify)?);
        match given {
            Ok(wire) => Ok((wire, child)),
            Err(error) => {
                end(child);
                Err(error)
            }
        }
    }

    /// Gives everything to a keeper, and takes it for the present one.
    fn give(&self, heirs: &OwnedFd, theirs: (OwnedFd, OwnedFd), wire: Wire) -> io::Result<Arc<Wire>> {
        let this = pidfd_open(getpid(), PidfdFlags::empty())?;
        let state = self.state();
        let mut inventory = self.inventory(&state);
        let pid = std::process::id();
        let asked = state.how_to_stop;
        inventory.add(Role::WorkerProcess { pid, asked }, &this);
        inventory.add(Role::WorkerControl, &theirs.0);
        inventory.add(Role::Notify, &theirs.1);
        inventory.send(heirs, RAISE_TIMEOUT)?;
        let wire = Arc::new(wire);
        self.present.send_replace(Some(Arc::clone(&wire)));
        Ok(wire)
    }

    fn inventory<'a>(&'a self, state: &'a State) -> Inventory<'a> {
        let mut inventory = Inventory::new(&self.estate.terms);
        inventory.add(Role::Settings, &self.estate.settings);
        for listener in &self.estate.listeners {
            inventory.add(Role::Listener, listener);
        }
        for (name, descriptor) in state.holdings.iter() {
            inventory.add(Role::Stored(name.to_owned()), &**descriptor);
        }
        if let Some(input) = &self.estate.companion_input {
            inventory.add(Role::CompanionInput, input);
        }
        if let Some((pid, watch)) = &state.companion {
            inventory.add(Role::CompanionProcess { pid: *pid }, watch);
        }
        if let Some(door) = &self.estate.door {
            inventory.add_door(door);
        }
        inventory
    }

    /// There will be no keeper any more.
    fn close(&self) {
        if let Some(wire) = self.present.send_replace(None) {
            wire.close();
        }
        self.stop.cancel();
    }
}

/// Listens to one keeper after the other, until told that no other is wanted.
pub(super) async fn run(link: Arc<Link>, token: CancellationToken) {
    token.run_until_cancelled(serve(&link)).await;
    link.close();
}

async fn serve(link: &Link) {
    let Some(mut wire) = link.wire().await else { return };
    // A keeper that is this process's child. It must outlive this process: nothing is done when it is dropped.
    let mut raised: Option<Child> = None;
    let mut pace = Pace::default();
    let mut since = clock::now();
    loop {
        let mut is_good = raised.is_none();
        tokio::select! {
            () = wire.serve(|message, descriptors| link.handle_message(message, descriptors)) => {}
            // The one that started this process may take its time: it cannot be ended from here.
            () = test(&wire, since, &mut is_good), if raised.is_some() => {
                warn!("the new keeper does nothing: killed");
            }
        }
        if link.state().is_over {
            return;
        }
        wire.close();
        raised.take().into_iter().for_each(end);
        // One that this process raised before it became this worker.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if link.how_to_stop() == Some(Stop::End) {
            return;
        }
        if link.is_kept_above() {
            info!("the service manager starts a new keeper, and has everything");
            link.state().how_to_stop = Some(Stop::HandOver);
            return;
        }
        (wire, raised) = loop {
            let lived = clock::now().saturating_duration_since(since);
            tokio::time::sleep(pace.after_death(lived, is_good)).await;
            since = clock::now();
            match link.raise() {
                Ok((wire, keeper)) => break (wire, Some(keeper)),
                Err(error) => warn!(%error, "cannot raise a new keeper"),
            }
            is_good = false;
        };
    }
}

/// Sees whether a keeper works; returns if it does not.
async fn test(wire: &Wire, since: Instant, is_good: &mut bool) {
    match tokio::time::timeout(RAISE_TIMEOUT, wire.barrier()).await {
        Ok(Ok(())) => {
            *is_good = true;
            let took_ms = clock::now().saturating_duration_since(since).as_millis();
            info!(took_ms, "a new keeper is there");
        }
        // It has told, or will, by its end.
        Ok(Err(_)) => {}
        Err(_) => return,
    }
    std::future::pending().await
}

/// It is gone already, or good for nothing.
fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}
