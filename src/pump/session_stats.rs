//! What a running session reports about itself, for dialers and for `bowline status`.

use super::live_stats::{LiveStats, MAX_STATS_REQUESTS, StatsRequest};
use crate::carrier::CarrierInfo;
use crate::clock;
use crate::connection::DialRequest;
use crate::session::Session;
use crate::wire::Offset;
use parking_lot::{Mutex, MutexGuard};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, oneshot, watch};

/// Shared between a pump and its readers. Values may be slightly old. Offsets only grow, so an old one is never wrong: it
/// only makes the peer send a little again.
#[derive(Debug)]
pub struct SessionStats {
    received: AtomicU64,
    /// End of the receive window. It only grows, like `received`, so no mix of old and new values promises too much.
    limit: AtomicU64,
    /// First position not yet read from the pipe.
    taken: AtomicU64,
    /// First position that the peer has not acknowledged.
    acknowledged: AtomicU64,
    /// First position of `received` that was not written to the pipe.
    delivered: AtomicU64,
    /// Notified when one of these positions changes.
    progress: Notify,
    /// `received` and `taken` when this process took over.
    before: (u64, u64),
    ended: AtomicBool,
    output_done: AtomicBool,
    input_ended: AtomicBool,
    history: Mutex<History>,
    active_paths: watch::Sender<ActivePaths>,
    stats_requests: mpsc::Sender<StatsRequest>,
    /// `None` once the pump has taken it.
    receiver: Mutex<Option<mpsc::Receiver<StatsRequest>>>,
}

/// How far the two streams of a session are, in bytes since its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Read from the pipe.
    pub taken: u64,
    /// Of these, acknowledged by the peer: written to their destination there.
    pub acknowledged: u64,
    /// Received from the peer.
    pub received: u64,
    /// Of these, written to the pipe.
    pub delivered: u64,
}

/// The carriers that a session uses, and whether it needs another one.
#[derive(Clone, Debug, Default)]
pub struct ActivePaths {
    /// The lead; `None` while there is none.
    pub lead: Option<CarrierInfo>,
    /// Standby carriers, the oldest first.
    pub standing: Vec<CarrierInfo>,
    /// What the dialer should do. Always [`DialRequest::None`] on the server half.
    pub dial_request: DialRequest,
}

#[derive(Debug)]
struct History {
    began: bool,
    /// Remote address of the lead; `None` while there is none or if it is hidden.
    remote: Option<SocketAddr>,
    detached_at: Option<Instant>,
    outages: u64,
    longest_outage: Duration,
}

/// Outages of a session so far.
#[derive(Clone, Debug)]
pub struct OutageStats {
    /// Remote address of the lead; `None` while there is none or if it is hidden.
    pub remote: Option<SocketAddr>,
    /// For how long there has been no lead.
    pub detached_for: Option<Duration>,
    /// How often the lead was lost or replaced after silence.
    pub outages: u64,
    /// The longest time without a lead.
    pub longest_outage: Duration,
}

impl SessionStats {
    /// Statistics of a new session with a receive window of `window` bytes.
    pub fn new(window: u64) -> SessionStats {
        let history = History {
            began: false,
            remote: None,
            detached_at: Some(clock::now()),
            outages: 0,
            longest_outage: Duration::ZERO,
        };
        let (stats_requests, receiver) = mpsc::channel(MAX_STATS_REQUESTS);
        SessionStats {
            received: AtomicU64::new(0),
            limit: AtomicU64::new(window),
            taken: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            progress: Notify::new(),
            before: (0, 0),
            ended: AtomicBool::new(false),
            output_done: AtomicBool::new(false),
            input_ended: AtomicBool::new(false),
            history: Mutex::new(history),
            active_paths: watch::Sender::default(),
            stats_requests,
            receiver: Mutex::new(Some(receiver)),
        }
    }

    /// Statistics of a restored session without a carrier since `detached_since`.
    pub fn restored(session: &Session, detached_since: Instant) -> SessionStats {
        let mut stats = SessionStats::new(session.window());
        stats.update(session);
        stats.before = stats.transferred();
        *stats.history() = History {
            began: true,
            remote: None,
            detached_at: Some(detached_since),
            outages: 1,
            longest_outage: Duration::ZERO,
        };
        stats
    }

    /// First position not received, and the receive window beyond it.
    pub fn room(&self) -> (Offset, u64) {
        let limit = self.limit.load(Ordering::Acquire);
        let received = self.received.load(Ordering::Acquire);
        (
            Offset::new(received).unwrap_or(Offset::MAX),
            limit.saturating_sub(received),
        )
    }

    /// Bytes received from the peer, and bytes for it, since the session's beginning.
    pub fn transferred(&self) -> (u64, u64) {
        (
            self.received.load(Ordering::Acquire),
            self.taken.load(Ordering::Acquire),
        )
    }

    /// The same without what predecessor processes transferred.
    pub fn transferred_here(&self) -> (u64, u64) {
        let (received, taken) = self.transferred();
        let (received_before, taken_before) = self.before;
        (
            received.saturating_sub(received_before),
            taken.saturating_sub(taken_before),
        )
    }

    /// How far the streams are. What had been received when `acknowledged` came is counted in `received`.
    pub fn progress(&self) -> Progress {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let delivered = self.delivered.load(Ordering::Acquire);
        let (received, taken) = self.transferred();
        Progress {
            taken,
            acknowledged,
            received,
            delivered,
        }
    }

    /// Completes when [`Self::progress`] has changed after this call.
    pub fn progress_changed(&self) -> Notified<'_> {
        self.progress.notified()
    }

    /// Asks the pump for its statistics. An ended pump does not answer. `None` if too many requests wait.
    pub fn request_live_stats(&self) -> Option<oneshot::Receiver<LiveStats>> {
        let (request, answer) = oneshot::channel();
        self.stats_requests.try_send(request).ok()?;
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

    /// Whether the pipe has ended; its last bytes may still be on their way to the peer.
    pub fn is_input_ended(&self) -> bool {
        self.input_ended.load(Ordering::Acquire)
    }

    /// The lead, the standby carriers and the dial request, with every change.
    pub fn active_paths(&self) -> watch::Receiver<ActivePaths> {
        self.active_paths.subscribe()
    }

    /// Outages up to now.
    pub fn outages(&self) -> OutageStats {
        let history = self.history();
        OutageStats {
            remote: history.remote,
            detached_for: history.detached_at.map(|at| clock::now().saturating_duration_since(at)),
            outages: history.outages,
            longest_outage: history.longest_outage,
        }
    }

    pub(super) fn update(&self, session: &Session) {
        let limit = session.received().saturating_add(session.window());
        self.limit.store(limit.get(), Ordering::Release);
        // `acknowledged` comes last: who sees it sees what was received with it.
        let positions = [
            (&self.taken, session.taken()),
            (&self.received, session.received()),
            (&self.delivered, session.output_delivered()),
            (&self.acknowledged, session.delivered()),
        ];
        let mut has_changed = false;
        for (shared, position) in positions {
            let position = position.get();
            // Nobody else writes it.
            if shared.load(Ordering::Relaxed) != position {
                shared.store(position, Ordering::Release);
                has_changed = true;
            }
        }
        self.output_done.store(session.is_output_done(), Ordering::Release);
        self.input_ended.store(session.is_input_ended(), Ordering::Release);
        if has_changed {
            self.progress.notify_waiters();
        }
    }

    /// For the pump. A second call returns an empty channel.
    pub(super) fn take_stats_requests(&self) -> mpsc::Receiver<StatsRequest> {
        let receiver = self.receiver.lock().take();
        receiver.unwrap_or_else(|| mpsc::channel(1).1)
    }

    pub(super) fn handle_active_paths(&self, active_paths: ActivePaths) {
        self.active_paths.send_replace(active_paths);
    }

    pub(super) fn handle_end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// A carrier leads. Returns the length of the outage before it; `None` for the first.
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
        self.history.lock()
    }
}
