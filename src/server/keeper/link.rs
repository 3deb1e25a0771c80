//! A worker's connection with whichever keeper there is; and how it raises another when its own is gone.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{PidfdFlags, getpid, pidfd_open};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Stop, StoreError,
    control::FromKeeper,
    estate::{Estate, Inventory, Role},
    holdings::Holdings,
    manager::TRIAL_NAME,
    notice::Notice,
    pace::Pace,
    packet, signals,
    wire::Wire,
};
use crate::clock;

/// Requests under way at once; the rest wait. The keeper answers one after the other.
const MOST_REQUESTS: usize = 16;

/// Askers that wait for their turn: all that a keeper has in its lobby.
const MOST_VISITORS: usize = 8;

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
    visitors: mpsc::Sender<OwnedFd>,
    /// Until somebody attends to them.
    visiting: Mutex<Option<mpsc::Receiver<OwnedFd>>>,
    /// Whether the present keeper was started from here, with the rights of this process.
    pub(super) is_raised: AtomicBool,
    /// Cancelled when this process is to stop.
    pub(super) stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    holdings: Holdings,
    companion: Option<(u32, OwnedFd)>,
    how_to_stop: Option<Stop>,
}

/// Something that the service manager is to keep until this is dropped.
pub(super) struct Trial<'a> {
    link: &'a Link,
    name: String,
    ours: OwnedFd,
}

impl Trial<'_> {
    /// To be asked once it has done all that it was told.
    pub(super) fn was_kept(&self) -> bool {
        !packet::is_hung_up(self.ours.as_fd())
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        self.link.post(Notice::Remove { name }, Vec::new());
    }
}

impl Link {
    pub(super) fn new(control: OwnedFd, notify: OwnedFd, mut estate: Estate) -> io::Result<Arc<Self>> {
        let holdings = Holdings::of(std::mem::take(&mut estate.stored), estate.terms.store_limit);
        let companion = estate.companion.take();
        let wire = Wire::new(control, notify)?;
        let (visitors, visiting) = mpsc::channel(MOST_VISITORS);
        Ok(Arc::new(Self {
            estate,
            visitors,
            visiting: Mutex::new(Some(visiting)),
            state: Mutex::new(State {
                holdings,
                companion,
                how_to_stop: None,
            }),
            present: watch::Sender::new(Some(Arc::new(wire))),
            next_id: AtomicU64::new(0),
            slots: Semaphore::new(MOST_REQUESTS),
            is_raised: AtomicBool::new(false),
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

    /// Those whom keepers bring. `None` after the first time.
    pub(super) fn visitors(&self) -> Option<mpsc::Receiver<OwnedFd>> {
        self.visiting.lock().unwrap_or_else(PoisonError::into_inner).take()
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

    /// Has the service manager keep one thing more, which shows that it kept what came before. `None` without one.
    pub(super) fn start_trial(&self) -> io::Result<Option<Trial<'_>>> {
        if !self.is_kept_above() {
            return Ok(None);
        }
        let (ours, theirs) = packet::pair()?;
        // Unlike any other under way: as many as fit the length of a name.
        let number = self.next_id.fetch_add(1, Ordering::Relaxed) % 0x1000;
        let name = format!("{TRIAL_NAME}{number:03x}");
        self.post(Notice::Store { name: name.clone() }, vec![Arc::new(theirs)]);
        Ok(Some(Trial { link: self, name, ours }))
    }

    /// There is no room for what was kept last.
    pub(super) fn full(&self) -> StoreError {
        StoreError::Full {
            limit: self.state().holdings.iter().count(),
        }
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

    fn handle_message(&self, message: FromKeeper, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        match message {
            FromKeeper::Stop(stop) => {
                info!(?stop, "the keeper asks to stop");
                self.state().how_to_stop = Some(stop);
                self.stop.cancel();
            }
            FromKeeper::Visitor => {
                // Where too many wait, or nobody attends to them, this one is not let in.
                let _ = descriptors.next().map(|visitor| self.visitors.try_send(visitor));
            }
            FromKeeper::Companion { pid } => self.state().companion = descriptors.next().map(|watch| (pid, watch)),
            // Whoever waits for it has got it from the wire.
            FromKeeper::Answer { .. } => {}
        }
    }

    /// Starts a keeper of the very program that runs here, and gives it everything.
    fn raise(&self) -> io::Result<(Arc<Wire>, Child)> {
        let (heirs, theirs) = packet::pair()?;
        let (control, their_control) = packet::pair()?;
        let (notify, their_notify) = packet::pair()?;
        // First of all: should this process die now, whoever has been started finds all that it needs.
        let wire = self.give(&heirs, (their_control, their_notify), Wire::new(control, notify)?)?;
        let terms = &self.estate.terms;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(&terms.program)
            .args(&terms.keeper_args)
            .stdin(Stdio::from(theirs))
            .process_group(0);
        match signals::held_by(|| command.spawn()) {
            Ok(child) => Ok((wire, child)),
            Err(error) => {
                wire.close();
                Err(error)
            }
        }
    }

    /// Leaves everything for a keeper that is to come, and takes it for the present one.
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
        let error = tokio::select! {
            error = wire.serve(|message, descriptors| link.handle_message(message, descriptors)) => error,
            // The one that started this process may take its time: it cannot be ended from here.
            () = test(&wire, since, &mut is_good), if raised.is_some() => Some(io::ErrorKind::TimedOut.into()),
        };
        warn!(error = error.map(tracing::field::display), "the keeper is gone");
        wire.close();
        raised.take().into_iter().for_each(end);
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
                Ok((wire, keeper)) => {
                    link.is_raised.store(true, Ordering::Relaxed);
                    break (wire, Some(keeper));
                }
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
