//! The sessions of one week.

use crate::chance::Chance;
use crate::life::Life;
use crate::load::{HABITS, Load};
use crate::network::Network;
use crate::seen::Seen;
use crate::weather::{CALM, WEEK, Weather};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// Head starts of paths that lead nowhere over the one by way of the relay (RFC 8305 section 5).
const HEAD_STARTS: Duration = Duration::from_millis(3 * 250);
/// Round trips between client and server half.
const RTTS: [u64; 4] = [20, 80, 160, 240];
/// The most impatient NATs forget a carrier after so many seconds; others take up to two minutes.
const LEAST_NAT: u64 = 20_000;
const MOST_NAT: usize = 100_000;
/// What some NATs give a mapping (RFC 4787 asks for two minutes): sessions keep them.
const COMMON_NAT: Duration = Duration::from_secs(30);

pub(crate) struct Week {
    seed: u64,
    chance: Chance,
    weather: Weather,
    rtt: Duration,
    nat: Duration,
}

impl Week {
    pub(crate) fn new(seed: u64) -> Week {
        let mut chance = Chance::new(seed);
        Week {
            seed,
            weather: Weather::of_a_week(&mut chance),
            rtt: Duration::from_millis(chance.one_of(&RTTS)),
            nat: Duration::from_millis(LEAST_NAT + chance.below(MOST_NAT) as u64),
            chance,
        }
    }

    pub(crate) fn play(mut self) -> Seen {
        let net = Network::new(&self.weather, self.rtt, self.nat, self.seed);
        let mut all = Seen::default();
        for (user, habits) in HABITS.iter().enumerate() {
            let opened = open(&net, Duration::from_secs(1));
            let opened = opened.expect("nothing has happened yet");
            let life = Life::new(&net, self.seed * 1000 + user as u64, opened, WEEK, Load::new(*habits));
            self.count(&mut all, life.live());
        }
        for hour in 1..7 * 24 - 2 {
            let at = HOUR * hour + Duration::from_millis(self.chance.below(3_000_000) as u64);
            let Some(opened) = open(&net, at) else { continue };
            let lasts = HOUR / 2 + Duration::from_millis(self.chance.below(4 * 3_600_000) as u64);
            let end = end_in_calm(&net, opened + lasts);
            let habits = HABITS[self.chance.below(HABITS.len())];
            let seed = self.seed * 1000 + u64::from(hour);
            self.count(&mut all, Life::new(&net, seed, opened, end, Load::new(habits)).live());
        }
        all
    }

    fn count(&self, all: &mut Seen, seen: Seen) {
        let most_forgotten = usize::from(self.nat < COMMON_NAT);
        assert!(
            seen.forgotten_well <= most_forgotten,
            "the NAT forgot {} leads of one session",
            seen.forgotten_well
        );
        all.add(&seen);
    }
}

/// When a session that is asked for at `at` is open; it has to be where all is well. `None`: it is not the time for one.
fn open(net: &Network<'_>, at: Duration) -> Option<Duration> {
    let tried = at + HEAD_STARTS;
    let by = tried + net.dial_time() + 2 * net.rtt();
    let is_open = net.is_open(at, by);
    let opened = net.dial(tried).map(|met| met + 2 * net.rtt());
    assert!(
        !is_open || opened.is_some_and(|opened| opened <= by),
        "not opened at {at:?}"
    );
    opened.filter(|_| is_open)
}

/// The first moment from `wish` on that calm comes before.
fn end_in_calm(net: &Network<'_>, wish: Duration) -> Duration {
    let mut end = wish.min(WEEK);
    while let Some(dark) = net.dark.from(end.saturating_sub(CALM)).filter(|dark| dark.from < end) {
        end = dark.until + CALM;
    }
    end.min(WEEK)
}
