//! All sessions of a server half: who owns them, how many there may be, and what became of them.

mod counts;
mod entry;
mod known;
mod report;
mod restore;
mod room;
mod task;
mod tombstones;

use super::authority::{Account, refusal};
use super::connect_sshd::Client;
use super::upstream::Upstream;
use super::vault::{Identity, Tombs, Vault};
use crate::carrier::{Carrier, CloseReason};
use crate::clock;
use crate::fault;
use crate::pump::{ARRIVALS, Arrival, Budget, Epochs, Facts, ORDERS, Order, STANDBYS};
use crate::session::SessionConfig;
use crate::tasks::Tasks;
use crate::wire::{Accepted, Answer, Offset, Open, Reap, Refusal, RefusalCode, Resume, SessionId};
use bytes::Bytes;
use counts::Counts;
use entry::{Claim, Entry};
use known::Known;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use task::{Beginning, Opened, SessionTask};
use tokio::sync::{mpsc, watch};
use tombstones::Tombstones;
use tracing::{Instrument, info_span};

/// Counts and times of sessions.
#[derive(Clone, Debug)]
pub struct RegistryLimits {
    /// Most sessions in all. Default 1000.
    pub sessions: usize,
    /// Most sessions of one user key. Default 500.
    pub sessions_per_key: usize,
    /// At either limit, the session of the same key that has been without a client for longest ends if that is so long.
    /// Default 5 minutes.
    pub abandoned_after: Duration,
    /// How long a session without a carrier is kept. Default 7 days.
    pub ttl: Duration,
    /// Bytes that all sessions together may hold. Default 1 GiB.
    pub memory: usize,
}

impl Default for RegistryLimits {
    fn default() -> RegistryLimits {
        RegistryLimits {
            sessions: 1000,
            sessions_per_key: 500,
            abandoned_after: Duration::from_secs(5 * 60),
            ttl: Duration::from_secs(7 * 86_400),
            memory: 1 << 30,
        }
    }
}

pub(super) struct Registry {
    limits: RegistryLimits,
    session: SessionConfig,
    upstream: Upstream,
    /// Keeps sessions beyond the life of this process; `None` where they end with it.
    vault: Option<Vault>,
    budget: Arc<Budget>,
    counts: Counts,
    tasks: Mutex<Option<Tasks>>,
    known: Mutex<Known>,
    /// For the tasks of sessions, which must not keep their registry alive.
    this: Weak<Registry>,
}

/// How a server half leaves its sessions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaving {
    /// They end, and the clients are told.
    Ended,
    /// A successor goes on with them.
    HandedOver,
}

impl Registry {
    pub(super) fn new(
        limits: RegistryLimits,
        session: SessionConfig,
        upstream: Upstream,
        vault: Option<(Vault, Tombs)>,
    ) -> Arc<Registry> {
        let (vault, tombs) = vault.unzip();
        let known = Known::new(tombs.map_or_else(Tombstones::default, Tombstones::kept));
        Arc::new_cyclic(|this| Registry {
            budget: Budget::new(limits.memory),
            counts: Counts::default(),
            limits,
            session,
            upstream,
            vault,
            tasks: Mutex::new(Some(Tasks::new())),
            known: Mutex::new(known),
            this: Weak::clone(this),
        })
    }

    /// Whether a session of this id was opened under this TLS key.
    pub(super) fn is_owner(&self, session: SessionId, key: &[u8]) -> bool {
        self.known()
            .sessions
            .get(&session)
            .is_some_and(|entry| entry.owner == key)
    }

    /// Whether any session was opened under this TLS key.
    pub(super) fn owns_session(&self, key: &Bytes) -> bool {
        self.known().is_owner(key)
    }

    /// Makes a session. If the same owner made it a moment ago, that one is it.
    pub(super) fn open(&self, open: &Open, owner: &Bytes, client: Client, account: Account) -> Result<(), Refusal> {
        let known = self.known();
        if let Some(entry) = known.sessions.get(&open.session) {
            // Public ids can be copied; under another key this one names nothing.
            return if entry.owner == *owner { Ok(()) } else { Err(gone()) };
        }
        if known.ended.holds(open.session) {
            return Err(gone());
        }
        self.make_room(&known, &account)?;
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
        let facts = Facts::new(self.session.receive_window as u64);
        let beginning = Beginning::Opened(Opened {
            identity: identity.clone(),
            client,
            ready,
        });
        let (entry, task) = self.prepare(&identity, facts, is_ready, beginning);
        self.begin(known, entry, task)
    }

    /// Makes a session known, and starts its task.
    fn begin(&self, mut known: MutexGuard<'_, Known>, entry: Arc<Entry>, task: SessionTask) -> Result<(), Refusal> {
        let tasks = lock(&self.tasks);
        let Some(tasks) = &*tasks else {
            return Err(refusal(RefusalCode::RetryLater, "the server half is stopping"));
        };
        let id = task.id;
        known.insert(id, entry);
        drop(known);
        tasks.spawn("session", task.run().instrument(info_span!("session", %id)));
        Ok(())
    }

    /// Waits until the session that an `Open` made is connected to sshd.
    pub(super) async fn connected(&self, session: SessionId, key: &[u8]) -> Result<(), Refusal> {
        let entry = self.owned(session, key).ok_or_else(|| self.gone(session, key))?;
        let mut ready = entry.ready.clone();
        match ready.wait_for(Option::is_some).await {
            Ok(state) => state.clone().unwrap_or(Ok(())),
            Err(_) => Err(gone()),
        }
    }

    /// Leads a carrier to the session that its `Open` made, which is connected to sshd.
    pub(super) async fn attach_open(&self, carrier: Carrier, open: &Open, key: Option<u8>) {
        let Some(entry) = self.owned(open.session, &carrier.info().peer_key) else {
            let gone = self.gone(open.session, &carrier.info().peer_key);
            return refuse(carrier, gone).await;
        };
        let claim = Claim {
            epoch: open.epoch,
            received: Offset::ZERO,
            window: open.window,
            key,
            first: open.first.clone(),
        };
        self.attach(carrier, &entry, claim).await
    }

    /// Leads a carrier to its session, if it proved the key that opened it.
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
                    Claim {
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

    /// Lets a carrier stand by its session, if it proved the key that opened it.
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
            // A session that ended in this moment closes its channel, and with it the carrier.
            let _ = entry.standbys.send(carrier).await;
        }
    }

    /// Ends a session whose reap token was shown.
    pub(super) fn reap(&self, reap: &Reap) {
        let known = self.known();
        let Some(entry) = known.sessions.get(&reap.session) else {
            return;
        };
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &reap.token);
        if aws_lc_rs::constant_time::verify_slices_are_equal(hash.as_ref(), &entry.reap_hash).is_ok() {
            entry.end("its owner is gone");
        }
    }

    /// Takes no more, lets go of every session, and waits up to `grace` until the clients are told.
    pub(super) async fn shutdown(&self, leaving: Leaving, grace: Duration) {
        let tasks = lock(&self.tasks).take();
        for entry in self.known().sessions.values() {
            entry.order(match leaving {
                Leaving::Ended => Order::End("the server half was stopped".to_owned()),
                Leaving::HandedOver => Order::HandOver,
            });
        }
        if let Some(tasks) = tasks {
            tasks.shutdown(grace).await;
        }
    }

    async fn attach(&self, mut carrier: Carrier, entry: &Entry, claim: Claim) {
        let Claim {
            epoch,
            received,
            window,
            key,
            first,
        } = claim;
        if !entry.epochs.take(epoch) {
            return refuse(
                carrier,
                refusal(RefusalCode::Stale, format!("epoch {epoch} is not the latest")),
            )
            .await;
        }
        let (ours, room) = entry.facts.room();
        let accepted = Accepted {
            received: ours,
            window: room,
            ttl: self.limits.ttl.as_secs(),
            key,
        };
        if carrier.send_message(Answer::Accepted(accepted).encode()).await.is_ok() {
            fault::pass("accepted");
            let arrival = Arrival {
                carrier,
                epoch,
                peer_received: received,
                peer_window: window,
                first,
            };
            // A session that ended in this moment closes its channel; the client asks again and learns of it.
            let _ = entry.arrivals.send(Box::new(arrival)).await;
        }
    }

    /// What to say of a session that is not here; why it ended only to its owner.
    fn gone(&self, session: SessionId, key: &[u8]) -> Refusal {
        let why = self.known().ended.why(session, key);
        why.map_or_else(gone, |why| refusal(RefusalCode::Gone, why))
    }

    fn owned(&self, session: SessionId, key: &[u8]) -> Option<Arc<Entry>> {
        self.known()
            .sessions
            .get(&session)
            .filter(|entry| entry.owner == key)
            .cloned()
    }

    /// A session as others see it, and its task.
    fn prepare(
        &self,
        identity: &Identity,
        facts: Facts,
        ready: watch::Receiver<Option<Result<(), Refusal>>>,
        beginning: Beginning,
    ) -> (Arc<Entry>, SessionTask) {
        let (arrivals, incoming) = mpsc::channel(ARRIVALS);
        let (standbys, standing) = mpsc::channel(STANDBYS);
        let (orders, ordered) = mpsc::channel(ORDERS);
        let facts = Arc::new(facts);
        let entry = Arc::new(Entry {
            owner: identity.owner.clone(),
            account: identity.account.clone(),
            user: identity.user.clone(),
            opened_from: identity.remote,
            upstream_from: OnceLock::new(),
            reap_hash: identity.reap_hash,
            arrivals,
            standbys,
            orders,
            facts: Arc::clone(&facts),
            epochs: Arc::new(Epochs::default()),
            ready,
            is_told_to_end: AtomicBool::new(false),
            slot: Mutex::default(),
        });
        let task = SessionTask {
            registry: Weak::clone(&self.this),
            entry: Arc::clone(&entry),
            id: identity.session,
            arrivals: incoming,
            standbys: standing,
            orders: ordered,
            beginning,
        };
        (entry, task)
    }

    /// The session is over. Its tombstone comes first: what a successor finds beside one is not a session any more.
    fn bury(&self, session: SessionId, why: &str) {
        let mut known = self.known();
        if let Some(entry) = known.remove(session) {
            self.counts.handle_ended(&entry);
            known.ended.add(session, &entry.owner, why.to_owned());
            self.leave_vault(&entry);
        }
    }

    /// The session never began: the client may ask for it again.
    fn forget(&self, session: SessionId) {
        if let Some(entry) = self.known().remove(session) {
            self.leave_vault(&entry);
        }
    }

    fn leave_vault(&self, entry: &Entry) {
        if let (Some(vault), Some(slot)) = (&self.vault, lock(&entry.slot).take()) {
            vault.forget(slot);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
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

/// Plain values behind short locks: a panic elsewhere cannot have left them half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
