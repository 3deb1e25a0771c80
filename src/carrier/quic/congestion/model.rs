//! What is known of the path, and how much may be in flight on it.
//!
//! Pure. The path has a bandwidth (the most that was delivered lately) and a length (the least round trip lately); their
//! product fits into it without a queue (draft-cardwell-iccrg-bbr-congestion-control, first version). Losses say nothing
//! of it unless they are many.

use super::UNACKED_PACKETS;
use super::arrivals::{Arrivals, Round};
use super::rate::DeliveryRate;
use std::time::{Duration, Instant};

/// Until the path is known. A slow one is not flooded by it, and a short transfer on a fast one is done in a round trip or two.
pub(super) const INITIAL_WINDOW: u64 = 48 * 1200;
/// The window never falls below so many packets: a lost key with a few copies behind it would wait for its repair with no
/// room for the copies of the next.
const LEAST_PACKETS: u64 = 10;
/// Unless nothing arrives. This many are a probe for a path that comes back, a keystroke, and no load for anybody.
const TRICKLE_PACKETS: u64 = 3;
/// A round trip of which nothing arrived leaves so small a part of the window.
const FRUITLESS_DIVISOR: u64 = 4;
/// More than the path holds, because acknowledgements come for several packets at a time, or after the peer's delay (RFC 9000
/// section 18.2): twice that, and a burst.
const SLACK_PACKETS: u64 = 2 * (UNACKED_PACKETS as u64 + 1);
const ACK_DELAY: f64 = 0.025;
const BURST_PACKETS: u64 = 4;

/// What the two hosts may keep a packet and its acknowledgement waiting: on a path within one machine that is all.
const HOSTS: Duration = Duration::from_millis(2);

/// How the window grows while the bandwidth is being found: doubled with each round trip (2/ln 2).
const STARTUP_GAIN: f64 = 2.885;
/// It is found when it has not grown by a quarter for so many round trips.
const GROWTH: f64 = 1.25;
const ROUNDS_WITHOUT_GROWTH: u32 = 3;
/// Then more is tried for one round trip of eight, and the queue that this may have made is let go.
const CYCLE: [f64; 8] = [1.25, 0.85, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];

/// Round trips, and the time, for which a bandwidth counts.
const BANDWIDTH_ROUNDS: u64 = 10;
const BANDWIDTH_KEPT: Duration = Duration::from_millis(500);
/// Time for which a round trip counts as the least; then the window is narrowed for a moment, so that a queue of our own
/// does not hide it.
const LENGTH_KEPT: Duration = Duration::from_secs(10);
const LOOK_GAIN: f64 = 0.75;
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// One byte lost of so many in a cycle: the queue before the path is shorter than what is tried. For so many cycles no more
/// is tried.
const MANY_LOST: u64 = 12;
const CAUTIOUS_CYCLES: u32 = 8;

/// Decides how many bytes may be in flight.
#[derive(Clone, Debug)]
pub(super) struct Model {
    mtu: u64,
    rate: DeliveryRate,
    bandwidth: Bandwidth,
    length: Option<Length>,
    rest: Rest,
    phase: Phase,
    window: u64,
    round_began: Instant,
    rounds: u64,
    /// A packet was acknowledged that left after the round had begun.
    round_ends: bool,
    delivered: u64,
    losses: Losses,
    arrivals: Arrivals,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The bandwidth is not found yet.
    Startup { best: f64, rounds: u32 },
    /// The queue that this made is let go.
    Drain,
    /// A place in [`CYCLE`].
    Cruise { place: usize, since: Instant },
    /// The length is measured again.
    Look { until: Instant, window: f64 },
}

/// The least round trip.
#[derive(Clone, Copy, Debug)]
struct Length {
    rtt: Duration,
    at: Instant,
}

/// Round trips of what left when the queue had just been let go: what the path takes with the queues of others, and with
/// what it holds back of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    /// From when to when.
    time: Option<(Instant, Instant)>,
    sum: Duration,
    count: u32,
    /// Their mean.
    usual: Duration,
}

impl Rest {
    fn begin(&mut self, from: Instant, until: Instant) {
        if self.count > 0 {
            self.usual = self.sum / self.count;
        }
        (self.sum, self.count, self.time) = (Duration::ZERO, 0, Some((from, until)));
    }

    fn handle_ack(&mut self, sent: Instant, rtt: Duration) {
        if self.time.is_some_and(|(from, until)| (from..=until).contains(&sent)) {
            self.sum += rtt;
            self.count += 1;
        }
    }
}

/// Bytes lost and delivered since the cycle began, and for how many cycles no more is to be tried.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    lost: u64,
    delivered_before: u64,
    cautious: u32,
}

/// The most of the last round trips, bytes a second.
#[derive(Clone, Copy, Debug)]
struct Bandwidth {
    /// Of this half of the time, and of the half before.
    halves: [f64; 2],
    /// The round and the time at which this half began.
    began: (u64, Instant),
}

impl Bandwidth {
    fn unknown(round: u64, now: Instant) -> Bandwidth {
        Bandwidth {
            halves: [0.0; 2],
            began: (round, now),
        }
    }

    fn get(&self) -> f64 {
        self.halves[0].max(self.halves[1])
    }

    fn update(&mut self, sample: f64, round: u64, now: Instant) {
        let (began, at) = self.began;
        if round >= began + BANDWIDTH_ROUNDS && now >= at + BANDWIDTH_KEPT {
            self.halves = [sample, self.halves[0]];
            self.began = (round, now);
        }
        self.halves[0] = self.halves[0].max(sample);
    }
}

impl Model {
    pub(super) fn new(now: Instant, mtu: u16) -> Model {
        Model {
            mtu: mtu.into(),
            rate: DeliveryRate::new(now),
            bandwidth: Bandwidth::unknown(0, now),
            length: None,
            rest: Rest::default(),
            phase: Phase::Startup { best: 0.0, rounds: 0 },
            window: INITIAL_WINDOW,
            round_began: now,
            rounds: 0,
            round_ends: false,
            delivered: 0,
            losses: Losses::default(),
            arrivals: Arrivals::new(),
        }
    }

    /// Bytes that may be in flight.
    pub(super) fn window(&self) -> u64 {
        if self.is_hole() {
            return TRICKLE_PACKETS * self.mtu;
        }
        self.window.max(LEAST_PACKETS * self.mtu)
    }

    /// Whether no packets are joined any more, since those that were did not arrive.
    pub(super) fn sends_singly(&self) -> bool {
        self.arrivals.sends_singly()
    }

    /// Whether nothing but small packets arrives.
    pub(super) fn is_hole(&self) -> bool {
        self.arrivals.is_hole(self.mtu)
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    /// One packet leaves, or several. Whether these may be joined.
    pub(super) fn handle_sent(&mut self, now: Instant, bytes: u64) -> bool {
        self.rate.handle_sent(now, self.length());
        self.arrivals.handle_sent(now, bytes, self.mtu, self.length())
    }

    /// A packet that left at `sent` was acknowledged.
    pub(super) fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.rate.handle_ack(now, sent, bytes);
        let was_hole = self.is_hole();
        self.arrivals.handle_ack(now, sent, bytes, self.mtu);
        if was_hole && !self.is_hole() {
            self.begin_again(now);
        }
        self.round_ends |= sent >= self.round_began;
        let rtt = now.saturating_duration_since(sent);
        self.rest.handle_ack(sent, rtt);
        if self.length.is_none_or(|length| rtt <= length.rtt) {
            self.length = Some(Length { rtt, at: now });
        }
    }

    /// All that one acknowledgement was about has been handled. `app_limited`: there was nothing more to send.
    pub(super) fn handle_acks_end(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let acked = self.rate.delivered() - std::mem::replace(&mut self.delivered, self.rate.delivered());
        let is_new_round = std::mem::take(&mut self.round_ends);
        if is_new_round {
            self.rounds += 1;
            self.round_began = now;
            self.handle_round(now);
        }
        if let Some(sample) = self.rate.take_sample(now, self.length())
            && (!app_limited || sample > self.bandwidth.get())
        {
            self.bandwidth.update(sample, self.rounds, now);
        }
        self.move_on(now, in_flight, is_new_round && !app_limited);
        if !app_limited {
            self.look_again(now);
        }
        self.set_window(acked);
        if in_flight == 0 {
            self.rate.handle_idle();
            self.arrivals.handle_idle();
        }
    }

    fn handle_round(&mut self, now: Instant) {
        match self.arrivals.end_round(self.mtu) {
            Round::Usual => {}
            Round::Fruitless => self.window /= FRUITLESS_DIVISOR,
            Round::SendSingly => self.begin_again(now),
        }
    }

    /// What was known of the path holds no more.
    fn begin_again(&mut self, now: Instant) {
        self.bandwidth = Bandwidth::unknown(self.rounds, now);
        self.phase = Phase::Startup { best: 0.0, rounds: 0 };
        self.window = LEAST_PACKETS * self.mtu;
        self.losses = Losses {
            delivered_before: self.rate.delivered(),
            ..Losses::default()
        };
    }

    /// Packets were lost. `is_persistent`: all of a long time.
    pub(super) fn handle_loss(&mut self, bytes: u64, is_persistent: bool) {
        self.losses.lost += bytes;
        self.arrivals.handle_loss(bytes);
        if is_persistent {
            self.window = 0;
        }
    }

    /// The least round trip; until it is known, no time at all.
    fn length(&self) -> Duration {
        self.length.map_or(Duration::ZERO, |length| length.rtt)
    }

    /// Bytes that fit into the path.
    fn capacity(&self) -> f64 {
        self.bandwidth.get() * (self.length() + HOSTS).as_secs_f64()
    }

    /// `is_full_round`: a round trip is over in which there always was more to send.
    fn move_on(&mut self, now: Instant, in_flight: u64, is_full_round: bool) {
        match self.phase {
            Phase::Startup { best, rounds } if is_full_round => {
                let bandwidth = self.bandwidth.get();
                if self.are_many_lost() {
                    self.phase = Phase::Drain;
                } else if bandwidth >= best * GROWTH {
                    self.phase = Phase::Startup {
                        best: bandwidth,
                        rounds: 0,
                    };
                } else if rounds + 1 < ROUNDS_WITHOUT_GROWTH {
                    self.phase = Phase::Startup {
                        best,
                        rounds: rounds + 1,
                    };
                } else {
                    self.phase = Phase::Drain;
                }
            }
            Phase::Startup { .. } => {}
            Phase::Drain if in_flight as f64 <= self.capacity() + self.slack() => self.cruise(now, 2),
            Phase::Drain => {}
            Phase::Cruise { place, since } if now.saturating_duration_since(since) > self.length() + HOSTS => {
                if CYCLE[place] < 1.0 {
                    self.rest.begin(since + (now - since) * 3 / 4, now);
                }
                self.cruise(now, (place + 1) % CYCLE.len());
            }
            Phase::Cruise { .. } => {}
            Phase::Look { until, .. } if now >= until && self.length.is_some() => {
                self.rest = Rest::default();
                self.cruise(now, 2);
            }
            Phase::Look { .. } => {}
        }
    }

    fn cruise(&mut self, now: Instant, place: usize) {
        self.phase = Phase::Cruise { place, since: now };
        if place == 0 {
            let cautious = match self.are_many_lost() {
                true => CAUTIOUS_CYCLES,
                false => self.losses.cautious.saturating_sub(1),
            };
            self.losses = Losses {
                lost: 0,
                delivered_before: self.delivered,
                cautious,
            };
        }
    }

    fn are_many_lost(&self) -> bool {
        let delivered = self.delivered - self.losses.delivered_before;
        self.losses.lost > 8 * self.mtu && self.losses.lost * MANY_LOST > delivered
    }

    /// Measures the length again when the last measure is old. The queue is empty then, so any round trip will do.
    fn look_again(&mut self, now: Instant) {
        let Some(length) = self.length else { return };
        let cruises = matches!(self.phase, Phase::Cruise { .. });
        if cruises && now.saturating_duration_since(length.at) > LENGTH_KEPT {
            let window = self.bandwidth.get() * length.rtt.as_secs_f64() * LOOK_GAIN;
            self.phase = Phase::Look {
                until: now + LOOK_AGAIN.max(length.rtt * 2),
                window,
            };
            // The least that is seen from now on.
            self.length = None;
        }
    }

    fn slack(&self) -> f64 {
        let packets = |count: u64| (count * self.mtu) as f64;
        packets(BURST_PACKETS) + packets(SLACK_PACKETS).min(self.bandwidth.get() * ACK_DELAY)
    }

    fn set_window(&mut self, acked: u64) {
        let capacity = self.capacity();
        let usual = self.rest.usual.clamp(self.length(), self.length() * 2);
        let usual = self.bandwidth.get() * (usual + HOSTS).as_secs_f64();
        let short = self.bandwidth.get() * self.length().as_secs_f64();
        let target = match self.phase {
            Phase::Startup { .. } => {
                let target = STARTUP_GAIN * capacity + self.slack();
                self.window = self.window.max((self.window + acked).min(target as u64));
                return;
            }
            Phase::Drain => capacity + self.slack(),
            Phase::Cruise { place, .. } if self.losses.cautious > 0 => {
                short * CYCLE[place].min(1.0) + self.slack() / 3.0
            }
            Phase::Cruise { place, .. } => usual * CYCLE[place] + self.slack(),
            Phase::Look { window, .. } => window,
        };
        self.window = (self.window + acked).min(target as u64);
    }
}
