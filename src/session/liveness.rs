//! When the dialing half should ask the path for a sign of life, and when it should race a fresh carrier.
//!
//! Pure: the driver tells what it heard and sent. Only silence from the *path* counts: an unacknowledged byte may
//! just lie in a pipe that nobody reads, and a full window is not a dead peer.

use std::time::{Duration, Instant};

/// Bounds of the time an answer may take before a race starts; the measured round trip decides in between.
const LEAST_ALLOWANCE: Duration = Duration::from_millis(300);
const MOST_ALLOWANCE: Duration = Duration::from_secs(3);

/// With a carrier standing by an answer may take a round trip and this: the peer's delayed ack (25 ms, RFC 9000 section
/// 18.2) and some jitter. Each false alarm doubles it, and half of that is forgotten after a while.
const QUICK_MARGIN: Duration = Duration::from_millis(60);
const MOST_CAUTION: u32 = 3;
const CAUTION_FORGOTTEN: Duration = Duration::from_secs(300);
/// A lead that stood by before is not suspected as quickly as that, so that two doubtful ones do not take turns.
const CALM: Duration = Duration::from_secs(3);

/// Time for the peer's transport to acknowledge what was sent before it is probed, while other things are heard: three
/// round trips, but no less than this. It may well be that we hear the peer and it does not hear us.
const LEAST_ACK_ALLOWANCE: Duration = Duration::from_millis(500);
/// The same for the probe. It may also be that the acknowledgement stands in a queue behind all that is heard: a cheap
/// router or a phone network holds 10 s of it.
const LEAST_PROBE_ACK_ALLOWANCE: Duration = Duration::from_secs(12);
/// Asked again of what the session has not got acknowledged, ever more rarely up to this: its peer's pipe may be full.
const MOST_ACK_PATIENCE: Duration = Duration::from_secs(8);

/// First probe of a silence that follows activity: no sooner than this, and than twice the usual gap.
const FIRST_PROBE: Duration = Duration::from_millis(100);
/// The same with a carrier standing by: it is had the sooner, the sooner the lead was asked.
const FIRST_PROBE_BESIDE: Duration = Duration::from_millis(40);
/// What is still taken for a gap in one flow of output rather than a pause between two.
const MOST_USUAL_GAP: Duration = Duration::from_secs(2);
/// Further probes, each this long after the one before.
const NEXT_PROBES: [Duration; 6] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];
/// Probes of a lasting silence. NATs commonly forget a UDP mapping after 30 s (RFC 4787 asks for 120 s).
const KEEPALIVE: Duration = Duration::from_secs(15);
/// After [`QUIET`] each rest is so much longer than the one before, up to the most: a NAT that forgets sooner is found out by a
/// rest that is not much longer than it takes.
const REST_GROWTH: Duration = Duration::from_secs(3);
const RARE_KEEPALIVE: Duration = Duration::from_secs(30);
/// A rest after which a mapping was forgotten is followed by none of more than two thirds of it, but by no shorter one than this.
const LEAST_KEEPALIVE: Duration = Duration::from_secs(5);
/// Shorter ones tell nothing of a NAT, nor do those that ended this long ago.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_secs(300);

/// What the driver is to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Wait,
    /// Send a `PING` on the lead.
    Probe,
    /// Send something on the lead that the peer's transport acknowledges. After long quiet that is sign of life enough, and
    /// costs two packets instead of three.
    Touch,
    /// Race a fresh carrier against the lead, which may still recover. Said once for each suspicion.
    Suspect,
}

/// Judges the lead by what is heard on it.
pub struct Liveness {
    heard: Instant,
    active: Instant,
    usual_gap: Duration,
    /// Since when an answer is due. The allowance starts anew with every sign of progress.
    asked: Option<Instant>,
    /// The session had rested for long when that began: its mapping may be forgotten.
    asked_in_quiet: bool,
    probed: bool,
    next_probe: Instant,
    probes: usize,
    suspect: bool,
    /// What was sent has not been acknowledged by the peer's transport.
    owed: Option<Owed>,
    /// A fresh lead may not be suspected before it delivered, or had the most time that any answer gets.
    proving_until: Option<Instant>,
    /// The longest rest that the path is trusted with.
    most_rest: Duration,
    /// For how long nothing was sent before it was last asked, and when that was.
    rest: Duration,
    rest_ended: Instant,
    /// A carrier stands by: to suspect is to lose a round trip.
    has_standby: bool,
    /// The lead tells when the peer's transport acknowledges.
    hears_acks: bool,
    /// Since when a carrier leads that stood by before.
    promoted: Option<Instant>,
    caution: u32,
    alarmed: Instant,
}

/// An acknowledgement that is due.
#[derive(Clone, Copy)]
struct Owed {
    since: Instant,
    patience: Duration,
    /// Whether it is that of a probe, which no full window can hold back.
    probed: bool,
    /// Whether it did not come in time.
    missed: bool,
}

impl Owed {
    fn new(now: Instant, patience: Duration) -> Owed {
        Owed {
            since: now,
            patience,
            probed: false,
            missed: false,
        }
    }

    fn due(&self, rtt: Duration) -> Instant {
        let patience = match self.probed {
            true => LEAST_PROBE_ACK_ALLOWANCE,
            false => self.patience,
        };
        self.since + (rtt * 3).max(patience)
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
            asked_in_quiet: false,
            probed: false,
            next_probe: now + FIRST_PROBE,
            probes: 0,
            suspect: false,
            owed: None,
            proving_until: None,
            most_rest: RARE_KEEPALIVE,
            rest: Duration::ZERO,
            rest_ended: now,
            has_standby: false,
            hears_acks: false,
            promoted: None,
            caution: 0,
            alarmed: now,
        }
    }

    /// Whether a carrier stands by that may take over.
    pub fn set_standby(&mut self, has_standby: bool) {
        self.has_standby = has_standby;
    }

    /// Whether the lead tells when the peer's transport acknowledges what it brought.
    pub fn set_hears_acks(&mut self, hears_acks: bool) {
        self.hears_acks = hears_acks;
    }

    /// Whether the lead is under suspicion.
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// When something was last heard on the lead.
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// When the session was last used.
    pub fn active(&self) -> Instant {
        self.active
    }

    /// Another carrier leads from `now` on.
    pub fn handle_attached(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
        self.probed = false;
        self.suspect = false;
        self.owed = None;
        self.proving_until = Some(now + MOST_ALLOWANCE);
        self.probes = 0;
        self.next_probe = now + self.first_probe();
    }

    /// A carrier that stood by leads from `now` on. It is warm, and owes an answer like any other.
    pub fn handle_promoted(&mut self, now: Instant) {
        self.handle_attached(now);
        self.proving_until = None;
        self.promoted = Some(now);
        self.asked = Some(now);
    }

    /// The lead before this one was suspected, and answers now.
    pub fn handle_false_alarm(&mut self, now: Instant) {
        self.caution = (self.caution(now) + 1).min(MOST_CAUTION);
        self.alarmed = now;
    }

    /// Any packet arrived on the lead.
    pub fn handle_heard(&mut self, now: Instant) {
        self.suspect = self.owed.is_some_and(|owed| owed.missed);
        self.heard = now;
        // A probe that is still unanswered stays so, but the path moves: its allowance starts anew.
        self.asked = None;
        if self.probed {
            self.ask(now);
        }
    }

    /// A frame with bytes of the session arrived.
    pub fn handle_output(&mut self, now: Instant) {
        self.handle_heard(now);
        self.proving_until = None;
        let gap = now.saturating_duration_since(self.active);
        if gap <= MOST_USUAL_GAP {
            self.usual_gap = (self.usual_gap * 7 + gap) / 8;
        }
        self.handle_activity(now);
    }

    /// A probe was answered.
    pub fn handle_answer(&mut self, now: Instant) {
        self.probed = false;
        self.proving_until = None;
        self.handle_heard(now);
    }

    /// Something of the session was handed to the lead. `is_answered`: the peer, or its transport where that is heard,
    /// says something in return. To a mere acknowledgement of what it sent a peer says nothing.
    ///
    /// Whether an answer is due from now on, which it was not before.
    pub fn handle_input(&mut self, now: Instant, is_answered: bool) -> bool {
        let is_first = is_answered && self.asked.is_none();
        if is_first {
            self.ask(now);
        }
        self.handle_activity(now);
        is_first
    }

    /// Something was sent that the peer's transport acknowledges at once, whatever becomes of it there.
    ///
    /// Whether an acknowledgement is due from now on, which it was not before, or not as soon.
    pub fn handle_owed(&mut self, now: Instant) -> bool {
        let later = |owed: Owed| !owed.probed && owed.since + owed.patience > now + LEAST_ACK_ALLOWANCE;
        let is_new = self.owed.is_none_or(later);
        if is_new {
            self.owed = Some(Owed::new(now, LEAST_ACK_ALLOWANCE));
        }
        is_new
    }

    /// The peer's transport has acknowledged something. `outstanding`: the session has more that the peer must
    /// acknowledge, so that another is due.
    pub fn handle_ack(&mut self, now: Instant, outstanding: bool) {
        let Some(owed) = self.owed.take() else { return };
        if owed.missed {
            self.suspect = false;
        }
        let patience = (owed.patience * 2).min(MOST_ACK_PATIENCE);
        self.owed = outstanding.then(|| Owed::new(now, patience));
    }

    /// What the peer sent came late, or the path forgot where we are: the last rest was too long for a NAT on it, if it was long.
    pub fn handle_late(&mut self, now: Instant) {
        let is_recent = now.saturating_duration_since(self.rest_ended) <= TOLD_WITHIN;
        if is_recent && self.rest >= LEAST_KEEPALIVE {
            let shorter = (self.rest * 2 / 3).max(LEAST_KEEPALIVE);
            self.most_rest = self.most_rest.min(shorter);
            self.rest = Duration::ZERO;
            self.next_probe = self.next_probe.min(now + self.most_rest);
        }
    }

    /// The network changed or the machine woke: whatever was known of the path is old. Probe at once.
    pub fn handle_sign(&mut self, now: Instant) {
        self.probes = 0;
        self.next_probe = now;
    }

    /// What to do now. `rtt` is the lead's smoothed round trip.
    pub fn poll(&mut self, now: Instant, rtt: Duration) -> Verdict {
        if !self.suspect && self.suspicion(now, rtt).is_some_and(|due| due <= now) {
            self.suspect = true;
            if self.asked_in_quiet {
                // Whatever it was, a mapping that is kept is one cause less.
                self.most_rest = self.most_rest.min(KEEPALIVE);
            }
            return Verdict::Suspect;
        }
        if let Some(owed) = self.owed.as_mut().filter(|owed| !owed.missed && owed.due(rtt) <= now) {
            if owed.probed {
                owed.missed = true;
                // A race for want of a sign of life may be on already.
                return match std::mem::replace(&mut self.suspect, true) {
                    true => Verdict::Wait,
                    false => Verdict::Suspect,
                };
            }
            (owed.since, owed.probed) = (now, true);
            self.next_probe = now;
        }
        if self.next_probe <= now {
            if self.asked.is_none() {
                self.ask(now);
            }
            self.next_probe = now + self.next_interval(now);
            self.probes += 1;
            if self.hears_acks && self.is_quiet(now) {
                return Verdict::Touch;
            }
            self.probed = true;
            return Verdict::Probe;
        }
        Verdict::Wait
    }

    /// When [`Liveness::poll`] will have something to say, if nothing is heard before.
    pub fn poll_timeout(&self, now: Instant, rtt: Duration) -> Instant {
        let suspicion = self.suspicion(now, rtt).filter(|_| !self.suspect);
        let owed = self.owed.filter(|owed| !owed.missed).map(|owed| owed.due(rtt));
        [suspicion, owed]
            .into_iter()
            .flatten()
            .fold(self.next_probe, Instant::min)
    }

    fn suspicion(&self, now: Instant, rtt: Duration) -> Option<Instant> {
        // Three round trips: one answer, and one loss repaired by QUIC's probe timeout (RFC 9002 section 6.2.1).
        let allowance = (rtt * 3).clamp(LEAST_ALLOWANCE, MOST_ALLOWANCE);
        let asked = self.asked?;
        let due = asked + allowance;
        let due = self.proving_until.map_or(due, |until| due.max(until));
        if !self.has_standby {
            return Some(due);
        }
        let quick = asked + rtt + QUICK_MARGIN * (1 << self.caution(now));
        Some(due.min(self.promoted.map_or(quick, |promoted| quick.max(promoted + CALM))))
    }

    /// How often the quick suspicion was wrong lately.
    fn caution(&self, now: Instant) -> u32 {
        let forgotten = now.saturating_duration_since(self.alarmed).as_secs() / CAUTION_FORGOTTEN.as_secs();
        self.caution
            .saturating_sub(u32::try_from(forgotten).unwrap_or(MOST_CAUTION))
    }

    /// An answer is due from now on.
    fn ask(&mut self, now: Instant) {
        self.asked = Some(now);
        self.rest = now.saturating_duration_since(self.active.max(self.rest_ended));
        self.rest_ended = now;
        self.asked_in_quiet = self.is_quiet(now);
    }

    fn handle_activity(&mut self, now: Instant) {
        self.active = now;
        self.probes = 0;
        self.next_probe = now + self.first_probe();
    }

    fn first_probe(&self) -> Duration {
        let least = if self.has_standby {
            FIRST_PROBE_BESIDE
        } else {
            FIRST_PROBE
        };
        least.max(self.usual_gap * 2)
    }

    fn next_interval(&self, now: Instant) -> Duration {
        let interval = match NEXT_PROBES.get(self.probes) {
            Some(interval) => *interval,
            None if self.is_quiet(now) => (self.rest + REST_GROWTH).clamp(KEEPALIVE, RARE_KEEPALIVE),
            None => KEEPALIVE,
        };
        interval.min(self.most_rest)
    }

    fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.active) > QUIET
    }
}

#[cfg(test)]
mod tests;
