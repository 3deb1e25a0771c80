//! What happens in a week to the client's machine, to the relay, to the server half, and to the ways between them.

use crate::chance::Chance;
use std::time::Duration;

pub(crate) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Nothing happens in the last minutes, so that everything can arrive.
pub(crate) const CALM: Duration = Duration::from_secs(300);

const SECOND: usize = 1000;
const MINUTE: usize = 60 * SECOND;
const HOUR: usize = 60 * MINUTE;

/// From when until when something is so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spell {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Spell {
    pub(crate) fn lasts(&self) -> Duration {
        self.until - self.from
    }
}

/// Spells in order, none of which touches another.
#[derive(Debug, Default)]
pub(crate) struct Spells(pub(crate) Vec<Spell>);

impl Spells {
    /// Those that touch become one.
    pub(crate) fn new(mut spells: Vec<Spell>) -> Spells {
        spells.sort_by_key(|spell| spell.from);
        let mut merged: Vec<Spell> = Vec::new();
        for spell in spells.into_iter().filter(|spell| spell.from < spell.until) {
            match merged.last_mut() {
                Some(last) if spell.from <= last.until => last.until = last.until.max(spell.until),
                _ => merged.push(spell),
            }
        }
        Spells(merged)
    }

    /// The one that `at` lies in, or else the next.
    pub(crate) fn from(&self, at: Duration) -> Option<Spell> {
        let place = self.0.partition_point(|spell| spell.until <= at);
        self.0.get(place).copied()
    }

    pub(crate) fn at(&self, at: Duration) -> Option<Spell> {
        self.from(at).filter(|spell| spell.from <= at)
    }

    pub(crate) fn has(&self, at: Duration) -> bool {
        self.at(at).is_some()
    }

    /// Whether nothing of it falls between `from` and `until`.
    pub(crate) fn spare(&self, from: Duration, until: Duration) -> bool {
        self.from(from).is_none_or(|spell| spell.from > until)
    }

    /// The first moment from `at` on at which a spell begins; none in a spell.
    pub(crate) fn next_beginning(&self, at: Duration) -> Option<Duration> {
        let place = self.0.partition_point(|spell| spell.from < at);
        self.0.get(place).map(|spell| spell.from)
    }

    /// What lies between them.
    pub(crate) fn inverse(&self) -> Spells {
        let mut gaps = Vec::new();
        let mut from = Duration::ZERO;
        for spell in &self.0 {
            if from < spell.from {
                gaps.push(Spell {
                    from,
                    until: spell.from,
                });
            }
            from = spell.until;
        }
        gaps.push(Spell { from, until: 2 * WEEK });
        Spells(gaps)
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Weather {
    /// The relay is dead: killed, and nobody is told.
    pub(crate) relay: Spells,
    /// The way between client and relay swallows what goes up, or down.
    pub(crate) near: [Spells; 2],
    /// The same between relay and server half.
    pub(crate) far: [Spells; 2],
    /// The client's machine sleeps: no timer of it goes on.
    pub(crate) sleep: Spells,
    /// The server half's worker is dead.
    pub(crate) worker: Spells,
}

impl Weather {
    pub(crate) fn of_a_week(chance: &mut Chance) -> Weather {
        let sleep = spells(
            chance,
            14 * HOUR,
            &[6 * SECOND, 40 * SECOND, 10 * MINUTE, HOUR, 9 * HOUR],
            6 * SECOND,
        );
        let mut near = holes(chance, 6 * HOUR);
        near.push(([true; 2], long(chance)));
        // The radio is not there at once.
        for woken in &sleep {
            let from = woken.until;
            let takes = if chance.percent(70) {
                chance.below(20 * SECOND)
            } else {
                0
            };
            near.push((
                [true; 2],
                Spell {
                    from,
                    until: from + millis(takes),
                },
            ));
        }
        let deaths = [2 * SECOND, 20 * SECOND, MINUTE, 10 * MINUTE, HOUR, 5 * HOUR];
        Weather {
            relay: Spells::new(spells(chance, 14 * HOUR, &deaths, 200)),
            near: ways(&near),
            far: ways(&holes(chance, 20 * HOUR)),
            sleep: Spells::new(sleep),
            worker: Spells::new(spells(chance, 24 * HOUR, &[100, 3 * SECOND], 50)),
        }
    }

    /// Whether the server half can be listed, as far as it depends on others.
    pub(crate) fn server_is_cut_off(&self) -> Spells {
        union(&[&self.relay, &self.far[0], &self.far[1], &self.worker])
    }
}

pub(crate) fn union(all: &[&Spells]) -> Spells {
    Spells::new(all.iter().flat_map(|spells| spells.0.iter().copied()).collect())
}

fn millis(count: usize) -> Duration {
    Duration::from_millis(count as u64)
}

/// Spells at most `apart` apart, each up to one of `most` long, `least` at least.
fn spells(chance: &mut Chance, apart: usize, most: &[usize], least: usize) -> Vec<Spell> {
    let mut spells = Vec::new();
    let mut from = Duration::ZERO;
    loop {
        from += millis(20 * SECOND + chance.below(apart));
        let most = chance.one_of(most);
        let until = from + millis(least.max(1 + chance.below(most)));
        if until + CALM > WEEK {
            return spells;
        }
        spells.push(Spell { from, until });
        from = until;
    }
}

type Hole = ([bool; 2], Spell);

/// Some swallow what goes up, some what goes down, most of them both.
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
    let spells = spells(chance, apart, &most, 1);
    let which = [[true, true], [true, true], [true, false], [false, true]];
    spells.into_iter().map(|spell| (chance.one_of(&which), spell)).collect()
}

/// Two days abroad.
fn long(chance: &mut Chance) -> Spell {
    let from = millis(chance.below(4 * 24 * HOUR));
    Spell {
        from,
        until: from + millis(48 * HOUR),
    }
}

fn ways(holes: &[Hole]) -> [Spells; 2] {
    [0, 1].map(|way| {
        let of_it = holes.iter().filter(|(swallows, _)| swallows[way]);
        Spells::new(of_it.map(|(_, spell)| *spell).collect())
    })
}
