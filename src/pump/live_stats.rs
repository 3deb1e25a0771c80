//! Statistics that a running session reports on request.
//!
//! Only the pump has them, so a request wakes it.

use super::Pump;
use crate::carrier::{Carrier, Kind};
use crate::wire::Epoch;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Capacity of the channel of requests.
pub(super) const MAX_STATS_REQUESTS: usize = 4;

/// QUIC closes a connection after this long without a packet (`transport/quic/config.rs`), so a live one was heard since.
const QUIC_IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// Where to send the answer.
pub(super) type StatsRequest = oneshot::Sender<LiveStats>;

/// State of a session at one moment.
#[derive(Clone, Debug)]
pub struct LiveStats {
    /// The lead; `None` while there is none.
    pub lead: Option<LeadStats>,
    /// Whether the lead is suspected, so that a dial race runs. Always false on the server half.
    pub is_suspect: bool,
    /// The latest epoch.
    pub epoch: Epoch,
    /// Bytes not yet acknowledged, plus bytes received and not yet delivered.
    pub buffered: u64,
}

/// Statistics of the lead.
#[derive(Clone, Debug)]
pub struct LeadStats {
    /// Smoothed round-trip time, if known.
    pub rtt: Option<Duration>,
    /// Packets sent and packets lost, if known.
    pub losses: Option<(u64, u64)>,
    /// Upper bound of the time since the peer was last heard.
    pub heard_for: Duration,
}

/// When the lead was heard last, as far as anybody checked.
#[derive(Debug)]
pub(super) struct LastHeard {
    /// Lower bound of that time.
    at: Instant,
    /// Packets received up to the last check, and its time.
    seen: (u64, Instant),
}

impl LastHeard {
    pub(super) fn new(now: Instant) -> LastHeard {
        LastHeard {
            at: now,
            seen: (0, now),
        }
    }

    /// The lead changed. That alone does not count as hearing the peer.
    pub(super) fn handle_lead(&mut self, lead: &Carrier, now: Instant) {
        self.seen = (lead.packets_received(), now);
    }

    /// A frame arrived on the lead.
    pub(super) fn handle_frame(&mut self, now: Instant) {
        self.at = now;
    }

    /// Upper bound of the time since the peer was last heard. Packets without a frame are only counted, so they arrived at
    /// some time since the last check.
    fn silence(&mut self, lead: &Carrier, now: Instant) -> Duration {
        let (count, checked) = std::mem::replace(&mut self.seen, (lead.packets_received(), now));
        if self.seen.0 != count {
            let last_chance = match lead.info().kind {
                Kind::Quic => now.checked_sub(QUIC_IDLE_TIMEOUT).unwrap_or(checked),
                Kind::Tls | Kind::Memory => checked,
            };
            self.at = self.at.max(checked).max(last_chance);
        }
        now.saturating_duration_since(self.at)
    }
}

impl<R, W> Pump<R, W> {
    /// Answers all waiting requests.
    pub(super) fn answer_stats_requests(&mut self, cx: &mut Context<'_>, now: Instant) {
        while let Poll::Ready(Some(request)) = self.stats_requests.poll_recv(cx) {
            // The requester may have gone.
            let _ = request.send(self.live_stats(now));
        }
    }

    fn live_stats(&mut self, now: Instant) -> LiveStats {
        let last_heard = &mut self.last_heard;
        let lead = self.connection.paths().lead().map(|path| &path.carrier);
        let lead = lead.map(|lead| LeadStats {
            rtt: lead.rtt(),
            losses: lead.losses(),
            heard_for: last_heard.silence(lead, now),
        });
        let session = self.connection.session();
        LiveStats {
            lead,
            is_suspect: self.connection.is_suspect(),
            epoch: session.epoch(),
            buffered: session.buffered() as u64,
        }
    }
}
