//! The one way between client and server half, which leads over the relay.

use crate::listing::listings;
use crate::weather::{Spells, Weather, union};
use std::time::Duration;

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

/// A transport that hears nothing of its peer ends after so long (`IDLE_TIMEOUT` of QUIC's settings).
pub(crate) const IDLE: Duration = Duration::from_secs(45);
/// QUIC repeats its first packet after three times what it takes an unknown path for (RFC 9002 section 6.2.2), then after
/// twice as long, and so on.
pub(crate) const FIRST_REPEAT: Duration = Duration::from_millis(450);
/// The longest that one dial may take.
const DIAL: Duration = Duration::from_secs(15);

pub(crate) struct Network<'a> {
    pub(crate) weather: &'a Weather,
    /// When the relay has the server half on its list.
    listed: Spells,
    /// When no byte would find its way from end to end, or nobody would find the server half.
    pub(crate) dark: Spells,
    /// One way from client to relay, and as long from there to the server half.
    pub(crate) leg: Duration,
    /// How long the client's NAT remembers a carrier on which the client says nothing. It lets nothing of that through
    /// afterwards, and tells nobody.
    pub(crate) nat: Duration,
}

impl<'a> Network<'a> {
    pub(crate) fn new(weather: &'a Weather, rtt: Duration, nat: Duration, seed: u64) -> Network<'a> {
        let leg = rtt / 4;
        let listed = listings(weather, leg, seed);
        let [up, down] = &weather.near;
        let dark = union(&[
            &weather.server_is_cut_off(),
            up,
            down,
            &weather.sleep,
            &listed.inverse(),
        ]);
        Network {
            weather,
            listed,
            dark,
            leg,
            nat,
        }
    }

    pub(crate) fn rtt(&self) -> Duration {
        4 * self.leg
    }

    /// A dial without a loss: QUIC to the relay, the relay's answer, and TLS with the server half.
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
        let swallowed = self.weather.near[0].has(at) || self.weather.sleep.has(at) || self.weather.relay.has(arrives);
        (!swallowed).then_some(arrives)
    }

    pub(crate) fn to_client(&self, at: Duration) -> Option<Duration> {
        let arrives = at + self.leg;
        let swallowed = self.weather.near[1].has(at) || self.weather.sleep.has(arrives);
        (!swallowed).then_some(arrives)
    }

    fn to_server(&self, at: Duration) -> Option<Duration> {
        let arrives = at + self.leg;
        let swallowed = self.weather.far[0].has(at) || self.weather.worker.has(arrives);
        (!swallowed).then_some(arrives)
    }

    fn down_to_relay(&self, at: Duration) -> Option<Duration> {
        let arrives = at + self.leg;
        let swallowed = self.weather.far[1].has(at) || self.weather.relay.has(arrives);
        (!swallowed).then_some(arrives)
    }

    /// When a handshake with the server half that begins now is done; `None`: it is swallowed, or refused.
    pub(crate) fn dial(&self, at: Duration) -> Option<Duration> {
        let is_hopeless = |spells: &Spells| spells.at(at).is_some_and(|spell| spell.until > at + DIAL);
        if self.weather.near.iter().chain([&self.weather.relay]).any(is_hopeless) {
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
        // What the relay or the worker knew of it died with them.
        let lives = [&self.weather.relay, &self.weather.worker]
            .iter()
            .all(|deaths| deaths.spare(at, shaken));
        (lives && shaken <= at + DIAL).then_some(shaken)
    }

    /// Whether all is well from `from` to `until`.
    pub(crate) fn is_open(&self, from: Duration, until: Duration) -> bool {
        self.dark.spare(from, until)
    }
}

/// When `attempt` succeeds, repeated as transports do.
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
