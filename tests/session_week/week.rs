//! The sessions of one week.

use crate::chance::Chance;
use crate::conditions::{Conditions, SETTLE_TIME, WEEK};
use crate::load::{HABITS, Load};
use crate::network::Network;
use crate::sim::SessionSim;
use crate::stats::Stats;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// Head starts of dead paths over the path through the relay (RFC 8305 section 5).
const HEAD_STARTS: Duration = Duration::from_millis(3 * 250);
/// Round trips between client and server half.
const RTTS: [u64; 4] = [20, 80, 160, 240];
/// The shortest NAT timeouts; others take up to two minutes.
const MIN_NAT_MS: u64 = 20_000;
const NAT_SPREAD_MS: usize = 100_000;
/// The timeout of some NATs (RFC 4787 asks for two minutes): sessions keep such mappings alive.
const COMMON_NAT: Duration = Duration::from_secs(30);

pub(crate) struct Week {
    seed: u64,
    chance: Chance,
    conditions: Conditions,
    rtt: Duration,
    nat: Duration,
}

impl Week {
    pub(crate) fn new(seed: u64) -> Week {
        let mut chance = Chance::new(seed);
        Week {
            seed,
            conditions: Conditions::random_week(&mut chance),
            rtt: Duration::from_millis(chance.one_of(&RTTS)),
            nat: Duration::from_millis(MIN_NAT_MS + chance.below(NAT_SPREAD_MS) as u64),
            chance,
        }
    }

    pub(crate) fn play(mut self) -> Stats {
        let net = Network::new(&self.conditions, self.rtt, self.nat, self.seed);
        let mut all = Stats::default();
        for (user, habits) in HABITS.iter().enumerate() {
            let opened = open(&net, Duration::from_secs(1));
            let opened = opened.expect("nothing has happened yet");
            let sim = SessionSim::new(&net, self.seed * 1000 + user as u64, opened, WEEK, Load::new(*habits));
            self.count(&mut all, sim.run());
        }
        for hour in 1..7 * 24 - 2 {
            let at = HOUR * hour + Duration::from_millis(self.chance.below(3_000_000) as u64);
            let Some(opened) = open(&net, at) else { continue };
            let lasts = HOUR / 2 + Duration::from_millis(self.chance.below(4 * 3_600_000) as u64);
            let end = end_in_calm(&net, opened + lasts);
            let habits = HABITS[self.chance.below(HABITS.len())];
            let seed = self.seed * 1000 + u64::from(hour);
            self.count(
                &mut all,
                SessionSim::new(&net, seed, opened, end, Load::new(habits)).run(),
            );
        }
        all
    }

    fn count(&self, all: &mut Stats, stats: Stats) {
        let most_forgotten = usize::from(self.nat < COMMON_NAT);
        assert!(
            stats.forgotten_well <= most_forgotten,
            "the NAT forgot {} leads of one session",
            stats.forgotten_well
        );
        all.add(&stats);
    }
}

/// When a session that is requested at `at` is open; checked if there is no outage. `None` if there is one.
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

/// The first time from `wish` on that follows a period without outages.
fn end_in_calm(net: &Network<'_>, wish: Duration) -> Duration {
    let mut end = wish.min(WEEK);
    while let Some(dark) = net
        .dark
        .from(end.saturating_sub(SETTLE_TIME))
        .filter(|dark| dark.from < end)
    {
        end = dark.until + SETTLE_TIME;
    }
    end.min(WEEK)
}
