//! Decides how often to dial while a session has no healthy carrier.
//!
//! While the user waits, an attempt every 150 ms costs one packet and finds a returning path at once; later it would only
//! use battery. A keystroke, a network change or a wake-up restarts the cadence.

use std::time::{Duration, Instant};

/// Steps of the cadence: the interval, and until how long after the start or last restart it applies.
const URGENT_STEPS: [(Duration, Duration); 2] = [
    (Duration::from_millis(150), Duration::from_secs(300)),
    (Duration::from_secs(1), Duration::from_secs(1800)),
];
const IDLE_STEPS: [(Duration, Duration); 1] = [(IDLE_INTERVAL, Duration::from_secs(1800))];
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// While the peer is known to be reachable but busy: each interval is twice the previous one, up to the second value.
const BUSY: (Duration, Duration) = (Duration::from_millis(150), Duration::from_secs(2));
/// How long that is assumed after the peer was heard.
const BUSY_FOR: Duration = Duration::from_secs(10);
/// A peer that is heard for this long, while no dial completes, is busy too. Longer than a handshake over a slow path.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// A longer silence than this ends that time: then the path fails again and again.
const SLOW_GAP: Duration = Duration::from_secs(2);
/// A peer that has been busy for a long time gets an attempt per this part of that time. A thousand clients may need a
/// minute of its processor for their handshakes, and each attempt beyond the first costs all of them more.
const BUSY_PART: u32 = 4;
/// Less than [`BUSY_FOR`], so that a busy peer is heard between two attempts.
const MAX_BUSY_INTERVAL: Duration = Duration::from_secs(5);
/// If an attempt is late, the next interval is at least this multiple of the delay: the machine is overloaded.
const LATENESS: u32 = 16;
/// The longest interval for that reason, at first. A machine that has slept is late once. Each attempt that is late by
/// more doubles it.
const LATE_INTERVAL: Duration = Duration::from_secs(1);
const MAX_INTERVAL: Duration = Duration::from_secs(15);

/// Random variation of an interval, so that a thousand clients do not redial in step.
const JITTER_PERCENT: u64 = 20;

/// Schedules the dial attempts of one outage.
pub struct RedialPacer {
    since: Instant,
    is_urgent: bool,
    last: Option<Instant>,
    next: Instant,
    busy: Option<Busy>,
    /// When the peer began to be heard without a long silence, and when it was heard last.
    heard: Option<(Instant, Instant)>,
    max_late_interval: Duration,
    random: u64,
}

/// The peer's host was heard, but has not answered yet.
struct Busy {
    since: Instant,
    until: Instant,
    interval: Duration,
    /// The peer has said so itself, and does not merely take long.
    is_refused: bool,
}

impl Busy {
    /// The interval from now on, at least.
    fn interval(&self, now: Instant) -> Duration {
        // A path that loses all large packets looks like a slow peer, and another path may work.
        let max = if self.is_refused { MAX_BUSY_INTERVAL } else { BUSY.1 };
        let part = now.saturating_duration_since(self.since) / BUSY_PART;
        self.interval.max(part).min(max)
    }
}

impl RedialPacer {
    /// An outage begins. `is_urgent`: output was flowing or a key was pressed, so the first attempt is due at once.
    /// Otherwise it is due at a random time within the first interval, so that users who wait are not delayed by idle
    /// sessions when a server half is replaced.
    pub fn new(now: Instant, is_urgent: bool, seed: u64) -> RedialPacer {
        let mut pacer = RedialPacer {
            since: now,
            is_urgent,
            last: None,
            next: now,
            busy: None,
            heard: None,
            max_late_interval: LATE_INTERVAL,
            random: seed | 1,
        };
        if !is_urgent {
            let part = (pacer.draw() % 1000) as u32;
            pacer.next += IDLE_INTERVAL * part / 1000;
        }
        pacer
    }

    /// A keystroke, a network change or a wake-up: dial at once and often again.
    pub fn restart(&mut self, now: Instant) {
        self.since = now;
        self.is_urgent = true;
        // The shortest interval also applies to a fast typist.
        let least = self.busy_interval(now).unwrap_or(URGENT_STEPS[0].0);
        let soonest = self.last.map_or(now, |last| now.max(last + least));
        self.next = self.next.min(soonest);
    }

    /// The peer's host was heard at that time and closed the carrier: its server half is being replaced or has just
    /// restarted. It answers as soon as it can; more attempts from all its clients would only delay that. `None`: no longer
    /// known.
    pub fn set_peer_heard(&mut self, at: Option<Instant>) {
        self.heard = None;
        self.busy = at.map(|at| Busy {
            since: at,
            until: at + BUSY_FOR,
            interval: BUSY.0,
            is_refused: true,
        });
    }

    /// The peer refused a dial because it has too many of them.
    pub fn handle_refused(&mut self, now: Instant) {
        if !self.is_refused(now) {
            self.set_peer_heard(Some(now));
        }
        self.handle_heard(now);
    }

    /// Something arrived from the peer, but no dial has completed.
    pub fn handle_heard(&mut self, now: Instant) {
        if let Some(busy) = self.busy.as_mut().filter(|busy| now < busy.until) {
            busy.until = now + BUSY_FOR;
            return;
        }
        let recent = self.heard.filter(|(_, last)| now < *last + SLOW_GAP);
        let since = recent.map_or(now, |(since, _)| since);
        self.heard = Some((since, now));
        if now >= since + SLOW_AFTER {
            self.busy = Some(Busy {
                since: now,
                until: now + BUSY_FOR,
                interval: BUSY.0,
                is_refused: false,
            });
        }
    }

    /// Whether the peer refuses dials for now.
    pub fn is_refused(&self, now: Instant) -> bool {
        self.busy
            .as_ref()
            .is_some_and(|busy| busy.is_refused && now < busy.until)
    }

    /// When the next attempt is due.
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }

    /// Whether to dial now; if so, the attempt is counted.
    pub fn poll_attempt(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        let least = self.handle_lateness(now.saturating_duration_since(self.next));
        self.last = Some(now);
        let interval = self.busy_interval(now).unwrap_or_else(|| self.interval(now));
        self.next = now + self.jittered(interval.max(least));
        if let Some(busy) = &mut self.busy {
            busy.interval = (busy.interval * 2).min(BUSY.1);
        }
        true
    }

    /// An attempt was late by this time. Returns the shortest interval until the next one.
    fn handle_lateness(&mut self, late: Duration) -> Duration {
        let wanted = late * LATENESS;
        let max = self.max_late_interval;
        self.max_late_interval = if wanted > max {
            (max * 2).min(MAX_INTERVAL)
        } else if wanted < LATE_INTERVAL {
            LATE_INTERVAL
        } else {
            max
        };
        wanted.min(max)
    }

    fn busy_interval(&self, now: Instant) -> Option<Duration> {
        let busy = self.busy.as_ref()?;
        (now < busy.until).then(|| busy.interval(now))
    }

    fn interval(&self, now: Instant) -> Duration {
        let steps: &[_] = if self.is_urgent { &URGENT_STEPS } else { &IDLE_STEPS };
        let elapsed = now.saturating_duration_since(self.since);
        steps
            .iter()
            .find(|(_, until)| elapsed < *until)
            .map_or(MAX_INTERVAL, |(interval, _)| *interval)
    }

    fn jittered(&mut self, interval: Duration) -> Duration {
        let percent = 100 - JITTER_PERCENT / 2 + self.draw() % (JITTER_PERCENT + 1);
        interval * percent as u32 / 100
    }

    /// xorshift64 (Marsaglia 2003): good enough for jitter.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tools as clock;

    fn attempts(pacer: &mut RedialPacer, from: Instant, to: Instant) -> usize {
        let mut count = 0;
        loop {
            let due = pacer.poll_timeout().max(from);
            if due >= to {
                return count;
            }
            assert!(pacer.poll_attempt(due));
            count += 1;
        }
    }

    #[test]
    fn attempts_are_frequent_while_someone_waits_and_rare_after_hours() {
        let start = clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pacer = RedialPacer::new(start, true, 7);
        let first_minute = attempts(&mut pacer, start, at(60));
        assert!((350..=450).contains(&first_minute), "{first_minute}");
        attempts(&mut pacer, at(60), at(300));
        let sixth_minute = attempts(&mut pacer, at(300), at(360));
        assert!((54..=67).contains(&sixth_minute), "{sixth_minute}");
        attempts(&mut pacer, at(360), at(7200));
        let third_hour = attempts(&mut pacer, at(7200), at(10_800));
        assert!((210..=270).contains(&third_hour), "{third_hour}");
    }

    #[test]
    fn clients_that_nobody_waits_for_leave_the_first_moments_to_others() {
        let start = clock::now();
        let firsts = (1..=200u64).map(|seed| {
            let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            RedialPacer::new(start, false, seed).poll_timeout() - start
        });
        let firsts: Vec<_> = firsts.collect();
        assert!(firsts.iter().all(|first| *first < IDLE_INTERVAL));
        let early = firsts.iter().filter(|first| **first < IDLE_INTERVAL / 4).count();
        assert!((30..70).contains(&early), "{early} of 200 in the first quarter");
        let mut pacer = RedialPacer::new(start, false, 7);
        pacer.restart(start);
        assert!(pacer.poll_attempt(start), "a key is not made to wait");
    }

    #[test]
    fn a_peer_that_is_busy_is_not_pressed() {
        let start = clock::now();
        let mut pacer = RedialPacer::new(start, true, 7);
        pacer.set_peer_heard(Some(start));
        assert!(pacer.poll_attempt(start), "at once all the same");
        assert!(pacer.poll_attempt(pacer.poll_timeout()));
        let soon = start + Duration::from_millis(100);
        pacer.restart(soon);
        assert!(
            pacer.poll_timeout() >= start + Duration::from_millis(250),
            "a key changes nothing"
        );
        let busy = attempts(&mut pacer, start, start + BUSY_FOR);
        assert!((5..=8).contains(&busy), "{busy}");
        let later = start + BUSY_FOR + BUSY.1;
        attempts(&mut pacer, start + BUSY_FOR, later);
        let after = attempts(&mut pacer, later, later + Duration::from_secs(10));
        assert!((58..=75).contains(&after), "as usual when it does not answer: {after}");
    }

    #[test]
    fn a_peer_that_stays_busy_gets_fewer_attempts_for_as_long_as_it_is_heard() {
        let start = clock::now();
        let mut pacer = RedialPacer::new(start, true, 7);
        pacer.set_peer_heard(Some(start));
        let heard_for = Duration::from_secs(120);
        let mut heard = 0;
        while pacer.poll_timeout() < start + heard_for {
            let now = pacer.poll_timeout();
            pacer.handle_heard(now);
            assert!(pacer.poll_attempt(now));
            heard += 1;
        }
        assert!((20..=40).contains(&heard), "{heard} attempts in two minutes");
        let silent = pacer.poll_timeout() + BUSY_FOR + MAX_INTERVAL;
        attempts(&mut pacer, start + heard_for, silent);
        let after = attempts(&mut pacer, silent, silent + Duration::from_secs(10));
        assert!((58..=75).contains(&after), "as usual when it does not answer: {after}");
    }

    #[test]
    fn a_peer_that_is_heard_for_a_while_but_completes_no_dial_is_busy() {
        let start = clock::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pacer = RedialPacer::new(start, true, 7);
        for heard in [0, 500, 900, 3000, 3900, 7000] {
            pacer.handle_heard(at(heard));
            assert!(
                !pacer.is_refused(at(heard)),
                "the path may lose packets, or fail now and then"
            );
        }
        pacer.handle_heard(at(8100));
        assert!(pacer.busy_interval(at(8100)).is_some() && !pacer.is_refused(at(8100)));
        pacer.set_peer_heard(None);
        pacer.handle_heard(at(8200));
        assert!(pacer.busy_interval(at(8200)).is_none(), "another network");
    }

    #[test]
    fn a_refusal_slows_the_attempts() {
        let start = clock::now();
        let mut pacer = RedialPacer::new(start, true, 7);
        pacer.handle_refused(start);
        assert!(pacer.is_refused(start));
        pacer.handle_refused(start + Duration::from_secs(8));
        assert!(pacer.is_refused(start + Duration::from_secs(17)));
        let attempts = attempts(&mut pacer, start, start + Duration::from_secs(17));
        assert!((6..=13).contains(&attempts), "{attempts}");
    }

    #[test]
    fn a_machine_that_never_keeps_up_makes_ever_fewer_attempts() {
        let start = clock::now();
        let mut pacer = RedialPacer::new(start, true, 7);
        let late = Duration::from_secs(10);
        let intervals: Vec<_> = (0..6)
            .map(|_| {
                let now = pacer.poll_timeout() + late;
                assert!(pacer.poll_attempt(now));
                pacer.poll_timeout() - now
            })
            .collect();
        assert!(intervals[0] <= LATE_INTERVAL * 11 / 10, "{intervals:?}");
        assert!(intervals[5] >= MAX_INTERVAL * 9 / 10, "{intervals:?}");
        assert!(pacer.poll_attempt(pacer.poll_timeout()), "in time again");
        let now = pacer.poll_timeout() + late;
        assert!(pacer.poll_attempt(now));
        assert!(pacer.poll_timeout() - now <= LATE_INTERVAL * 11 / 10);
    }

    #[test]
    fn a_machine_that_cannot_keep_up_makes_fewer_attempts() {
        let start = clock::now();
        let mut pacer = RedialPacer::new(start, true, 7);
        assert!(pacer.poll_attempt(start + Duration::from_millis(100)));
        let next = pacer.poll_timeout() - start - Duration::from_millis(100);
        assert!(next >= Duration::from_millis(360), "{next:?}");
        let mut pacer = RedialPacer::new(start, true, 7);
        let woken = start + Duration::from_secs(100);
        assert!(pacer.poll_attempt(woken));
        let next = pacer.poll_timeout() - woken;
        assert!(next <= Duration::from_millis(1100), "a sleep is no work: {next:?}");
    }

    #[test]
    fn a_sign_starts_over_at_once() {
        let start = clock::now();
        let mut pacer = RedialPacer::new(start, false, 7);
        let later = start + Duration::from_secs(7200);
        attempts(&mut pacer, start, later);
        pacer.restart(later);
        assert!(pacer.poll_attempt(later));
        assert!(pacer.poll_timeout() <= later + Duration::from_millis(170));
    }
}
