//! The events of one week: outages of the client's machine, the relay, the server half, and the links between them.

use crate::chance::Chance;
use std::time::Duration;

pub(crate) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// No event happens in the last minutes, so that everything can be delivered.
pub(crate) const SETTLE_TIME: Duration = Duration::from_secs(300);

const SECOND: usize = 1000;
const MINUTE: usize = 60 * SECOND;
const HOUR: usize = 60 * MINUTE;

/// A time interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Interval {
    pub(crate) fn lasts(&self) -> Duration {
        self.until - self.from
    }
}

/// Intervals in order, disjoint and not adjacent.
#[derive(Debug, Default)]
pub(crate) struct Intervals(pub(crate) Vec<Interval>);

impl Intervals {
    /// Merges intervals that touch.
    pub(crate) fn new(mut intervals: Vec<Interval>) -> Intervals {
        intervals.sort_by_key(|interval| interval.from);
        let mut merged: Vec<Interval> = Vec::new();
        for interval in intervals.into_iter().filter(|interval| interval.from < interval.until) {
            match merged.last_mut() {
                Some(last) if interval.from <= last.until => last.until = last.until.max(interval.until),
                _ => merged.push(interval),
            }
        }
        Intervals(merged)
    }

    /// The interval that contains `at`, or else the next one.
    pub(crate) fn from(&self, at: Duration) -> Option<Interval> {
        let place = self.0.partition_point(|interval| interval.until <= at);
        self.0.get(place).copied()
    }

    pub(crate) fn at(&self, at: Duration) -> Option<Interval> {
        self.from(at).filter(|interval| interval.from <= at)
    }

    pub(crate) fn has(&self, at: Duration) -> bool {
        self.at(at).is_some()
    }

    /// Whether no interval overlaps `from` to `until`.
    pub(crate) fn spare(&self, from: Duration, until: Duration) -> bool {
        self.from(from).is_none_or(|interval| interval.from > until)
    }

    /// The start of the first interval that starts at or after `at`.
    pub(crate) fn next_beginning(&self, at: Duration) -> Option<Duration> {
        let place = self.0.partition_point(|interval| interval.from < at);
        self.0.get(place).map(|interval| interval.from)
    }

    /// The gaps between the intervals.
    pub(crate) fn inverse(&self) -> Intervals {
        let mut gaps = Vec::new();
        let mut from = Duration::ZERO;
        for interval in &self.0 {
            if from < interval.from {
                gaps.push(Interval {
                    from,
                    until: interval.from,
                });
            }
            from = interval.until;
        }
        gaps.push(Interval { from, until: 2 * WEEK });
        Intervals(gaps)
    }
}

/// All outages of a week.
#[derive(Debug)]
pub(crate) struct Conditions {
    /// The relay is dead: killed without notice.
    pub(crate) relay: Intervals,
    /// The link between client and relay drops packets, up and down.
    pub(crate) near: [Intervals; 2],
    /// The same for the link between relay and server half.
    pub(crate) far: [Intervals; 2],
    /// The client's machine is suspended: its timers do not fire.
    pub(crate) sleep: Intervals,
    /// The server half's worker is dead.
    pub(crate) worker: Intervals,
}

impl Conditions {
    pub(crate) fn random_week(chance: &mut Chance) -> Conditions {
        let sleep = intervals(
            chance,
            14 * HOUR,
            &[6 * SECOND, 40 * SECOND, 10 * MINUTE, HOUR, 9 * HOUR],
            6 * SECOND,
        );
        let mut near = holes(chance, 6 * HOUR);
        near.push(([true; 2], long(chance)));
        // The radio link takes a moment after wake-up.
        for woken in &sleep {
            let from = woken.until;
            let takes = if chance.percent(70) {
                chance.below(20 * SECOND)
            } else {
                0
            };
            near.push((
                [true; 2],
                Interval {
                    from,
                    until: from + millis(takes),
                },
            ));
        }
        let deaths = [2 * SECOND, 20 * SECOND, MINUTE, 10 * MINUTE, HOUR, 5 * HOUR];
        Conditions {
            relay: Intervals::new(intervals(chance, 14 * HOUR, &deaths, 200)),
            near: ways(&near),
            far: ways(&holes(chance, 20 * HOUR)),
            sleep: Intervals::new(sleep),
            worker: Intervals::new(intervals(chance, 24 * HOUR, &[100, 3 * SECOND], 50)),
        }
    }

    /// When the server half cannot be registered because of others.
    pub(crate) fn server_is_cut_off(&self) -> Intervals {
        union(&[&self.relay, &self.far[0], &self.far[1], &self.worker])
    }
}

pub(crate) fn union(all: &[&Intervals]) -> Intervals {
    Intervals::new(all.iter().flat_map(|intervals| intervals.0.iter().copied()).collect())
}

fn millis(count: usize) -> Duration {
    Duration::from_millis(count as u64)
}

/// Random intervals at most `apart` apart; each is at least `least` long and at most one of `most`.
fn intervals(chance: &mut Chance, apart: usize, most: &[usize], least: usize) -> Vec<Interval> {
    let mut intervals = Vec::new();
    let mut from = Duration::ZERO;
    loop {
        from += millis(20 * SECOND + chance.below(apart));
        let most = chance.one_of(most);
        let until = from + millis(least.max(1 + chance.below(most)));
        if until + SETTLE_TIME > WEEK {
            return intervals;
        }
        intervals.push(Interval { from, until });
        from = until;
    }
}

type Hole = ([bool; 2], Interval);

/// Outages of one direction or of both; most of them of both.
fn holes(chance: &mut Chance, apart: usize) -> Vec<Hole> {
    let most = [
        300,
        2 * SECOND,
        10 * SECOND,
        30 * SECOND,
        MINUTE,
        10 * MINUTE,
        HOUR,
        6 * HOUR,
    ];
    let intervals = intervals(chance, apart, &most, 1);
    let which = [[true, true], [true, true], [true, false], [false, true]];
    intervals
        .into_iter()
        .map(|interval| (chance.one_of(&which), interval))
        .collect()
}

/// A trip of two days.
fn long(chance: &mut Chance) -> Interval {
    let from = millis(chance.below(4 * 24 * HOUR));
    Interval {
        from,
        until: from + millis(48 * HOUR),
    }
}

fn ways(holes: &[Hole]) -> [Intervals; 2] {
    [0, 1].map(|way| {
        let of_it = holes.iter().filter(|(swallows, _)| swallows[way]);
        Intervals::new(of_it.map(|(_, interval)| *interval).collect())
    })
}
