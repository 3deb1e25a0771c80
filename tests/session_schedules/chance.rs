//! Reproducible chance, and the bytes that travel.

#![allow(unreachable_pub, reason = "a module of test crates has no outside")]

use std::sync::OnceLock;

/// Most bytes that one pipe gives.
pub(crate) const MOST_BYTES: usize = 300_000;

/// What a fuzzer chose, as far as that goes, and then SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Chance {
    state: u64,
    chosen: std::vec::IntoIter<u8>,
}

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        Chance {
            state: seed,
            chosen: Vec::new().into_iter(),
        }
    }

    /// Each number is made of as many bytes as it needs.
    #[allow(dead_code, reason = "used by session_schedules and fuzz/, not by session_week")]
    pub(crate) fn chosen(bytes: &[u8]) -> Chance {
        Chance {
            chosen: Vec::from(bytes).into_iter(),
            ..Chance::new(0)
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// From 0 to below `limit`; 0 for 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        if limit == 0 {
            return 0;
        }
        let needed = if limit <= 1 << 8 { 1 } else { 3 };
        let number = if self.chosen.len() < needed {
            self.next()
        } else {
            self.chosen
                .by_ref()
                .take(needed)
                .fold(0, |number, byte| number << 8 | u64::from(byte))
        };
        (number % limit as u64) as usize
    }

    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// An amount from 0 to `most`: all, some, or very little.
    pub(crate) fn amount(&mut self, most: usize) -> usize {
        match self.below(4) {
            0 => most,
            1 => self.below(most.min(12) + 1),
            _ => self.below(most + 1),
        }
    }
}

/// What the pipe of half `half` gives, from its beginning.
pub(crate) fn bytes_of(half: usize) -> &'static [u8] {
    static BYTES: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
    &BYTES.get_or_init(|| [0, 1].map(|half| noise(half as u64 + 1)))[half]
}

fn noise(seed: u64) -> Vec<u8> {
    let mut chance = Chance::new(seed);
    (0..MOST_BYTES).map(|_| chance.next() as u8).collect()
}
