//! All sessions of a server half: who owns them, how many are allowed, and why they ended.

mod counts;
mod recently_closed;
mod room;
mod session_table;
mod task;

pub(crate) use session_table::IdleWatch;

use super::authority::{Account, refusal};
use super::connect_sshd::Client;
use super::session_store::{ClosedSessions, Identity, RecoveredSession, SessionStore};
use super::upstream::Upstream;
use crate::carrier::{Carrier, CloseReason};
use crate::clock;
use crate::fault;
use crate::observe::{Boxed, ControlHandler, Half, KillRequest, Report, SessionReport, query_all};
use crate::pump::{
    self, Budget, Epochs, MAX_COMMANDS, MAX_PATH_EVENTS, NewLead, PathEvent, Reservation, SessionCommand, SessionStats,
};
use crate::session::SessionConfig;
use crate::tasks::Tasks;
use crate::wire::{Accepted, Answer, Offset, Open, PeerText, Reap, Refusal, RefusalCode, Resume, SessionId};
use bytes::Bytes;
use counts::Counts;
use parking_lot::{Mutex, MutexGuard};
use recently_closed::RecentlyClosed;
use serde::{Deserialize, Serialize};
use session_table::SessionTable;
use session_table::{AttachRequest, Entry};
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use task::{NewSession, SessionStart, SessionTask};
use tokio::sync::{mpsc, watch};
use tracing::{Instrument, debug, info, info_span};

/// Limits of a server half.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ServerLimits {
    /// The most sessions. Default 1000.
    pub sessions: usize,
    /// The most sessions of one user key. Default 500.
    pub sessions_per_key: usize,
    /// If a limit is reached, the session of the same key that has been without a client for longest ends, if that is
    /// at least this long. Default 5 minutes.
    pub abandoned_after: Duration,
    /// How long a session without a carrier is kept. Default 7 days.
    pub ttl: Duration,
    /// The most bytes of memory of all sessions together. Default 1 GiB.
    pub memory: usize,
    /// The most handshakes at once, and an eighth of the most carriers without a session. Default 256.
    pub half_open: usize,
}

impl Default for ServerLimits {
    fn default() -> ServerLimits {
        ServerLimits {
            sessions: 1000,
            sessions_per_key: 500,
            abandoned_after: Duration::from_secs(5 * 60),
            ttl: Duration::from_secs(7 * 86_400),
            memory: 1 << 30,
            half_open: 256,
        }
    }
}

pub(super) struct Registry {
    limits: ServerLimits,
    session: SessionConfig,
    upstream: Upstream,
    /// Keeps sessions beyond the life of this process; `None`: they end with it.
    session_store: Option<SessionStore>,
    budget: Arc<Budget>,
    counts: Counts,
    tasks: Mutex<Option<Tasks>>,
    table: Mutex<SessionTable>,
    /// Given to the tasks of sessions, which must not keep the registry alive.
    this: Weak<Registry>,
}

/// What happens to the sessions when a server half stops.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ShutdownMode {
    /// They end, and their clients are told.
    Ended,
    /// The next worker continues them.
    HandedOver,
}

impl Registry {
    pub(super) fn new(
        limits: ServerLimits,
        session: SessionConfig,
        upstream: Upstream,
        session_store: Option<(SessionStore, ClosedSessions)>,
    ) -> Arc<Registry> {
        let (session_store, closed_sessions) = session_store.unzip();
        let table = SessionTable::new(closed_sessions.map_or_else(RecentlyClosed::default, RecentlyClosed::kept));
        Arc::new_cyclic(|this| Registry {
            budget: Budget::new(limits.memory),
            counts: Counts::default(),
            limits,
            session,
            upstream,
            session_store,
            tasks: Mutex::new(Some(Tasks::new())),
            table: Mutex::new(table),
            this: Weak::clone(this),
        })
    }

    /// To be told when there are no sessions.
    pub(super) fn idle_watch(&self) -> IdleWatch {
        self.table().idle_watch()
    }

    /// Whether a session of this id was opened under this TLS key.
    pub(super) fn is_owner(&self, session: SessionId, key: &[u8]) -> bool {
        self.table()
            .sessions
            .get(&session)
            .is_some_and(|entry| entry.owner == key)
    }

    /// Whether any session was opened under this TLS key.
    pub(super) fn owns_session(&self, key: &Bytes) -> bool {
        self.table().is_owner(key)
    }

    /// Creates a session, unless the same owner has created it a moment ago.
    pub(super) fn open(&self, open: &Open, owner: &Bytes, client: Client, account: Account) -> Result<(), Refusal> {
        let table = self.table();
        if let Some(entry) = table.sessions.get(&open.session) {
            // Session ids are not secret. For another key this session does not exist.
            return if entry.owner == *owner { Ok(()) } else { Err(gone()) };
        }
        if table.ended.holds(open.session) {
            return Err(gone());
        }
        self.make_room(&table, &account)?;
        let (ready, is_ready) = watch::channel(None);
        let identity = Identity {
            session: open.session,
            owner: owner.clone(),
            account,
            user: open.user.to_string(),
            reap_hash: open.reap_hash,
            remote: client.remote,
            opened: clock::to_boot_millis(clock::now()),
        };
        let stats = SessionStats::new(self.session.receive_window as u64);
        let start = SessionStart::Opened(NewSession {
            identity: identity.clone(),
            client,
            ready,
        });
        let (entry, task) = self.prepare(&identity, stats, is_ready, start);
        self.begin(table, entry, task)
    }

    /// Adds a session to the table and starts its task.
    fn begin(
        &self,
        mut table: MutexGuard<'_, SessionTable>,
        entry: Arc<Entry>,
        task: SessionTask,
    ) -> Result<(), Refusal> {
        let tasks = self.tasks.lock();
        let Some(tasks) = &*tasks else {
            return Err(refusal(RefusalCode::RetryLater, "the server half is stopping"));
        };
        let id = task.id;
        table.insert(id, entry);
        drop(table);
        tasks.spawn("session", task.run().instrument(info_span!("session", %id)));
        Ok(())
    }

    /// Why sessions of clients at `source` wait for room in sshd, if any does.
    pub(super) fn why_full(&self, source: IpAddr) -> Option<PeerText> {
        self.upstream.why_full(source)
    }

    /// sshd has greeted when it was asked about a key.
    pub(super) fn handle_greeted(&self) {
        self.upstream.handle_greeted();
    }

    /// Waits until a session that an `Open` created is connected to sshd.
    pub(super) async fn connected(&self, session: SessionId, key: &[u8]) -> Result<(), Refusal> {
        let entry = self.owned(session, key).ok_or_else(|| self.gone(session, key))?;
        let mut ready = entry.ready.clone();
        match ready.wait_for(Option::is_some).await {
            Ok(state) => state.clone().unwrap_or(Ok(())),
            Err(_) => Err(gone()),
        }
    }

    /// Passes a carrier to the session that its `Open` created, which is connected to sshd.
    pub(super) async fn attach_open(&self, carrier: Carrier, open: &Open, key: Option<u8>) {
        let Some(entry) = self.owned(open.session, &carrier.info().peer_key) else {
            let gone = self.gone(open.session, &carrier.info().peer_key);
            return refuse(carrier, gone).await;
        };
        let request = AttachRequest {
            epoch: open.epoch,
            received: Offset::ZERO,
            window: open.window,
            key,
            first: open.first.clone(),
        };
        self.attach(carrier, &entry, request).await
    }

    /// Passes a carrier to its session, if it has proved the key that opened the session.
    pub(super) async fn attach_resume(&self, carrier: Carrier, resume: &Resume) {
        match self.owned(resume.session, &carrier.info().peer_key) {
            Some(entry) => {
                let Resume {
                    epoch,
                    received,
                    window,
                    ..
                } = *resume;
                self.attach(
                    carrier,
                    &entry,
                    AttachRequest {
                        epoch,
                        received,
                        window,
                        key: None,
                        first: Bytes::new(),
                    },
                )
                .await
            }
            None => {
                let gone = self.gone(resume.session, &carrier.info().peer_key);
                refuse(carrier, gone).await;
            }
        }
    }

    /// Adds a standby carrier to its session, if it has proved the key that opened the session.
    pub(super) async fn attach_standby(&self, mut carrier: Carrier, session: SessionId) {
        let Some(entry) = self.owned(session, &carrier.info().peer_key) else {
            let gone = self.gone(session, &carrier.info().peer_key);
            return refuse(carrier, gone).await;
        };
        if !matches!(*entry.ready.borrow(), Some(Ok(()))) {
            let refused = refusal(RefusalCode::RetryLater, "the session is not open yet");
            return refuse(carrier, refused).await;
        }
        if carrier.send_message(Answer::Standing.encode()).await.is_ok() {
            // If the session has just ended, its channel is closed and the carrier is dropped.
            let _ = entry.path_events.send(PathEvent::Standby(Box::new(carrier))).await;
        }
    }

    /// Ends a session if its reap token is right.
    pub(super) fn reap(&self, reap: &Reap) {
        let table = self.table();
        let Some(entry) = table.sessions.get(&reap.session) else {
            return;
        };
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &reap.token);
        if aws_lc_rs::constant_time::verify_slices_are_equal(hash.as_ref(), &entry.reap_hash).is_ok() {
            entry.end("its owner is gone");
        }
    }

    /// Accepts no more sessions, ends or hands over the existing ones, and waits up to `grace` until their clients are
    /// told.
    pub(super) async fn shutdown(&self, mode: ShutdownMode, grace: Duration) {
        let tasks = self.tasks.lock().take();
        for entry in self.table().sessions.values() {
            entry.order(match mode {
                ShutdownMode::Ended => SessionCommand::End("the server half was stopped".to_owned()),
                ShutdownMode::HandedOver => SessionCommand::HandOver,
            });
        }
        if let Some(tasks) = tasks {
            tasks.shutdown(grace).await;
        }
    }

    async fn attach(&self, mut carrier: Carrier, entry: &Entry, request: AttachRequest) {
        let AttachRequest {
            epoch,
            received,
            window,
            key,
            first,
        } = request;
        if !entry.epochs.take(epoch) {
            return refuse(
                carrier,
                refusal(RefusalCode::Stale, format!("epoch {epoch} is not the latest")),
            )
            .await;
        }
        let (ours, room) = entry.stats.room();
        let accepted = Accepted {
            received: ours,
            window: room,
            ttl: self.limits.ttl.as_secs(),
            key,
        };
        if carrier.send_message(Answer::Accepted(accepted).encode()).await.is_ok() {
            fault::pass("accepted");
            let lead = NewLead {
                carrier,
                accepted: pump::Accepted {
                    epoch,
                    received,
                    window,
                },
                first,
            };
            // If the session has just ended, its channel is closed. The client asks again and is told why.
            let _ = entry.path_events.send(PathEvent::Lead(Box::new(lead))).await;
        }
    }

    /// The refusal for a session that does not exist. Only its owner is told why it ended.
    fn gone(&self, session: SessionId, key: &[u8]) -> Refusal {
        let why = self.table().ended.why(session, key);
        why.map_or_else(gone, |why| refusal(RefusalCode::Gone, why))
    }

    fn owned(&self, session: SessionId, key: &[u8]) -> Option<Arc<Entry>> {
        self.table()
            .sessions
            .get(&session)
            .filter(|entry| entry.owner == key)
            .cloned()
    }

    /// A session's entry and its task.
    fn prepare(
        &self,
        identity: &Identity,
        stats: SessionStats,
        ready: watch::Receiver<Option<Result<(), Refusal>>>,
        start: SessionStart,
    ) -> (Arc<Entry>, SessionTask) {
        let (path_events, received) = mpsc::channel(MAX_PATH_EVENTS);
        let (commands, ordered) = mpsc::channel(MAX_COMMANDS);
        let stats = Arc::new(stats);
        let entry = Arc::new(Entry {
            owner: identity.owner.clone(),
            account: identity.account.clone(),
            user: identity.user.clone(),
            opened_from: identity.remote,
            upstream_from: OnceLock::new(),
            reap_hash: identity.reap_hash,
            path_events,
            commands,
            stats: Arc::clone(&stats),
            epochs: Arc::new(Epochs::default()),
            ready,
            is_told_to_end: AtomicBool::new(false),
            slot: Mutex::default(),
        });
        let task = SessionTask {
            registry: Weak::clone(&self.this),
            entry: Arc::clone(&entry),
            id: identity.session,
            path_events: received,
            commands: ordered,
            start,
        };
        (entry, task)
    }

    /// Closes a session. It is added to the closed sessions first: if the worker dies in between, the next one does
    /// not restore it.
    fn close(&self, session: SessionId, why: &str) {
        let mut table = self.table();
        if let Some(entry) = table.remove(session) {
            self.counts.handle_ended(&entry);
            table.ended.add(session, &entry.owner, why.to_owned());
            self.remove_from_store(&entry);
        }
    }

    /// Removes a session that never started: the client may open it again.
    fn forget(&self, session: SessionId) {
        if let Some(entry) = self.table().remove(session) {
            self.remove_from_store(&entry);
        }
    }

    fn remove_from_store(&self, entry: &Entry) {
        if let (Some(session_store), Some(slot)) = (&self.session_store, entry.slot.lock().take()) {
            session_store.forget(slot);
        }
    }

    fn table(&self) -> MutexGuard<'_, SessionTable> {
        self.table.lock()
    }
}

fn gone() -> Refusal {
    refusal(RefusalCode::Gone, "there is no such session")
}

async fn refuse(mut carrier: Carrier, refusal: Refusal) {
    if carrier.send_message(Answer::Refused(refusal).encode()).await.is_ok() {
        carrier.finish(CloseReason::Refused).await;
    }
}

impl Registry {
    /// Restores sessions. To be called before any carrier arrives.
    pub(in crate::server) fn restore(&self, recovered: Vec<RecoveredSession>) {
        // All are counted before one of them runs, which otherwise could take memory that the others already use.
        let count = |session: &RecoveredSession| self.budget.reserve(session.kept.session.memory_held());
        let held: Vec<Reservation> = recovered.iter().map(count).collect();
        for (session, held) in recovered.into_iter().zip(held) {
            self.restore_one(session, held);
        }
    }

    fn restore_one(&self, recovered: RecoveredSession, held: Reservation) {
        let table = self.table();
        let id = recovered.identity.session;
        if table.ended.holds(id) || table.sessions.contains_key(&id) {
            debug!(session = %id, "removed a stored session that had ended");
            if let Some(session_store) = &self.session_store {
                session_store.forget(recovered.kept.slot);
            }
            return;
        }
        let stats = SessionStats::restored(&recovered.kept.session, recovered.detached_since);
        // Connected and stored: a repeated `Open` need not wait.
        let (_, ready) = watch::channel(Some(Ok::<(), Refusal>(())));
        let (identity, epoch) = (recovered.identity.clone(), recovered.kept.session.epoch());
        let (entry, task) = self.prepare(
            &identity,
            stats,
            ready,
            SessionStart::Recovered(Box::new(recovered), held),
        );
        entry.epochs.take(epoch);
        info!(session = %id, user = identity.user, key = identity.account.0, remote = %identity.remote, "session restored");
        // Refused only while this process ends; the session stays in the session store.
        let _ = self.begin(table, entry, task);
    }
}

/// The reason that the client half is given.
const KILLED: &str = "ended by `bowline kill` on the server";

impl ControlHandler for Registry {
    fn report(&self) -> Boxed<'_, Report> {
        Box::pin(async {
            let entries = self.entries();
            let stats: Vec<_> = entries.iter().map(|(_, entry)| Arc::clone(&entry.stats)).collect();
            let live_stats = query_all(&stats).await;
            let running = entries
                .iter()
                .zip(&live_stats)
                .map(|((id, entry), live_stats)| SessionReport {
                    user: Some(entry.user.clone()),
                    key: Some(entry.account.0.clone()),
                    peer: Some(entry.stats.outages().remote.unwrap_or(entry.opened_from)),
                    alias: entry.upstream_from.get().copied(),
                    ..SessionReport::new(*id, Half::Server, &entry.stats, live_stats.as_ref())
                });
            let mut sessions: Vec<_> = running.collect();
            sessions.extend(ended(&self.table()));
            Report { sessions, relay: None }
        })
    }

    fn end(&self, kill: &KillRequest) -> Vec<String> {
        let table = self.table();
        let mut ended = Vec::new();
        for name in &kill.sessions {
            let Some(id) = SessionId::from_hex(name) else { continue };
            let Some(entry) = table.sessions.get(&id) else { continue };
            if !kill.only_detached || entry.stats.outages().detached_for.is_some() {
                info!(session = %id, "ending the session: requested by `bowline kill`");
                entry.end(KILLED);
                ended.push(name.clone());
            }
        }
        ended
    }
}

impl Registry {
    fn entries(&self) -> Vec<(SessionId, Arc<Entry>)> {
        let table = self.table();
        // A session that is not open yet is not shown.
        let open = table
            .sessions
            .iter()
            .filter(|(_, entry)| matches!(*entry.ready.borrow(), Some(Ok(()))));
        open.map(|(id, entry)| (*id, Arc::clone(entry))).collect()
    }
}

fn ended(table: &SessionTable) -> impl Iterator<Item = SessionReport> {
    table.ended.latest().map(|(session, why, age)| SessionReport {
        age_ms: u64::try_from(age.as_millis()).ok(),
        reason: Some(why.to_owned()),
        ..SessionReport::gone(session, Half::Server)
    })
}
