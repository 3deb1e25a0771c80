//! Decides when the client half probes the lead, and when it suspects the lead and dials a new carrier.
//!
//! Pure: the caller reports what was received and sent. Only silence of the *path* counts: an unacknowledged byte may be
//! in a pipe that nobody reads, and a full window is not a dead peer.

use std::time::{Duration, Instant};

/// Bounds of the time that an answer may take before the lead is suspected: three measured round trips in between.
const MIN_ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
const MAX_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// With a standby carrier, an answer may take one round trip plus this: the peer's ack delay (25 ms, RFC 9000 section
/// 18.2) and jitter. Each false alarm doubles it, until the false alarm expires.
const QUICK_MARGIN: Duration = Duration::from_millis(60);
const MAX_FALSE_ALARMS: u32 = 3;
const FALSE_ALARM_LIFETIME: Duration = Duration::from_secs(300);
/// A promoted standby carrier is not suspected that quickly, so that two bad carriers do not alternate.
const PROMOTED_SUSPECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Least time for the peer's transport to acknowledge a packet before we probe, even while other packets arrive (otherwise
/// three round trips): possibly we hear the peer and it does not hear us.
const MIN_ACK_TIMEOUT: Duration = Duration::from_millis(500);
/// The same for the probe. The acknowledgement may be queued behind everything that arrives: cheap routers and mobile
/// networks queue up to 10 s.
const MIN_PROBE_ACK_TIMEOUT: Duration = Duration::from_secs(12);
/// Limit of the doubling ack timeout while the session has unacknowledged bytes: the peer's pipe may be full.
const MAX_ACK_TIMEOUT: Duration = Duration::from_secs(8);

/// Delay of the first probe after activity: at least this, and at least twice the usual gap between outputs.
const FIRST_PROBE: Duration = Duration::from_millis(100);
/// The same with a standby carrier: an earlier probe allows an earlier promotion.
const FIRST_PROBE_WITH_STANDBY: Duration = Duration::from_millis(40);
/// Longer gaps between outputs count as pauses, not as the usual gap.
const MAX_USUAL_GAP: Duration = Duration::from_secs(2);
/// Intervals of the probes after the first.
const PROBE_INTERVALS: [Duration; 6] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// Interval of the probes after that. Many NATs drop a UDP mapping after 30 s (RFC 4787 asks for 120 s).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// After [`IDLE_AFTER`] each keepalive interval is this much longer than the one before, up to the maximum. So a NAT with a
/// short timeout is discovered by an interval that is only slightly too long.
const KEEPALIVE_INTERVAL_GROWTH: Duration = Duration::from_secs(3);
const MAX_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// After a mapping was lost, intervals are at most two thirds of the one that was too long, but never shorter than this.
const MIN_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A lost mapping is attributed to the last interval if that ended within this time.
const MAPPING_LOSS_WINDOW: Duration = Duration::from_secs(20);
const IDLE_AFTER: Duration = Duration::from_secs(300);

/// What the caller has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LivenessAction {
    /// Nothing.
    Wait,
    /// Send a `PING` on the lead.
    Probe,
    /// Send an ack-eliciting packet on the lead. In an idle session its acknowledgement is proof enough, and costs two
    /// packets instead of three.
    Keepalive,
    /// The lead is suspected: dial a new carrier; the lead may still recover. Returned once per suspicion.
    Suspect,
}

/// Monitors the lead by what arrives on it.
pub struct Liveness {
    heard: Instant,
    active: Instant,
    usual_gap: Duration,
    /// Since when an answer is due. Restarted by every sign of progress.
    asked: Option<Instant>,
    /// The session was idle when that began, so a NAT may have dropped its mapping.
    asked_while_idle: bool,
    probed: bool,
    next_probe: Instant,
    probes: usize,
    suspect: bool,
    /// An ack-eliciting packet that the peer's transport has not acknowledged.
    ack_due: Option<PendingAck>,
    /// A new lead is not suspected until it delivers or this time has passed.
    grace_until: Option<Instant>,
    /// Longest keepalive interval that this path's NATs are known to tolerate.
    max_rest: Duration,
    /// The last keepalive interval, and when it ended.
    rest: Duration,
    rest_ended: Instant,
    /// There is a standby carrier, so a suspicion costs only a round trip.
    has_standby: bool,
    /// The lead reports acknowledgements by the peer's transport.
    sees_acks: bool,
    /// When the lead was promoted from standby.
    promoted: Option<Instant>,
    false_alarms: u32,
    last_false_alarm: Instant,
}

/// An acknowledgement that is due.
#[derive(Clone, Copy)]
struct PendingAck {
    since: Instant,
    timeout: Duration,
    /// Whether a probe was sent, which no full window can hold back.
    probed: bool,
    /// Whether it is overdue.
    missed: bool,
}

impl PendingAck {
    fn new(now: Instant, timeout: Duration) -> PendingAck {
        PendingAck {
            since: now,
            timeout,
            probed: false,
            missed: false,
        }
    }

    fn due(&self, rtt: Duration) -> Instant {
        let timeout = match self.probed {
            true => MIN_PROBE_ACK_TIMEOUT,
            false => self.timeout,
        };
        self.since + (rtt * 3).max(timeout)
    }
}

impl Liveness {
    /// The first carrier leads from `now` on.
    pub fn new(now: Instant) -> Liveness {
        Liveness {
            heard: now,
            active: now,
            usual_gap: FIRST_PROBE / 2,
            asked: None,
            asked_while_idle: false,
            probed: false,
            next_probe: now + FIRST_PROBE,
            probes: 0,
            suspect: false,
            ack_due: None,
            grace_until: None,
            max_rest: MAX_KEEPALIVE_INTERVAL,
            rest: Duration::ZERO,
            rest_ended: now,
            has_standby: false,
            sees_acks: false,
            promoted: None,
            false_alarms: 0,
            last_false_alarm: now,
        }
    }

    /// Whether there is a standby carrier that can be promoted.
    pub fn set_standby(&mut self, has_standby: bool) {
        self.has_standby = has_standby;
    }

    /// Whether the lead reports acknowledgements by the peer's transport.
    pub fn set_sees_acks(&mut self, sees_acks: bool) {
        self.sees_acks = sees_acks;
    }

    /// Whether the lead is suspected.
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// When something last arrived on the lead.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// The longest keepalive interval that this path's NATs are known to tolerate.
    pub fn max_keepalive_interval(&self) -> Duration {
        self.max_rest
    }

    /// When the session was last used.
    pub fn active(&self) -> Instant {
        self.active
    }

    /// Another carrier leads since `now`.
    pub fn handle_attached(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
        self.probed = false;
        self.suspect = false;
        self.ack_due = None;
        self.grace_until = Some(now + MAX_ANSWER_TIMEOUT);
        self.probes = 0;
        self.next_probe = now + self.first_probe();
    }

    /// A standby carrier was promoted at `now`. Its transport is established, so an answer is due at once.
    pub fn handle_promoted(&mut self, now: Instant) {
        self.handle_attached(now);
        self.grace_until = None;
        self.promoted = Some(now);
        self.asked = Some(now);
    }

    /// The previous lead, which was suspected, answers.
    pub fn handle_false_alarm(&mut self, now: Instant) {
        self.false_alarms = (self.false_alarms(now) + 1).min(MAX_FALSE_ALARMS);
        self.last_false_alarm = now;
    }

    /// Any packet arrived on the lead.
    pub fn handle_heard(&mut self, now: Instant) {
        self.suspect = self.ack_due.is_some_and(|ack_due| ack_due.missed);
        self.heard = now;
        // A probe may still be unanswered, but the path works: restart the timeout.
        self.asked = None;
        if self.probed {
            self.ask(now);
        }
    }

    /// A frame with bytes of the session arrived.
    pub fn handle_output(&mut self, now: Instant) {
        self.handle_heard(now);
        self.grace_until = None;
        let gap = now.saturating_duration_since(self.active);
        if gap <= MAX_USUAL_GAP {
            self.usual_gap = (self.usual_gap * 7 + gap) / 8;
        }
        self.handle_activity(now);
    }

    /// A probe was answered.
    pub fn handle_answer(&mut self, now: Instant) {
        self.probed = false;
        self.grace_until = None;
        self.handle_heard(now);
    }

    /// Frames of the session were sent on the lead. `is_answered`: the peer will answer, or its transport will if the lead
    /// reports that. A peer does not answer a mere acknowledgement.
    ///
    /// Returns whether an answer has become due that was not due before.
    pub fn handle_input(&mut self, now: Instant, is_answered: bool) -> bool {
        let is_first = is_answered && self.asked.is_none();
        if is_first {
            self.ask(now);
        }
        self.handle_activity(now);
        is_first
    }

    /// An ack-eliciting packet was sent.
    ///
    /// Returns whether an acknowledgement has become due that was not due before, or only later.
    pub fn handle_ack_eliciting(&mut self, now: Instant) -> bool {
        let later = |ack_due: PendingAck| !ack_due.probed && ack_due.since + ack_due.timeout > now + MIN_ACK_TIMEOUT;
        let is_new = self.ack_due.is_none_or(later);
        if is_new {
            self.ack_due = Some(PendingAck::new(now, MIN_ACK_TIMEOUT));
        }
        is_new
    }

    /// The peer's transport has acknowledged something. `outstanding`: the session has more unacknowledged bytes, so another
    /// acknowledgement is due.
    pub fn handle_ack(&mut self, now: Instant, outstanding: bool) {
        let Some(ack_due) = self.ack_due.take() else { return };
        if ack_due.missed {
            self.suspect = false;
        }
        let timeout = (ack_due.timeout * 2).min(MAX_ACK_TIMEOUT);
        self.ack_due = outstanding.then(|| PendingAck::new(now, timeout));
    }

    /// A NAT on the path has dropped its mapping: the last keepalive interval was too long.
    pub fn handle_mapping_lost(&mut self, now: Instant) {
        let is_recent = now.saturating_duration_since(self.rest_ended) <= MAPPING_LOSS_WINDOW;
        if is_recent && self.rest >= MIN_KEEPALIVE_INTERVAL {
            let shorter = (self.rest * 2 / 3).max(MIN_KEEPALIVE_INTERVAL);
            self.max_rest = self.max_rest.min(shorter);
            self.rest = Duration::ZERO;
            self.next_probe = self.next_probe.min(now + self.max_rest);
        }
    }

    /// The network changed or the machine woke up, so nothing is known about the path: probe at once.
    pub fn handle_network_change(&mut self, now: Instant) {
        self.probes = 0;
        self.next_probe = now;
    }

    /// What to do now. `rtt` is the lead's smoothed round trip.
    pub fn poll(&mut self, now: Instant, rtt: Duration) -> LivenessAction {
        if !self.suspect && self.suspicion(now, rtt).is_some_and(|due| due <= now) {
            self.suspect = true;
            if self.asked_while_idle {
                // The cause may be a lost mapping: keep it alive from now on.
                self.max_rest = self.max_rest.min(KEEPALIVE_INTERVAL);
            }
            return LivenessAction::Suspect;
        }
        if let Some(ack_due) = self
            .ack_due
            .as_mut()
            .filter(|ack_due| !ack_due.missed && ack_due.due(rtt) <= now)
        {
            if ack_due.probed {
                ack_due.missed = true;
                // The lead may already be suspected for its silence.
                return match std::mem::replace(&mut self.suspect, true) {
                    true => LivenessAction::Wait,
                    false => LivenessAction::Suspect,
                };
            }
            (ack_due.since, ack_due.probed) = (now, true);
            self.next_probe = now;
        }
        if self.next_probe <= now {
            if self.asked.is_none() {
                self.ask(now);
            }
            self.next_probe = now + self.next_interval(now);
            self.probes += 1;
            if self.sees_acks && self.is_idle(now) {
                return LivenessAction::Keepalive;
            }
            self.probed = true;
            return LivenessAction::Probe;
        }
        LivenessAction::Wait
    }

    /// When [`Liveness::poll`] will have something to say, if nothing is heard before.
    pub fn poll_timeout(&self, now: Instant, rtt: Duration) -> Instant {
        let suspicion = self.suspicion(now, rtt).filter(|_| !self.suspect);
        let ack_due = self
            .ack_due
            .filter(|ack_due| !ack_due.missed)
            .map(|ack_due| ack_due.due(rtt));
        [suspicion, ack_due]
            .into_iter()
            .flatten()
            .fold(self.next_probe, Instant::min)
    }

    fn suspicion(&self, now: Instant, rtt: Duration) -> Option<Instant> {
        // Three round trips: one answer, and one loss repaired by QUIC's probe timeout (RFC 9002 section 6.2.1).
        let allowance = (rtt * 3).clamp(MIN_ANSWER_TIMEOUT, MAX_ANSWER_TIMEOUT);
        let asked = self.asked?;
        let due = asked + allowance;
        let due = self.grace_until.map_or(due, |until| due.max(until));
        if !self.has_standby {
            return Some(due);
        }
        let quick = asked + rtt + QUICK_MARGIN * (1 << self.false_alarms(now));
        Some(
            due.min(
                self.promoted
                    .map_or(quick, |promoted| quick.max(promoted + PROMOTED_SUSPECT_TIMEOUT)),
            ),
        )
    }

    /// How many recent quick suspicions were wrong.
    fn false_alarms(&self, now: Instant) -> u32 {
        let forgotten = now.saturating_duration_since(self.last_false_alarm).as_secs() / FALSE_ALARM_LIFETIME.as_secs();
        self.false_alarms
            .saturating_sub(u32::try_from(forgotten).unwrap_or(MAX_FALSE_ALARMS))
    }

    /// An answer is due since `now`.
    fn ask(&mut self, now: Instant) {
        self.asked = Some(now);
        self.rest = now.saturating_duration_since(self.active.max(self.rest_ended));
        self.rest_ended = now;
        self.asked_while_idle = self.is_idle(now);
    }

    fn handle_activity(&mut self, now: Instant) {
        self.active = now;
        self.probes = 0;
        self.next_probe = now + self.first_probe();
    }

    fn first_probe(&self) -> Duration {
        let least = if self.has_standby {
            FIRST_PROBE_WITH_STANDBY
        } else {
            FIRST_PROBE
        };
        least.max(self.usual_gap * 2)
    }

    fn next_interval(&self, now: Instant) -> Duration {
        let interval = match PROBE_INTERVALS.get(self.probes) {
            Some(interval) => *interval,
            None if self.is_idle(now) => {
                (self.rest + KEEPALIVE_INTERVAL_GROWTH).clamp(KEEPALIVE_INTERVAL, MAX_KEEPALIVE_INTERVAL)
            }
            None => KEEPALIVE_INTERVAL,
        };
        interval.min(self.max_rest)
    }

    fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.active) > IDLE_AFTER
    }
}

#[cfg(test)]
mod tests;
