//! Statistics of a session, and limits on its traffic.

use crate::conditions::{Conditions, Intervals};
use crate::network::Network;
use crate::race::Race;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// After this long without a byte, probes have their longest interval (`session/liveness.rs`).
const QUIET: Duration = Duration::from_secs(300);
/// Probes per hour then, and after a probe has found a silence.
const RARE: u64 = 120;
const LESS_RARE: u64 = 240;

/// The cause of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Relay,
    Hole,
    FarHole,
    Sleep,
    Restart,
    Nat,
}

impl Cause {
    /// The cause that ended now. The return of a relay, and a restart, end with the registration.
    pub(crate) fn of_end(conditions: &Conditions, now: Duration) -> Cause {
        let ends = |intervals: &Intervals| {
            intervals
                .0
                .binary_search_by_key(&now, |interval| interval.until)
                .is_ok()
        };
        let recent = |intervals: &Intervals| !intervals.spare(now.saturating_sub(QUIET / 4), now);
        if ends(&conditions.sleep) {
            Cause::Sleep
        } else if conditions.near.iter().any(ends) {
            Cause::Hole
        } else if recent(&conditions.worker) {
            Cause::Restart
        } else if recent(&conditions.relay) {
            Cause::Relay
        } else {
            Cause::FarHole
        }
    }
}

#[derive(Default, Debug)]
pub(crate) struct Stats {
    /// Longest time from the end of an outage to a lead that delivers, by [`Cause`].
    pub(crate) longest: [Duration; 6],
    pub(crate) sessions: u64,
    pub(crate) outages: u64,
    pub(crate) returns: u64,
    pub(crate) carriers: u64,
    pub(crate) restarts: u64,
    pub(crate) attempts: u64,
    pub(crate) packets: u64,
    pub(crate) probes: u64,
    pub(crate) bytes: u64,
    pub(crate) longest_alone: Duration,
    pub(crate) quiet_hours: u64,
    /// In any quiet hour.
    pub(crate) most_quiet_packets: u64,
    /// Leads whose NAT mapping was dropped, and how many of them while nothing else was wrong.
    forgotten: Vec<usize>,
    pub(crate) forgotten_well: usize,
    found_quiet_silence: bool,
    hour: Duration,
    before_hour: (u64, u64),
}

impl Stats {
    /// Marks the hour as not quiet.
    pub(crate) fn disturb(&mut self, now: Duration) {
        self.hour = now + QUIET * 2;
    }

    pub(crate) fn handle_probe(&mut self, now: Duration, net: &Network<'_>) {
        self.probes += 1;
        if !net.is_open(self.hour, now.max(self.hour)) {
            self.disturb(now);
        }
        if now < self.hour || self.hour.is_zero() {
            self.before_hour = (self.probes, self.packets);
        } else if now >= self.hour + HOUR {
            let probes = self.probes - self.before_hour.0;
            let packets = self.packets - self.before_hour.1;
            let expected = if self.found_quiet_silence { LESS_RARE } else { RARE };
            assert!(
                probes.abs_diff(expected) <= 2,
                "{probes} probes in a quiet hour, expected {expected}"
            );
            self.most_quiet_packets = self.most_quiet_packets.max(packets);
            self.quiet_hours += 1;
            self.hour = now;
            self.before_hour = (self.probes, self.packets);
        }
    }

    /// After a suspicion in a quiet session, which may mean that a NAT forgets, its keepalives are no longer the rarest.
    pub(crate) fn handle_keepalive_interval(&mut self, longest: Option<Duration>) {
        self.found_quiet_silence |= longest.is_some_and(|longest| longest < Duration::from_secs(30));
    }

    pub(crate) fn handle_race(&mut self, race: &Race, now: Duration) {
        let allowed = race.allowed(now);
        assert!(
            race.attempts <= allowed,
            "{} attempts, at most {allowed}",
            race.attempts
        );
        self.attempts += race.attempts;
        self.disturb(now);
    }

    pub(crate) fn handle_return(&mut self, cause: Cause, after: Duration) {
        self.returns += 1;
        let longest = &mut self.longest[cause as usize];
        *longest = after.max(*longest);
    }

    pub(crate) fn is_forgotten(&self, id: usize) -> bool {
        self.forgotten.contains(&id)
    }

    pub(crate) fn handle_forgotten(&mut self, id: usize, was_well: bool) {
        self.forgotten.push(id);
        self.forgotten_well += usize::from(was_well);
    }

    /// Adds one session.
    pub(crate) fn add(&mut self, sim: &Stats) {
        self.sessions += 1;
        self.merge(sim);
    }

    /// Adds counts and keeps maxima.
    pub(crate) fn merge(&mut self, other: &Stats) {
        for (mine, theirs) in self.longest.iter_mut().zip(other.longest) {
            *mine = theirs.max(*mine);
        }
        self.sessions += other.sessions;
        self.outages += other.outages;
        self.returns += other.returns;
        self.carriers += other.carriers;
        self.restarts += other.restarts;
        self.attempts += other.attempts;
        self.packets += other.packets;
        self.probes += other.probes;
        self.bytes += other.bytes;
        self.longest_alone = self.longest_alone.max(other.longest_alone);
        self.quiet_hours += other.quiet_hours;
        self.most_quiet_packets = self.most_quiet_packets.max(other.most_quiet_packets);
    }
}
