//! What happens to the one path of a week: the relay dies, the path is a hole, the client sleeps.

use crate::chance::Chance;
use std::time::Duration;

pub(crate) const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between client and server half.
pub(crate) const RTT: Duration = Duration::from_millis(80);
/// A carrier ends after so much silence.
const IDLE: Duration = Duration::from_secs(25);
/// A relay that is back lists the server half again within this.
const LISTED: usize = 15_000;
/// Nothing happens to a session at its end, so that everything can arrive.
pub(crate) const CALM: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `kill -9`; nobody is told.
    RelayDies,
    /// Packets are lost both ways, silently.
    Hole,
    /// The client's clock goes on, and nothing else of it.
    Sleep,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) kind: Kind,
    pub(crate) from: Duration,
    /// The path leads through again; with a relay, it has listed the server half too.
    pub(crate) until: Duration,
}

impl Outage {
    fn ends_carriers(&self) -> bool {
        self.kind == Kind::RelayDies || self.until - self.from > IDLE
    }

    fn covers(&self, at: Duration) -> bool {
        self.from <= at && at < self.until
    }
}

pub(crate) struct Weather(pub(crate) Vec<Outage>);

impl Weather {
    /// An outage each few hours: most are short, some last for hours, one for two days.
    pub(crate) fn of_a_week(chance: &mut Chance) -> Weather {
        let mut outages = Vec::new();
        let mut at = Duration::ZERO;
        let long = chance.below(20);
        loop {
            at += Duration::from_millis(30_000 + chance.below(6 * 3_600_000) as u64);
            let most = chance.one_of(&[500, 5_000, 60_000, 600_000, 3_600_000, 9 * 3_600_000]);
            let kind = chance.one_of(&[Kind::RelayDies, Kind::Hole, Kind::Sleep]);
            let listed = if kind == Kind::RelayDies {
                chance.below(LISTED)
            } else {
                0
            };
            let lasts = match outages.len() {
                n if n == long => 48 * 3_600_000,
                _ => 1 + chance.below(most),
            };
            let until = at + Duration::from_millis((lasts + listed) as u64);
            if until + CALM > WEEK {
                return Weather(outages);
            }
            outages.push(Outage { kind, from: at, until });
            at = until;
        }
    }

    pub(crate) fn at(&self, now: Duration) -> Option<&Outage> {
        self.0.iter().find(|outage| outage.covers(now))
    }

    /// Whether the path leads through from `from` for so long.
    pub(crate) fn is_open(&self, from: Duration, lasting: Duration) -> bool {
        !self
            .0
            .iter()
            .any(|outage| outage.from < from + lasting && from < outage.until)
    }

    /// When something sent now arrives on a carrier of that age; `None`: that carrier has ended.
    pub(crate) fn arrival(&self, born: Duration, sent: Duration, chance: &mut Chance) -> Option<Duration> {
        let mut arrives = sent + RTT / 2;
        for outage in self.0.iter().filter(|outage| outage.until > born) {
            if outage.from > arrives {
                break;
            }
            if outage.ends_carriers() {
                return None;
            }
            if outage.covers(sent) || outage.covers(arrives) {
                // QUIC sends it again, at intervals that double.
                let again = (outage.until - sent).as_millis() as usize;
                arrives = outage.until + Duration::from_millis(chance.below(again + 1) as u64) + RTT / 2;
            }
        }
        Some(arrives)
    }
}
