//! The worker's interface to its keeper: requests, the descriptor store, and the order to stop.
//!
//! If the keeper dies, the worker starts another one and gives it everything. Pending calls wait for the next keeper.

mod connection;

use std::{
    future::Future,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::connection::{Connection, ConnectionError};
use crate::{
    clock,
    server::{
        handover::{FdStore, FdStoreError, Handover, Inventory, Role, StoredFds},
        ipc::{
            KeeperMessage, Notification, Reply, Request, Stop, TRIAL_NAME, is_worker_name,
            seqpacket::{self, MAX_DESCRIPTORS},
        },
        supervisor::{RestartDelay, with_signals_blocked},
    },
    tasks::Tasks,
};

/// A keeper answers within milliseconds, and its replacement takes a few more. A keeper that needs longer than this
/// hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for storing descriptors, which may include the service manager.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// The most requests under way at once; others wait. The keeper answers one after the other.
const MAX_REQUESTS: usize = 16;

/// Clients of the status protocol that wait for their turn: as many as a keeper serves at once.
const MAX_STATUS_CLIENTS: usize = 8;

/// A new keeper answers within milliseconds; after this time another one is started.
const KEEPER_START_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle to the keeper.
#[derive(Debug, Clone)]
pub struct KeeperClient(Arc<Link>);

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The keeper has died and is not replaced.
    #[error("the keeper has ended")]
    Gone,
    /// The keeper did not answer in time.
    #[error("the keeper did not answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
    /// The request could not be sent; `InvalidInput` means that it is too long.
    #[error("cannot send a request to the keeper")]
    Send(#[source] io::Error),
}

impl KeeperClient {
    pub(super) fn connect(control: OwnedFd, notify: OwnedFd, handover: Handover, tasks: &Tasks) -> io::Result<Self> {
        let link = Link::new(control, notify, handover)?;
        tasks.spawn("keeper link", run(Arc::clone(&link), tasks.token()));
        Ok(Self(link))
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(&self, request: Request) -> Result<Reply, RequestError> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(request)).await;
        asked.unwrap_or(Err(RequestError::Timeout))
    }

    /// Cancelled when the keeper asks the worker to stop, or has died and is not replaced.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// How the worker is to stop; `None` if it is not to stop.
    pub fn how_to_stop(&self) -> Option<Stop> {
        self.0.how_to_stop()
    }

    /// Whether the keeper is as unprivileged as this process, because this process started it after the previous one
    /// had died.
    pub fn lacks_rights(&self) -> bool {
        self.0.is_own_child.load(Ordering::Relaxed) && !rustix::process::geteuid().is_root()
    }

    /// Connections of clients of the status protocol. `None` from the second call on.
    pub(crate) fn status_clients(&self) -> Option<mpsc::Receiver<OwnedFd>> {
        self.0.status_clients()
    }

    /// Tells the keeper that this worker serves. To be called once.
    pub fn ready(&self) {
        self.0.ready();
    }

    /// Leaves everything to the next worker: this process must not touch anything that is stored from now on. To be
    /// called after [`Stop::HandOver`]. Until a keeper ends this process it keeps everything that is stored, in case
    /// it has to start a new keeper.
    ///
    /// Returns if no keeper ends this process within 5 s; the process should then exit, as after a crash.
    pub async fn hand_over(&self) {
        let _ = tokio::time::timeout(STORE_TIMEOUT, self.leave_everything()).await;
    }

    async fn leave_everything(&self) {
        // If its keeper dies meanwhile, the next one is told.
        while let Some(connection) = self.0.connection().await {
            connection.post(Notification::Stopping, Vec::new());
            connection.closed().await;
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, RequestError> {
        let _slot = self.0.slots.acquire().await.map_err(|_| RequestError::Gone)?;
        loop {
            let connection = self.0.connection().await.ok_or(RequestError::Gone)?;
            let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
            match connection.ask(id, request.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(ConnectionError::Send(error)) => return Err(RequestError::Send(error)),
                // A request changes nothing, so the next keeper can be asked again.
                Err(ConnectionError::Gone) => connection.closed().await,
            }
        }
    }

    async fn store(&self, name: &str, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), FdStoreError> {
        if !is_worker_name(name) {
            let name = name.to_owned();
            return Err(FdStoreError::Name { name });
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            let given = descriptors.len();
            return Err(FdStoreError::TooMany { given });
        }
        self.0.keep(name, descriptors)?;
        let confirmed = tokio::time::timeout(STORE_TIMEOUT, self.confirm_room()).await;
        let confirmed = confirmed.unwrap_or(Err(FdStoreError::Timeout));
        if confirmed.is_err() {
            self.0.release(name);
        }
        confirmed
    }

    /// Returns once everything is stored, by the service manager too if there is one.
    async fn confirm_room(&self) -> Result<(), FdStoreError> {
        let trial = self.0.start_trial().map_err(FdStoreError::Send)?;
        self.confirm().await?;
        match trial.is_none_or(|trial| trial.was_kept()) {
            true => Ok(()),
            false => Err(self.0.full()),
        }
    }

    /// Returns once a keeper has handled everything that was sent before.
    async fn confirm(&self) -> Result<(), FdStoreError> {
        loop {
            // A keeper that is started later is given everything at its start.
            let connection = self.0.connection().await.ok_or(FdStoreError::Gone)?;
            match connection.barrier().await {
                Ok(()) => return Ok(()),
                Err(ConnectionError::Send(error)) => return Err(FdStoreError::Send(error)),
                Err(ConnectionError::Gone) => connection.closed().await,
            }
        }
    }
}

impl FdStore for KeeperClient {
    fn put<'a>(
        &'a self,
        name: &'a str,
        descriptors: Vec<Arc<OwnedFd>>,
    ) -> Pin<Box<dyn Future<Output = Result<(), FdStoreError>> + Send + 'a>> {
        Box::pin(self.store(name, descriptors))
    }

    fn remove(&self, name: &str) {
        self.0.release(name);
    }
}

/// The connection to the current keeper, and what every keeper is given.
#[derive(Debug)]
struct Link {
    /// What every keeper is given, beside what is in `state`.
    handover: Handover,
    state: Mutex<State>,
    /// The connection to the current keeper; `None` if there is no keeper and none is going to be started.
    present: watch::Sender<Option<Arc<Connection>>>,
    next_id: AtomicU64,
    slots: Semaphore,
    status_clients: mpsc::Sender<OwnedFd>,
    /// Until the worker takes it.
    status_clients_receiver: Mutex<Option<mpsc::Receiver<OwnedFd>>>,
    /// Whether this process has started the current keeper, which then has only its rights.
    is_own_child: AtomicBool,
    /// Cancelled when this process is to stop.
    stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    stored_fds: StoredFds,
    sidecar: Option<(u32, OwnedFd)>,
    how_to_stop: Option<Stop>,
}

/// A descriptor that tests whether the service manager's store has room. It is removed when this is dropped.
struct Trial<'a> {
    link: &'a Link,
    name: String,
    ours: OwnedFd,
}

impl Trial<'_> {
    /// Whether the descriptor is stored. To be called after a barrier.
    fn was_kept(&self) -> bool {
        !seqpacket::is_hung_up(self.ours.as_fd())
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        self.link.post(Notification::Remove { name }, Vec::new());
    }
}

impl Link {
    fn new(control: OwnedFd, notify: OwnedFd, mut handover: Handover) -> io::Result<Arc<Self>> {
        let stored_fds = StoredFds::of(std::mem::take(&mut handover.stored), handover.config.store_limit);
        let sidecar = handover.sidecar.take();
        let connection = Connection::new(control, notify)?;
        let (status_clients, status_clients_receiver) = mpsc::channel(MAX_STATUS_CLIENTS);
        Ok(Arc::new(Self {
            handover,
            status_clients,
            status_clients_receiver: Mutex::new(Some(status_clients_receiver)),
            state: Mutex::new(State {
                stored_fds,
                sidecar,
                how_to_stop: None,
            }),
            present: watch::Sender::new(Some(Arc::new(connection))),
            next_id: AtomicU64::new(0),
            slots: Semaphore::new(MAX_REQUESTS),
            is_own_child: AtomicBool::new(false),
            stop: CancellationToken::new(),
        }))
    }

    /// The current keeper, as far as is known; `None` if there is none and none is going to be started.
    async fn connection(&self) -> Option<Arc<Connection>> {
        let mut present = self.present.subscribe();
        let is_news =
            |connection: &Option<Arc<Connection>>| connection.as_ref().is_none_or(|connection| !connection.is_gone());
        present.wait_for(is_news).await.ok()?.clone()
    }

    /// Whether a service manager stores everything: it starts the next keeper itself.
    fn manager_has_store(&self) -> bool {
        let manager = self.handover.config.manager.as_ref();
        manager.is_some_and(|manager| manager.capacity > 0)
    }

    fn how_to_stop(&self) -> Option<Stop> {
        self.state().how_to_stop
    }

    /// Connections of clients of the status protocol, from all keepers. `None` from the second call on.
    fn status_clients(&self) -> Option<mpsc::Receiver<OwnedFd>> {
        self.status_clients_receiver.lock().take()
    }

    fn ready(&self) {
        self.post(Notification::Ready, Vec::new());
    }

    /// Stores descriptors here and with the keeper.
    fn keep(&self, name: &str, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), FdStoreError> {
        let mut state = self.state();
        let kept = state.stored_fds.put(name, descriptors.clone());
        kept.map_err(|_full| FdStoreError::Full {
            limit: self.handover.config.store_limit,
        })?;
        // With the state locked: a keeper that is started gets what was stored before, and is sent what is stored
        // afterwards.
        self.post(Notification::Store { name: name.to_owned() }, descriptors);
        Ok(())
    }

    /// Stores one more descriptor with the service manager. If it is kept, so is everything before it. `None` without
    /// a service manager.
    fn start_trial(&self) -> io::Result<Option<Trial<'_>>> {
        if !self.manager_has_store() {
            return Ok(None);
        }
        let (ours, theirs) = seqpacket::pair()?;
        // Different from all others that are under way: 4096 numbers fit into the name.
        let number = self.next_id.fetch_add(1, Ordering::Relaxed) % 0x1000;
        let name = format!("{TRIAL_NAME}{number:03x}");
        self.post(Notification::Store { name: name.clone() }, vec![Arc::new(theirs)]);
        Ok(Some(Trial { link: self, name, ours }))
    }

    /// The error for descriptors that did not fit into the store.
    fn full(&self) -> FdStoreError {
        FdStoreError::Full {
            limit: self.state().stored_fds.iter().count(),
        }
    }

    fn release(&self, name: &str) {
        let mut state = self.state();
        if state.stored_fds.remove(name) {
            self.post(Notification::Remove { name: name.to_owned() }, Vec::new());
        }
    }

    fn post(&self, notification: Notification, descriptors: Vec<Arc<OwnedFd>>) {
        if let Some(connection) = &*self.present.borrow() {
            connection.post(notification, descriptors);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn handle_message(&self, message: KeeperMessage, descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        match message {
            KeeperMessage::Stop(stop) => {
                info!(?stop, "the keeper asks this worker to stop");
                self.state().how_to_stop = Some(stop);
                self.stop.cancel();
            }
            KeeperMessage::StatusClient => {
                // If too many clients wait, or the worker takes none, this one is closed.
                let _ = descriptors
                    .next()
                    .map(|status_client| self.status_clients.try_send(status_client));
            }
            KeeperMessage::Sidecar { pid } => self.state().sidecar = descriptors.next().map(|watch| (pid, watch)),
            // The connection has passed it to the request.
            KeeperMessage::Answer { .. } => {}
        }
    }

    /// Starts a keeper from the same program file and hands everything over to it.
    fn start_keeper(&self) -> io::Result<(Arc<Connection>, Child)> {
        let (ours, theirs) = seqpacket::pair()?;
        let (control, their_control) = seqpacket::pair()?;
        let (notify, their_notify) = seqpacket::pair()?;
        // The handover is sent before the keeper starts: if this process dies now, the keeper still finds everything
        // it needs.
        let connection = self.send_handover(&ours, (their_control, their_notify), Connection::new(control, notify)?)?;
        let config = &self.handover.config;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0(&config.program)
            .args(&config.keeper_args)
            .stdin(Stdio::from(theirs))
            .process_group(0);
        match with_signals_blocked(|| command.spawn()) {
            Ok(child) => Ok((connection, child)),
            Err(error) => {
                connection.close();
                Err(error)
            }
        }
    }

    /// Sends everything to a keeper that is about to be started, and makes it the current one.
    fn send_handover(
        &self,
        ours: &OwnedFd,
        theirs: (OwnedFd, OwnedFd),
        connection: Connection,
    ) -> io::Result<Arc<Connection>> {
        let this = pidfd_open(getpid(), PidfdFlags::empty())?;
        let state = self.state();
        let mut inventory = self.inventory(&state);
        let pid = std::process::id();
        let asked = state.how_to_stop;
        inventory.add(Role::WorkerProcess { pid, asked }, &this);
        inventory.add(Role::WorkerControl, &theirs.0);
        inventory.add(Role::Notify, &theirs.1);
        inventory.send(ours, KEEPER_START_TIMEOUT)?;
        let connection = Arc::new(connection);
        self.present.send_replace(Some(Arc::clone(&connection)));
        Ok(connection)
    }

    fn inventory<'a>(&'a self, state: &'a State) -> Inventory<'a> {
        let mut inventory = Inventory::new(&self.handover.config);
        inventory.add(Role::Settings, &self.handover.settings);
        for listener in &self.handover.listeners {
            inventory.add(Role::Listener, listener);
        }
        for (name, descriptor) in state.stored_fds.iter() {
            inventory.add(Role::Stored(name.to_owned()), &**descriptor);
        }
        if let Some(input) = &self.handover.sidecar_input {
            inventory.add(Role::SidecarInput, input);
        }
        if let Some((pid, watch)) = &state.sidecar {
            inventory.add(Role::SidecarProcess { pid: *pid }, watch);
        }
        if let Some(control_listener) = &self.handover.control_listener {
            inventory.add_control_listener(control_listener);
        }
        inventory
    }

    /// There will be no keeper any more.
    fn close(&self) {
        if let Some(connection) = self.present.send_replace(None) {
            connection.close();
        }
        self.stop.cancel();
    }
}

/// Serves one keeper after the other, until cancelled or until no other keeper is to follow.
async fn run(link: Arc<Link>, token: CancellationToken) {
    token.run_until_cancelled(serve(&link)).await;
    link.close();
}

async fn serve(link: &Link) {
    let Some(mut connection) = link.connection().await else {
        return;
    };
    // A keeper that this process has started. It must outlive this process, so dropping it does nothing.
    let mut child: Option<Child> = None;
    let mut restart_delay = RestartDelay::default();
    let mut since = clock::now();
    loop {
        let mut is_good = child.is_none();
        tokio::select! {
            error = connection.serve(|message, descriptors| link.handle_message(message, descriptors)) => {
                warn!(error = error.map(tracing::field::display), "the keeper has ended");
            }
            // Only a keeper that this process has started is tested: another one cannot be ended from here.
            () = test(&connection, since, &mut is_good), if child.is_some() => {
                warn!("the new keeper did not answer within {KEEPER_START_TIMEOUT:?}: killed");
            }
        }
        connection.close();
        child.take().into_iter().for_each(end);
        if link.how_to_stop() == Some(Stop::End) {
            return;
        }
        if link.manager_has_store() {
            info!("the service manager has stored everything and starts a new keeper");
            link.state().how_to_stop = Some(Stop::HandOver);
            return;
        }
        (connection, child) = loop {
            let lived = clock::now().saturating_duration_since(since);
            tokio::time::sleep(restart_delay.delay_after_exit(lived, is_good)).await;
            since = clock::now();
            match link.start_keeper() {
                Ok((connection, keeper)) => {
                    link.is_own_child.store(true, Ordering::Relaxed);
                    break (connection, Some(keeper));
                }
                Err(error) => warn!(%error, "cannot start a new keeper"),
            }
            is_good = false;
        };
    }
}

/// Tests whether a keeper works; returns if it does not.
async fn test(connection: &Connection, since: Instant, is_good: &mut bool) {
    match tokio::time::timeout(KEEPER_START_TIMEOUT, connection.barrier()).await {
        Ok(Ok(())) => {
            *is_good = true;
            let took_ms = clock::now().saturating_duration_since(since).as_millis();
            info!(took_ms, "a new keeper has taken over");
        }
        // The connection reports the keeper's end.
        Ok(Err(_)) => {}
        Err(_) => return,
    }
    std::future::pending().await
}

/// Ends a keeper that has died or does not work.
fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}
