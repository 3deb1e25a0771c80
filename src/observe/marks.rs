//! Up to where in the stream to the server typed keys reach, and which of them have arrived.
//!
//! Pure: no I/O, and time is an argument. `bowline ssh` gives each key that it has written to ssh a number, a mark. Where in
//! the encrypted stream a key is, only ssh knows; but it is in what ssh has written one interval later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pump::Progress;

/// ssh may delay a key up to its next interval, of 20 ms with a fuzz of a tenth (`ObscureKeystrokeTiming`). In between it
/// writes chaff.
const INTERVAL: Duration = Duration::from_millis(25);

/// A stream that is not quiet for so long is not waited for any longer.
const MAX_WAIT: Duration = Duration::from_millis(100);

/// Marks so close to each other are one, the later.
const MERGED_WITHIN: Duration = Duration::from_millis(5);

/// Most marks whose acknowledgement is waited for. Beyond, the last two are one.
const MAX_POSITIONED: usize = 256;

/// Marks of one session.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Marks without a position, in their order.
    waiting: VecDeque<Waiting>,
    /// Marks with one.
    positioned: VecDeque<Positioned>,
    /// Bytes that ssh had written, and since when there were no more.
    taken: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Waiting {
    mark: u64,
    /// When the first of the marks came that are one now.
    first_at: Instant,
    at: Instant,
}

#[derive(Debug)]
struct Positioned {
    mark: u64,
    /// Everything before this position has to be acknowledged.
    position: u64,
    /// What had been received when it was; it has to be delivered.
    received: Option<u64>,
}

impl Marks {
    /// A key was written to ssh. Marks grow.
    pub(super) fn handle_mark(&mut self, mark: u64, now: Instant) {
        match self.waiting.back_mut() {
            Some(last) if now.saturating_duration_since(last.first_at) < MERGED_WITHIN => {
                (last.mark, last.at) = (mark, now);
            }
            _ => self.waiting.push_back(Waiting {
                mark,
                first_at: now,
                at: now,
            }),
        }
    }

    /// Takes the positions of the streams, and the present.
    pub(super) fn handle_progress(&mut self, progress: Progress, now: Instant) {
        let is_read = self.taken.is_none_or(|(taken, _)| taken != progress.taken);
        if is_read {
            self.taken = Some((progress.taken, now));
        }
        while let Some(first) = self.waiting.front()
            && (self.positioned_at(first) <= now || is_read && first.at + INTERVAL <= now)
        {
            let mark = first.mark;
            self.waiting.pop_front();
            if self.positioned.len() == MAX_POSITIONED {
                self.positioned.pop_back();
            }
            self.positioned.push_back(Positioned {
                mark,
                position: progress.taken,
                received: None,
            });
        }
        for positioned in &mut self.positioned {
            if positioned.position <= progress.acknowledged {
                positioned.received.get_or_insert(progress.received);
            }
        }
    }

    /// The latest mark whose key was written to sshd, if what the server had sent until then was delivered. Each is returned
    /// once.
    pub(super) fn poll_arrived(&mut self, progress: Progress) -> Option<u64> {
        let mut arrived = None;
        while let Some(first) = self.positioned.front()
            && first.received.is_some_and(|received| received <= progress.delivered)
        {
            arrived = Some(first.mark);
            self.positioned.pop_front();
        }
        arrived
    }

    /// Whether [`Self::handle_progress`] is to be called when something has changed.
    pub(super) fn is_pending(&self) -> bool {
        !self.waiting.is_empty() || !self.positioned.is_empty()
    }

    /// When [`Self::handle_progress`] is due, if nothing changes before.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.front().map(|first| self.positioned_at(first))
    }

    /// When a mark gets its position, if nothing is read before.
    fn positioned_at(&self, waiting: &Waiting) -> Instant {
        let quiet_since = self.taken.map_or(waiting.at, |(_, at)| at.max(waiting.at));
        (quiet_since + INTERVAL).min(waiting.at + MAX_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Marks, the positions of the streams, and the present.
    struct Sim {
        marks: Marks,
        progress: Progress,
        now: Instant,
    }

    impl Sim {
        fn new() -> Sim {
            Sim {
                marks: Marks::default(),
                progress: Progress::default(),
                now: crate::clock::now(),
            }
        }

        fn after(&mut self, milliseconds: u64) -> &mut Sim {
            self.now += Duration::from_millis(milliseconds);
            self
        }

        fn mark(&mut self, mark: u64) {
            self.marks.handle_mark(mark, self.now);
        }

        /// What arrives after a change of the positions.
        fn change(&mut self, change: impl FnOnce(&mut Progress)) -> Option<u64> {
            change(&mut self.progress);
            self.marks.handle_progress(self.progress, self.now);
            self.marks.poll_arrived(self.progress)
        }
    }

    #[test]
    fn a_key_has_arrived_when_all_is_acknowledged_that_ssh_wrote_within_an_interval() {
        let mut sim = Sim::new();
        sim.mark(1);
        assert_eq!(sim.after(18).change(|progress| progress.taken = 36), None);
        assert_eq!(sim.after(5).change(|progress| progress.acknowledged = 36), None);
        let due = sim.marks.poll_timeout().expect("a timeout");
        assert_eq!(due, sim.now + Duration::from_millis(20), "quiet for an interval");
        sim.now = due;
        assert_eq!(sim.change(|_| {}), Some(1));
        assert!(!sim.marks.is_pending(), "an idle session wakes nobody");
    }

    #[test]
    fn chaff_gives_the_position_after_one_interval() {
        let mut sim = Sim::new();
        sim.mark(1);
        for count in 1..=3 {
            assert_eq!(sim.after(10).change(|progress| progress.taken = 36 * count), None);
        }
        assert_eq!(sim.marks.poll_timeout(), None, "it has its position");
        sim.after(10).change(|progress| progress.taken = 36 * 4);
        assert_eq!(sim.change(|progress| progress.acknowledged = 36 * 3 - 1), None);
        assert_eq!(sim.change(|progress| progress.acknowledged = 36 * 3), Some(1));
    }

    #[test]
    fn a_key_that_ssh_takes_for_itself_arrives_too() {
        let mut sim = Sim::new();
        sim.change(|progress| (progress.taken, progress.acknowledged) = (100, 100));
        sim.after(1000).mark(1);
        assert_eq!(sim.after(24).change(|_| {}), None);
        assert_eq!(sim.after(1).change(|_| {}), Some(1));
    }

    #[test]
    fn output_that_came_before_the_acknowledgement_is_delivered_first() {
        let mut sim = Sim::new();
        sim.mark(1);
        sim.after(30).change(|progress| progress.taken = 36);
        let came = |progress: &mut Progress| (progress.acknowledged, progress.received) = (36, 5000);
        assert_eq!(sim.change(came), None);
        let later = |progress: &mut Progress| (progress.received, progress.delivered) = (9000, 4999);
        assert_eq!(sim.change(later), None);
        assert_eq!(sim.change(|progress| progress.delivered = 5000), Some(1));
    }

    #[test]
    fn keys_of_an_outage_are_held_in_bounded_memory_and_all_arrive() {
        let mut sim = Sim::new();
        for mark in 1..=5000 {
            sim.mark(mark);
            let arrived = sim.after(7).change(|progress| progress.taken += 36);
            assert_eq!(arrived, None);
        }
        assert!(sim.marks.waiting.len() + sim.marks.positioned.len() < 300);
        sim.after(100).change(|_| {});
        let all = sim.progress.taken;
        assert_eq!(sim.change(|progress| progress.acknowledged = all), Some(5000));
    }

    #[test]
    fn marks_close_to_each_other_are_one() {
        let mut sim = Sim::new();
        for mark in 1..=100 {
            sim.after(1).mark(mark);
        }
        assert!(sim.marks.waiting.len() <= 20, "{}", sim.marks.waiting.len());
    }
}
