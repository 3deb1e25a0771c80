//! The only path between client and server half, through the relay.

use crate::conditions::{Conditions, Intervals, union};
use crate::registration::registrations;
use std::time::Duration;

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

/// A transport ends after this long without packets from its peer (`IDLE_TIMEOUT` of the QUIC settings).
pub(crate) const IDLE: Duration = Duration::from_secs(45);
/// QUIC retransmits its first packet after three times the assumed RTT (RFC 9002 section 6.2.2), then with doubling
/// intervals.
pub(crate) const FIRST_REPEAT: Duration = Duration::from_millis(450);
/// Limit of one dial.
const DIAL: Duration = Duration::from_secs(15);

pub(crate) struct Network<'a> {
    pub(crate) conditions: &'a Conditions,
    /// The intervals in which the server half is registered.
    listed: Intervals,
    /// The intervals in which no byte can pass end to end, or the server half is not registered.
    pub(crate) dark: Intervals,
    /// One-way delay between client and relay, and between relay and server half.
    pub(crate) leg: Duration,
    /// How long the client's NAT keeps the mapping of a carrier on which the client is silent. Afterwards it drops
    /// its packets silently.
    pub(crate) nat: Duration,
}

impl<'a> Network<'a> {
    pub(crate) fn new(conditions: &'a Conditions, rtt: Duration, nat: Duration, seed: u64) -> Network<'a> {
        let leg = rtt / 4;
        let listed = registrations(conditions, leg, seed);
        let [up, down] = &conditions.near;
        let dark = union(&[
            &conditions.server_is_cut_off(),
            up,
            down,
            &conditions.sleep,
            &listed.inverse(),
        ]);
        Network {
            conditions,
            listed,
            dark,
            leg,
            nat,
        }
    }

    pub(crate) fn rtt(&self) -> Duration {
        4 * self.leg
    }

    /// Duration of a dial without losses: QUIC to the relay, the relay's answer, and TLS with the server half.
    pub(crate) fn dial_time(&self) -> Duration {
        2 * self.rtt()
    }

    /// When a packet from that end arrives at the other.
    pub(crate) fn travel(&self, from: usize, at: Duration) -> Option<Duration> {
        match from {
            CLIENT => self.to_server(self.to_relay(at)?),
            _ => self.to_client(self.down_to_relay(at)?),
        }
    }

    pub(crate) fn to_relay(&self, at: Duration) -> Option<Duration> {
        let arrives = at + self.leg;
        let swallowed =
            self.conditions.near[0].has(at) || self.conditions.sleep.has(at) || self.conditions.relay.has(arrives);
        (!swallowed).then_some(arrives)
    }

    pub(crate) fn to_client(&self, at: Duration) -> Option<Duration> {
        let arrives = at + self.leg;
        let swallowed = self.conditions.near[1].has(at) || self.conditions.sleep.has(arrives);
        (!swallowed).then_some(arrives)
    }

    fn to_server(&self, at: Duration) -> Option<Duration> {
        let arrives = at + self.leg;
        let swallowed = self.conditions.far[0].has(at) || self.conditions.worker.has(arrives);
        (!swallowed).then_some(arrives)
    }

    fn down_to_relay(&self, at: Duration) -> Option<Duration> {
        let arrives = at + self.leg;
        let swallowed = self.conditions.far[1].has(at) || self.conditions.relay.has(arrives);
        (!swallowed).then_some(arrives)
    }

    /// When a handshake that begins now completes; `None` if it is dropped or refused.
    pub(crate) fn dial(&self, at: Duration) -> Option<Duration> {
        let is_hopeless = |intervals: &Intervals| intervals.at(at).is_some_and(|interval| interval.until > at + DIAL);
        if self
            .conditions
            .near
            .iter()
            .chain([&self.conditions.relay])
            .any(is_hopeless)
        {
            return None;
        }
        let there_and_back = |at| self.to_client(self.to_relay(at)?);
        let met = repeated(at, FIRST_REPEAT, there_and_back)?;
        let asked = repeated(met, 6 * self.leg, |at| self.to_relay(at))?;
        if !self.listed.has(asked) {
            return None;
        }
        let reached = repeated(asked, 6 * self.leg, |at| self.to_client(at))?;
        let shaken = repeated(reached, 3 * self.rtt(), |at| {
            self.travel(SERVER, self.travel(CLIENT, at)?)
        })?;
        // The state of the handshake died with the relay or worker.
        let lives = [&self.conditions.relay, &self.conditions.worker]
            .iter()
            .all(|deaths| deaths.spare(at, shaken));
        (lives && shaken <= at + DIAL).then_some(shaken)
    }

    /// Whether there is no outage from `from` to `until`.
    pub(crate) fn is_open(&self, from: Duration, until: Duration) -> bool {
        self.dark.spare(from, until)
    }
}

/// When `attempt` succeeds, with retransmissions.
fn repeated(at: Duration, first: Duration, attempt: impl Fn(Duration) -> Option<Duration>) -> Option<Duration> {
    let (mut now, mut pause) = (at, first);
    while now < at + DIAL {
        if let Some(done) = attempt(now) {
            return Some(done);
        }
        now += pause;
        pause *= 2;
    }
    None
}
