//! What a running session tells about itself, for whoever dials or reports.

use super::vitals::{LOOKS, Look, Vitals};
use crate::carrier::CarrierInfo;
use crate::clock;
use crate::session::Session;
use crate::wire::Offset;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Shared between a pump and those who look at it. Values may be a moment old; offsets only grow, so an old one is
/// never wrong (it only makes the peer repeat a little).
#[derive(Debug)]
pub struct Facts {
    received: AtomicU64,
    /// Where the room ends; grows like `received`, so that no mixture of old and new promises too much.
    limit: AtomicU64,
    /// First position not taken from the pipe.
    taken: AtomicU64,
    /// What predecessors had received and taken.
    before: (u64, u64),
    ended: AtomicBool,
    output_done: AtomicBool,
    input_ended: AtomicBool,
    history: Mutex<History>,
    roster: watch::Sender<Roster>,
    looks: mpsc::Sender<Look>,
    /// Until the pump takes it.
    looked: Mutex<Option<mpsc::Receiver<Look>>>,
}

/// The carriers that a session relies on.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// The lead; `None` while there is none.
    pub lead: Option<CarrierInfo>,
    /// Those that stand by, in the order in which they came to that.
    pub standing: Vec<CarrierInfo>,
}

#[derive(Debug)]
struct History {
    began: bool,
    /// Where the lead goes; `None` while there is none, or where that is hidden.
    remote: Option<SocketAddr>,
    detached_at: Option<Instant>,
    outages: u64,
    longest_outage: Duration,
}

/// What is known of a session at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Where the lead goes; `None` while there is none, or where that is hidden.
    pub remote: Option<SocketAddr>,
    /// For how long there has been none.
    pub detached_for: Option<Duration>,
    /// How often a lead was lost and another found.
    pub outages: u64,
    /// The longest time without a lead.
    pub longest_outage: Duration,
}

impl Facts {
    /// Facts of a session at its beginning, which has `window` bytes of room.
    pub fn new(window: u64) -> Facts {
        let history = History {
            began: false,
            remote: None,
            detached_at: Some(clock::now()),
            outages: 0,
            longest_outage: Duration::ZERO,
        };
        let (looks, looked) = mpsc::channel(LOOKS);
        Facts {
            received: AtomicU64::new(0),
            limit: AtomicU64::new(window),
            taken: AtomicU64::new(0),
            before: (0, 0),
            ended: AtomicBool::new(false),
            output_done: AtomicBool::new(false),
            input_ended: AtomicBool::new(false),
            history: Mutex::new(history),
            roster: watch::Sender::default(),
            looks,
            looked: Mutex::new(Some(looked)),
        }
    }

    /// Facts of a session that a predecessor left, and that has had no carrier since `detached_since`.
    pub fn of_restored(session: &Session, detached_since: Instant) -> Facts {
        let mut facts = Facts::new(session.window());
        facts.update(session);
        facts.before = facts.carried();
        *facts.history() = History {
            began: true,
            remote: None,
            detached_at: Some(detached_since),
            outages: 1,
            longest_outage: Duration::ZERO,
        };
        facts
    }

    /// First position not received, and the room beyond it.
    pub fn room(&self) -> (Offset, u64) {
        let limit = self.limit.load(Ordering::Acquire);
        let received = self.received.load(Ordering::Acquire);
        (
            Offset::new(received).unwrap_or(Offset::MAX),
            limit.saturating_sub(received),
        )
    }

    /// Bytes received from the peer, and bytes for it, since the session's beginning.
    pub fn carried(&self) -> (u64, u64) {
        (
            self.received.load(Ordering::Acquire),
            self.taken.load(Ordering::Acquire),
        )
    }

    /// The same without what predecessors of this process have carried.
    pub fn carried_here(&self) -> (u64, u64) {
        let (received, taken) = self.carried();
        let (received_before, taken_before) = self.before;
        (
            received.saturating_sub(received_before),
            taken.saturating_sub(taken_before),
        )
    }

    /// Asks the pump how it does. No answer comes where it has ended, and `None` where too many ask.
    pub fn look(&self) -> Option<oneshot::Receiver<Vitals>> {
        let (look, answer) = oneshot::channel();
        self.looks.try_send(look).ok()?;
        Some(answer)
    }

    /// Whether the pump has ended.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether everything from the peer, its end included, was delivered.
    pub fn is_output_done(&self) -> bool {
        self.output_done.load(Ordering::Acquire)
    }

    /// Whether the pipe has said its last; what it said may still be on its way to the peer.
    pub fn is_input_ended(&self) -> bool {
        self.input_ended.load(Ordering::Acquire)
    }

    /// Who leads and who stands by, and every change of that.
    pub fn roster(&self) -> watch::Receiver<Roster> {
        self.roster.subscribe()
    }

    /// What is known now.
    pub fn snapshot(&self) -> Snapshot {
        let history = self.history();
        Snapshot {
            remote: history.remote,
            detached_for: history.detached_at.map(|at| clock::now().saturating_duration_since(at)),
            outages: history.outages,
            longest_outage: history.longest_outage,
        }
    }

    pub(super) fn update(&self, session: &Session) {
        let limit = session.received().saturating_add(session.window());
        self.limit.store(limit.get(), Ordering::Release);
        self.taken.store(session.taken().get(), Ordering::Release);
        self.received.store(session.received().get(), Ordering::Release);
        self.output_done.store(session.is_output_done(), Ordering::Release);
        self.input_ended.store(session.is_input_ended(), Ordering::Release);
    }

    /// For the pump. Of a second one nobody asks anything.
    pub(super) fn take_looks(&self) -> mpsc::Receiver<Look> {
        let looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner).take();
        looked.unwrap_or_else(|| mpsc::channel(1).1)
    }

    pub(super) fn handle_roster(&self, roster: Roster) {
        self.roster.send_replace(roster);
    }

    pub(super) fn handle_end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// A carrier leads; gives the length of the outage before it, `None` for the first.
    pub(super) fn handle_attached(
        &self,
        info: &CarrierInfo,
        now: Instant,
        silent_since: Option<Instant>,
    ) -> Option<Duration> {
        let mut history = self.history();
        history.remote = info.remote;
        let detached_at = history.detached_at.take();
        if !std::mem::replace(&mut history.began, true) {
            return None;
        }
        if silent_since.is_some() && detached_at.is_none() {
            history.outages += 1;
        }
        let since = silent_since.into_iter().chain(detached_at).min();
        let outage = since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        history.longest_outage = history.longest_outage.max(outage);
        Some(outage)
    }

    pub(super) fn handle_detached(&self, now: Instant) {
        let mut history = self.history();
        history.remote = None;
        history.detached_at = Some(now);
        history.outages += 1;
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // Plain values: a panic elsewhere cannot have left them half written.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
