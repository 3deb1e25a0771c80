//! Sends redundant copies of interactive bytes as datagrams, beside the lead's ordered stream, and decides when and how often.
//!
//! A copy contains everything that the peer has not acknowledged, so one copy fills any gap. If that does not fit into one
//! packet, nothing is copied. [`Session::copy`] writes the copy.

use super::path::PathTransport;
use super::paths::Paths;
use crate::session::Session;
use crate::wire::Offset;
use bytes::BytesMut;
use std::time::{Duration, Instant};

/// Most bytes in a copy. With all headers it fits into QUIC's smallest packet (1200 bytes).
pub const MAX_COPY: usize = 1100;

/// Delay between copies, and before the first: packets sent together are lost together.
const COPY_INTERVAL: Duration = Duration::from_millis(4);
/// Most bytes of copies per second, with headers: 20 kbit/s.
const MAX_RATE: u32 = 2500;
/// QUIC, UDP and IP around the frame of a copy.
const HEADERS: usize = 50;
/// How much unused rate can accumulate.
const MAX_CREDIT: Duration = Duration::from_secs(1);

/// The copies of one connection.
pub(super) struct Redundancy {
    /// On the lead, against loss.
    on_lead: CopySchedule,
    /// On standby carriers, in case the lead is dead.
    on_standbys: CopySchedule,
}

impl Redundancy {
    pub(super) fn new(now: Instant) -> Redundancy {
        Redundancy {
            on_lead: CopySchedule::new(now),
            on_standbys: CopySchedule::new(now),
        }
    }

    /// Something was sent on the lead.
    pub(super) fn handle_sent<T: PathTransport>(&mut self, session: &Session, paths: &mut Paths<T>, now: Instant) {
        let sent = session.lead_position();
        let interactive = session.is_copyable(MAX_COPY);
        let (on_lead, on_standbys) = match interactive {
            true => (paths.lead_copies(now), paths.has_any_standby().into()),
            false => (0, 0),
        };
        self.on_lead.handle_sent(sent, on_lead, true, now);
        self.on_standbys.handle_sent(sent, on_standbys, false, now);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = [self.on_lead.poll_timeout(), self.on_standbys.poll_timeout()];
        due.into_iter().flatten().min()
    }

    /// Sends the copies that are due.
    pub(super) fn handle_timeout<T: PathTransport>(&mut self, session: &Session, paths: &mut Paths<T>, now: Instant) {
        let (on_lead, on_standbys) = (self.on_lead.is_due(now), self.on_standbys.is_due(now));
        if !on_lead && !on_standbys {
            return;
        }
        let mut copy = BytesMut::new();
        if !session.copy(MAX_COPY, &mut copy) {
            self.on_lead.cancel();
            self.on_standbys.cancel();
            return;
        }
        let copy = copy.freeze();
        if on_lead {
            if let Some(lead) = paths.lead_mut() {
                lead.send_copy(copy.clone());
            }
            self.on_lead.handle_copied(copy.len(), now);
        }
        if on_standbys {
            paths.copy_to_standbys(&copy);
            self.on_standbys.handle_copied(copy.len(), now);
        }
    }
}

/// Schedules the copies on the lead, or those on standby carriers.
struct CopySchedule {
    /// Everything before has its copies planned.
    planned: Offset,
    left: u32,
    due: Instant,
    /// The rate is used until then; up to [`MAX_CREDIT`] in the past.
    paid_until: Instant,
}

impl CopySchedule {
    /// No copy is planned.
    fn new(now: Instant) -> CopySchedule {
        CopySchedule {
            planned: Offset::ZERO,
            left: 0,
            due: now,
            paid_until: now.checked_sub(MAX_CREDIT).unwrap_or(now),
        }
    }

    /// Everything before `sent` was sent on the lead. New bytes get `copies` copies, the first at once or one interval
    /// `later`.
    fn handle_sent(&mut self, sent: Offset, copies: u32, later: bool, now: Instant) {
        if sent > self.planned {
            self.planned = sent;
            self.left = copies;
            self.due = if later { now + COPY_INTERVAL } else { now };
        }
    }

    /// Whether a copy is due now.
    fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|due| due <= now)
    }

    /// A copy of `len` bytes was sent.
    fn handle_copied(&mut self, len: usize, now: Instant) {
        self.left = self.left.saturating_sub(1);
        self.due = now + COPY_INTERVAL;
        let cost = Duration::from_secs(1) * u32::try_from(len + HEADERS).unwrap_or(u32::MAX) / MAX_RATE;
        let saved_from = now.checked_sub(MAX_CREDIT).unwrap_or(now);
        self.paid_until = self.paid_until.max(saved_from) + cost;
    }

    /// There is nothing to copy, or too much.
    fn cancel(&mut self) {
        self.left = 0;
    }

    /// When the next copy is due; `None` while none is planned.
    fn poll_timeout(&self) -> Option<Instant> {
        (self.left > 0).then(|| self.due.max(self.paid_until))
    }
}

/// Half-life of the weight of packets and losses.
const HALF_LIFE: Duration = Duration::from_secs(20);
/// Below this weight losses are ignored: one loss counts for two half-lives.
const RECENT: f64 = 0.25;
/// Fewest packets that a loss rate is computed from.
const MIN_SAMPLE: f64 = 30.0;
/// After this many recent packets without loss a path counts as loss-free.
const CLEAN_SAMPLE: f64 = 100.0;
/// Largest accepted probability that a byte must be resent by QUIC.
const MAX_UNREPAIRED: f64 = 2e-4;
/// Most copies of the same bytes on the lead.
const MAX_COPIES: i32 = 3;

/// Estimates the recent loss rate of a carrier.
#[derive(Default)]
pub(super) struct LossEstimator {
    sent: f64,
    lost: f64,
    seen: Option<Seen>,
}

struct Seen {
    sent: u64,
    lost: u64,
    at: Instant,
}

impl LossEstimator {
    /// Updates the totals of packets sent and lost.
    pub(super) fn observe(&mut self, sent: u64, lost: u64, now: Instant) {
        let before = self.seen.replace(Seen { sent, lost, at: now });
        let Some(before) = before else { return };
        let elapsed = now.saturating_duration_since(before.at);
        let kept = 0.5f64.powf(elapsed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.sent = self.sent * kept + sent.saturating_sub(before.sent) as f64;
        self.lost = self.lost * kept + lost.saturating_sub(before.lost) as f64;
    }

    /// How many copies of the same bytes this loss rate requires; none on a loss-free path. With too few packets, one is
    /// assumed lost: otherwise the first key after a pause would suffer for the measurement.
    pub(super) fn copies(&self) -> u32 {
        if self.lost < RECENT && self.sent >= CLEAN_SAMPLE {
            return 0;
        }
        let rate = self.lost.max(1.0) / self.sent.max(MIN_SAMPLE);
        let enough = (1..MAX_COPIES).find(|copies| rate.powi(copies + 1) <= MAX_UNREPAIRED);
        enough.unwrap_or(MAX_COPIES).unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_tools as clock;

    fn at(bytes: u64) -> Offset {
        Offset::new(bytes).unwrap()
    }

    fn after(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Copies until `until`, each of `len` bytes, of what is sent at `now`.
    fn copied(redundancy: &mut CopySchedule, len: usize, until: Instant) -> Vec<Instant> {
        let mut times = Vec::new();
        while let Some(due) = redundancy.poll_timeout().filter(|due| *due <= until) {
            assert!(redundancy.is_due(due));
            redundancy.handle_copied(len, due);
            times.push(due);
        }
        times
    }

    #[test]
    fn copies_follow_what_is_new_some_milliseconds_apart_and_end() {
        let start = clock::now();
        let mut redundancy = CopySchedule::new(start);
        assert_eq!(redundancy.poll_timeout(), None);
        redundancy.handle_sent(at(36), 2, true, start);
        redundancy.handle_sent(at(36), 2, true, start + after(1));
        assert_eq!(
            copied(&mut redundancy, 36, start + after(1000)),
            [start + COPY_INTERVAL, start + 2 * COPY_INTERVAL]
        );
        redundancy.handle_sent(at(36), 2, true, start + after(20));
        assert_eq!(redundancy.poll_timeout(), None, "nothing new was sent");
        redundancy.handle_sent(at(72), 1, false, start + after(30));
        assert!(redundancy.is_due(start + after(30)), "on a standing carrier at once");
        redundancy.cancel();
        assert_eq!(redundancy.poll_timeout(), None);
    }

    #[test]
    fn copies_take_20_kbit_a_second_at_most() {
        let start = clock::now();
        let mut redundancy = CopySchedule::new(start);
        let mut bytes = 0;
        for tick in 0..1000 {
            let now = start + after(10 * tick);
            redundancy.handle_sent(at(36 * (tick + 1)), 3, true, now);
            bytes += copied(&mut redundancy, 300, now + after(9)).len() * (300 + HEADERS);
        }
        // Ten seconds, and what was saved up before.
        assert!((20_000..=28_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn loss_demands_copies_and_its_end_takes_them_back() {
        let start = clock::now();
        let copies = |per_mille: u64| {
            let mut gauge = LossEstimator::default();
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
        let mut gauge = LossEstimator::default();
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
