//! The client half's monitor of the lead: requests a new carrier as soon as the lead looks unhealthy.

use super::path::{PathTransport, UNKNOWN_RTT};
use crate::session::{Liveness, LivenessAction};
use crate::wire::Frame;
use std::time::{Duration, Instant};

/// If output arrived this recently before the silence, someone waits for more.
const RECENT_OUTPUT: Duration = Duration::from_secs(5);

/// What the dialer should do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialRequest {
    /// Nothing: the lead is healthy.
    #[default]
    None,
    /// Dial a new carrier.
    Dial {
        /// Whether the peer's host itself closed the lead: it can be reached, and is busy at worst.
        peer_reachable: bool,
        /// Whether the user waits for output or has pressed a key.
        is_urgent: bool,
        /// Incremented by each suspicion, loss of a healthy lead, keystroke and network change; a new value restarts the
        /// redial cadence.
        restarts: u32,
        /// Incremented by each network change: what is known about the peer is forgotten.
        network_changes: u32,
    },
}

impl DialRequest {
    /// Whether the user waits.
    pub fn is_urgent(&self) -> bool {
        matches!(self, DialRequest::Dial { is_urgent: true, .. })
    }

    /// How often something happened that restarts the redial cadence.
    pub fn restarts(&self) -> u32 {
        match self {
            DialRequest::Dial { restarts, .. } => *restarts,
            DialRequest::None => 0,
        }
    }

    /// How often the network has changed.
    pub fn network_changes(&self) -> u32 {
        match self {
            DialRequest::Dial { network_changes, .. } => *network_changes,
            DialRequest::None => 0,
        }
    }
}

/// What to do about the lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    Keep,
    /// Send a `PING` with this token.
    Probe(u64),
    /// Send a keepalive with this token.
    Keepalive(u64),
    /// The lead is suspected: promote a standby carrier if there is one, otherwise a dial is requested already.
    Suspect,
}

/// Monitors the lead and requests dials.
pub(super) struct PathMonitor {
    liveness: Liveness,
    request: DialRequest,
    /// [`PathTransport::received`] when an answer became due, or at the last check.
    received: u64,
    /// [`PathTransport::ack_mark`] when the pending acknowledgement became due.
    ack_mark: Option<u64>,
    /// [`PathTransport::rebindings`] at the last check.
    rebindings: u64,
    pings: u64,
    lost: bool,
    drained: bool,
    waiting_input: usize,
}

impl PathMonitor {
    /// For a session that begins.
    pub(super) fn new(now: Instant) -> PathMonitor {
        PathMonitor {
            liveness: Liveness::new(now),
            request: DialRequest::None,
            received: 0,
            ack_mark: None,
            rebindings: 0,
            pings: 0,
            lost: false,
            drained: false,
            waiting_input: 0,
        }
    }

    pub(super) fn handle_attached(&mut self, now: Instant) {
        self.liveness.handle_attached(now);
        self.received = 0;
        self.ack_mark = None;
        self.rebindings = 0;
        self.lost = false;
        self.drained = false;
        self.request = DialRequest::None;
    }

    /// A standby carrier was promoted. A dial request stays until that carrier delivers.
    pub(super) fn handle_promoted(&mut self, lead: &impl PathTransport, now: Instant) {
        self.liveness.handle_promoted(now);
        self.received = lead.received();
        self.ack_mark = None;
        self.rebindings = lead.rebindings();
        self.lost = false;
    }

    /// The replaced lead answers: it was suspected wrongly.
    pub(super) fn handle_false_alarm(&mut self, now: Instant) {
        self.liveness.handle_false_alarm(now);
    }

    pub(super) fn handle_lost(&mut self, peer_reachable: bool, now: Instant, outstanding: bool) {
        self.lost = true;
        // A lead that is suspected and then times out says nothing new. Whoever waits has restarted the cadence before.
        let is_news = peer_reachable || !self.liveness.is_suspect() || self.request == DialRequest::None;
        if is_news {
            self.request_dial(peer_reachable, now, outstanding);
        }
    }

    pub(super) fn handle_frame(&mut self, frame: &Frame, now: Instant) {
        match frame {
            Frame::Data { .. } | Frame::Fin { .. } | Frame::Close { .. } => self.liveness.handle_output(now),
            Frame::Pong { .. } => self.liveness.handle_answer(now),
            Frame::Ack { .. } | Frame::Resume { .. } => self.liveness.handle_heard(now),
            Frame::Ping { .. } => {
                self.liveness.handle_heard(now);
                // The server half pings if a NAT had dropped its mapping for us.
                self.liveness.handle_mapping_lost(now);
            }
            Frame::Drain => {
                self.drained = true;
                self.request_dial(true, now, false);
            }
        }
        self.cancel();
    }

    /// `outstanding`: the session has something that the peer must acknowledge.
    pub(super) fn handle_sent(&mut self, lead: &impl PathTransport, now: Instant, outstanding: bool) {
        // Packets received before this are no answer to it.
        if self.liveness.handle_input(now, outstanding || lead.counts_acks()) {
            self.received = lead.received();
        }
        if let Some(mark) = lead.ack_mark().filter(|_| self.liveness.handle_ack_eliciting(now)) {
            self.ack_mark = Some(mark);
        }
    }

    /// Bytes wait for the peer. If there is no healthy lead, more of them mean that the user pressed a key.
    pub(super) fn handle_waiting_input(&mut self, waiting: usize, now: Instant) {
        if (self.lost || self.liveness.is_suspect()) && waiting > self.waiting_input {
            self.request_dial(false, now, true);
        }
        self.waiting_input = waiting;
    }

    /// The network changed or the machine woke up.
    pub(super) fn handle_network_change(&mut self, now: Instant) {
        self.liveness.handle_network_change(now);
        if let DialRequest::Dial {
            restarts,
            network_changes,
            ..
        } = self.request
        {
            self.request = DialRequest::Dial {
                // The network may be another one, on which nothing is known about the peer.
                peer_reachable: false,
                is_urgent: true,
                restarts: restarts.wrapping_add(1),
                network_changes: network_changes.wrapping_add(1),
            };
        }
    }

    pub(super) fn max_keepalive_interval(&self) -> Duration {
        self.liveness.max_keepalive_interval()
    }

    /// What the dialer should do.
    pub(super) fn request(&self) -> DialRequest {
        self.request
    }

    /// `has_standby`: a standby carrier can be promoted. `outstanding`: the session has unacknowledged bytes.
    pub(super) fn poll(
        &mut self,
        lead: Option<&impl PathTransport>,
        has_standby: bool,
        now: Instant,
        outstanding: bool,
    ) -> Action {
        self.liveness.set_standby(has_standby);
        let Some(lead) = lead else { return Action::Keep };
        self.liveness.set_sees_acks(lead.ack_mark().is_some());
        let rtt = lead.rtt().unwrap_or(UNKNOWN_RTT);
        if self.liveness.poll_timeout(now, rtt) > now {
            return Action::Keep;
        }
        self.check_received(lead, now);
        self.check_acks(lead, now, outstanding);
        match self.liveness.poll(now, rtt) {
            LivenessAction::Wait => Action::Keep,
            LivenessAction::Probe => {
                self.received = lead.received();
                Action::Probe(self.token())
            }
            LivenessAction::Keepalive => {
                self.received = lead.received();
                Action::Keepalive(self.token())
            }
            LivenessAction::Suspect => {
                if !has_standby {
                    self.request_dial(false, now, outstanding);
                }
                Action::Suspect
            }
        }
    }

    fn check_received(&mut self, lead: &impl PathTransport, now: Instant) {
        let received = lead.received();
        if received == self.received {
            return;
        }
        self.received = received;
        self.liveness.handle_heard(now);
        let rebindings = lead.rebindings();
        if std::mem::replace(&mut self.rebindings, rebindings) != rebindings {
            self.liveness.handle_mapping_lost(now);
        }
        self.cancel();
    }

    fn check_acks(&mut self, lead: &impl PathTransport, now: Instant, outstanding: bool) {
        if self.ack_mark.is_some() && lead.ack_mark() != self.ack_mark {
            self.liveness.handle_ack(now, outstanding);
            self.ack_mark = lead.ack_mark().filter(|_| outstanding);
            self.cancel();
        }
    }

    pub(super) fn poll_timeout(&self, lead: Option<&impl PathTransport>, now: Instant) -> Option<Instant> {
        let rtt = lead?.rtt().unwrap_or(UNKNOWN_RTT);
        Some(self.liveness.poll_timeout(now, rtt))
    }

    /// Since when nothing was heard from a suspected lead.
    pub(super) fn suspected_since(&self) -> Option<Instant> {
        self.liveness.is_suspect().then(|| self.liveness.heard())
    }

    fn token(&mut self) -> u64 {
        self.pings += 1;
        self.pings
    }

    fn request_dial(&mut self, peer_reachable: bool, now: Instant, outstanding: bool) {
        let flowed = now.saturating_duration_since(self.liveness.active()) < RECENT_OUTPUT;
        let (was_reachable, was_urgent, restarts, network_changes) = match self.request {
            DialRequest::Dial {
                peer_reachable,
                is_urgent,
                restarts,
                network_changes,
            } => (peer_reachable, is_urgent, restarts, network_changes),
            DialRequest::None => (false, false, 0, 0),
        };
        self.request = DialRequest::Dial {
            peer_reachable: was_reachable || peer_reachable,
            is_urgent: was_urgent || outstanding || flowed,
            restarts: restarts.wrapping_add(1),
            network_changes,
        };
    }

    /// The lead works again: cancels the dial request.
    fn cancel(&mut self) {
        if !self.lost && !self.drained && !self.liveness.is_suspect() {
            self.request = DialRequest::None;
        }
    }
}
