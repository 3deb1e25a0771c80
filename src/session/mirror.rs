//! When copies of interactive bytes travel beside the lead's ordered stream, and how many.
//!
//! Pure. A copy holds everything that the peer has not acknowledged, so that one of them fills a gap whole; while that
//! is too much for one packet there are none. What to copy says [`Session::copy`](super::Session::copy).

use crate::wire::Offset;
use std::time::{Duration, Instant};

/// Most bytes in a copy. With all headers that fits the least packet of QUIC (1200 bytes).
pub const MOST_COPIED: usize = 1100;

/// Between two copies, and before the first: packets that leave together are lost together.
const APART: Duration = Duration::from_millis(4);
/// Most bytes of copies in a second, their headers included: 20 kbit/s.
const RATE: u32 = 2500;
/// QUIC, UDP and IP around the frame of a copy.
const HEADERS: usize = 50;
/// So much of the rate may be saved up.
const SAVED: Duration = Duration::from_secs(1);

/// The copies of one kind: the lead's own, or those on carriers that stand by.
pub struct Mirror {
    /// Everything before has its copies planned.
    planned: Offset,
    left: u32,
    due: Instant,
    /// The rate is used up until then; it lags by what was saved up.
    paid_until: Instant,
}

impl Mirror {
    /// No copy is planned.
    pub fn new(now: Instant) -> Mirror {
        Mirror {
            planned: Offset::ZERO,
            left: 0,
            due: now,
            paid_until: now.checked_sub(SAVED).unwrap_or(now),
        }
    }

    /// Everything before `sent` left on the lead; what is new of that is to have `copies`, the first at once or a
    /// moment `later`.
    pub fn handle_sent(&mut self, sent: Offset, copies: u32, later: bool, now: Instant) {
        if sent > self.planned {
            self.planned = sent;
            self.left = copies;
            self.due = if later { now + APART } else { now };
        }
    }

    /// Whether a copy is to leave now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|due| due <= now)
    }

    /// A copy of `len` bytes left.
    pub fn handle_copied(&mut self, len: usize, now: Instant) {
        self.left = self.left.saturating_sub(1);
        self.due = now + APART;
        let cost = Duration::from_secs(1) * u32::try_from(len + HEADERS).unwrap_or(u32::MAX) / RATE;
        let saved_from = now.checked_sub(SAVED).unwrap_or(now);
        self.paid_until = self.paid_until.max(saved_from) + cost;
    }

    /// Nothing is left to copy, or too much.
    pub fn call_off(&mut self) {
        self.left = 0;
    }

    /// When the next copy is due; `None` while none is planned.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.left > 0).then(|| self.due.max(self.paid_until))
    }
}

/// After so long a loss counts half.
const HALF_LIFE: Duration = Duration::from_secs(20);
/// Less than this of a loss is not recent: one loss counts for two half-lives.
const RECENT: f64 = 0.25;
/// So many packets at least are behind what is taken for a rate of loss.
const LEAST_SAMPLE: f64 = 30.0;
/// So many packets without a loss lately, and a path is known for losing none.
const KNOWN_CLEAN: f64 = 100.0;
/// How often a byte may have to wait for a repair by QUIC.
const LEFT_TO_REPAIR: f64 = 2e-4;
/// Most copies of the same bytes on the lead.
const MOST_COPIES: i32 = 3;

/// What share of its packets a carrier lost lately.
#[derive(Default)]
pub struct LossGauge {
    sent: f64,
    lost: f64,
    seen: Option<Seen>,
}

struct Seen {
    sent: u64,
    lost: u64,
    at: Instant,
}

impl LossGauge {
    /// So many packets were sent in all, and so many of them lost.
    pub fn observe(&mut self, sent: u64, lost: u64, now: Instant) {
        let before = self.seen.replace(Seen { sent, lost, at: now });
        let Some(before) = before else { return };
        let elapsed = now.saturating_duration_since(before.at);
        let kept = 0.5f64.powf(elapsed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.sent = self.sent * kept + sent.saturating_sub(before.sent) as f64;
        self.lost = self.lost * kept + lost.saturating_sub(before.lost) as f64;
    }

    /// Copies of the same bytes that this loss demands: none where a path has just shown that it loses none. Of one that has
    /// shown too little, a packet counts as lost at least: the first key after a pause would pay for what is learnt from it.
    pub fn copies(&self) -> u32 {
        if self.lost < RECENT && self.sent >= KNOWN_CLEAN {
            return 0;
        }
        let rate = self.lost.max(1.0) / self.sent.max(LEAST_SAMPLE);
        let enough = (1..MOST_COPIES).find(|copies| rate.powi(copies + 1) <= LEFT_TO_REPAIR);
        enough.unwrap_or(MOST_COPIES).unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn at(bytes: u64) -> Offset {
        Offset::new(bytes).unwrap()
    }

    fn after(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Copies until `until`, each of `len` bytes, of what is sent at `now`.
    fn copied(mirror: &mut Mirror, len: usize, until: Instant) -> Vec<Instant> {
        let mut times = Vec::new();
        while let Some(due) = mirror.poll_timeout().filter(|due| *due <= until) {
            assert!(mirror.is_due(due));
            mirror.handle_copied(len, due);
            times.push(due);
        }
        times
    }

    #[test]
    fn copies_follow_what_is_new_some_milliseconds_apart_and_end() {
        let start = clock::now();
        let mut mirror = Mirror::new(start);
        assert_eq!(mirror.poll_timeout(), None);
        mirror.handle_sent(at(36), 2, true, start);
        mirror.handle_sent(at(36), 2, true, start + after(1));
        assert_eq!(
            copied(&mut mirror, 36, start + after(1000)),
            [start + APART, start + 2 * APART]
        );
        mirror.handle_sent(at(36), 2, true, start + after(20));
        assert_eq!(mirror.poll_timeout(), None, "nothing new was sent");
        mirror.handle_sent(at(72), 1, false, start + after(30));
        assert!(mirror.is_due(start + after(30)), "on a standing carrier at once");
        mirror.call_off();
        assert_eq!(mirror.poll_timeout(), None);
    }

    #[test]
    fn copies_take_20_kbit_a_second_at_most() {
        let start = clock::now();
        let mut mirror = Mirror::new(start);
        let mut bytes = 0;
        for tick in 0..1000 {
            let now = start + after(10 * tick);
            mirror.handle_sent(at(36 * (tick + 1)), 3, true, now);
            bytes += copied(&mut mirror, 300, now + after(9)).len() * (300 + HEADERS);
        }
        // Ten seconds, and what was saved up before.
        assert!((20_000..=28_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn loss_demands_copies_and_its_end_takes_them_back() {
        let start = clock::now();
        let copies = |per_mille: u64| {
            let mut gauge = LossGauge::default();
            for second in 0..60 {
                gauge.observe(100 * second, per_mille * second / 10, start + after(1000 * second));
            }
            (gauge.copies(), gauge)
        };
        assert_eq!([0, 5, 10, 50, 200].map(|loss| copies(loss).0), [0, 1, 1, 2, 3]);
        let (_, mut gauge) = copies(50);
        gauge.observe(6100, 295, start + after(300_000));
        assert_eq!(gauge.copies(), 0, "none for minutes");
    }

    #[test]
    fn a_path_of_which_too_little_is_known_has_copies() {
        let start = clock::now();
        let mut gauge = LossGauge::default();
        assert_eq!(gauge.copies(), 2, "the first key");
        let mut learn = |sent: u64, seconds: u64| {
            gauge.observe(sent, 0, start + after(1000 * seconds));
            gauge.copies()
        };
        let learnt = [(0, 0), (40, 1), (90, 2), (150, 3)].map(|(sent, seconds)| learn(sent, seconds));
        assert_eq!(learnt, [2, 2, 1, 0]);
        assert_eq!(learn(151, 63), 2, "a minute's pause, and it may be another path");
    }
}
