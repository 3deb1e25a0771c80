//! Models the path and computes the congestion window.
//!
//! Pure. The path has a bandwidth (the recent maximum of the delivery rate) and a propagation delay
//! (the recent minimum of the RTT). Their product fits into the path without a queue
//! (draft-cardwell-iccrg-bbr-congestion-control, first version). Losses do not affect the model
//! unless there are many.

use super::UNACKED_PACKETS;
use super::black_hole::{BlackHoleDetector, RoundOutcome};
use super::delivery_rate::DeliveryRate;
use std::time::{Duration, Instant};

/// Window until the path is known. It does not overload a slow path, and completes a short transfer
/// over a fast path in one or two round trips.
pub(super) const INITIAL_WINDOW: u64 = 48 * 1200;
/// The window is at least this many packets. If a keystroke and its copies are lost, there must be
/// room for the next ones before the loss is repaired.
const MIN_WINDOW_PACKETS: u64 = 10;
/// The window while nothing full-size arrives: enough for probes and a keystroke, too little to
/// load any path.
const BLACK_HOLE_WINDOW_PACKETS: u64 = 3;
/// After a round trip that delivered nothing, the window is divided by this.
const UNDELIVERED_ROUND_DIVISOR: u64 = 4;
/// Allowed in flight beyond the bandwidth-delay product, because one acknowledgement covers several
/// packets and may be delayed by up to max_ack_delay (RFC 9000 section 18.2): twice that, and a
/// burst.
const AGGREGATION_PACKETS: u64 = 2 * (UNACKED_PACKETS as u64 + 1);
const ACK_DELAY: f64 = 0.025;
const BURST_PACKETS: u64 = 4;

/// Processing delay of both hosts. On a path within one machine there is no other delay.
const HOST_DELAY: Duration = Duration::from_millis(2);

/// Growth of the window in Startup: it doubles each round trip (2/ln 2).
const STARTUP_GAIN: f64 = 2.885;
/// Startup ends if the bandwidth has not grown by a quarter for this many round trips.
const FULL_BANDWIDTH_GROWTH: f64 = 1.25;
const FULL_BANDWIDTH_ROUNDS: u32 = 3;
/// Afterwards, one round trip of eight probes for more bandwidth, and the next drains the queue
/// that the probe may have built.
const GAIN_CYCLE: [f64; 8] = [1.25, 0.85, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];

/// The maximum filter of the bandwidth covers this many round trips, and at least this time.
const BANDWIDTH_WINDOW_ROUNDS: u64 = 10;
const BANDWIDTH_WINDOW: Duration = Duration::from_millis(500);
/// The minimum RTT is valid for this long. Then the window is reduced for a moment, so that our own
/// queue does not hide the minimum.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);
const PROBE_RTT_GAIN: f64 = 0.75;
const PROBE_RTT_DURATION: Duration = Duration::from_millis(200);

/// If one byte in this many is lost in a cycle, the bottleneck's queue is too short for probing.
/// Then there is no probing for this many cycles.
const LOSS_THRESHOLD: u64 = 12;
const NO_PROBE_CYCLES: u32 = 8;

/// The congestion controller.
#[derive(Clone, Debug)]
pub(super) struct Bbr {
    mtu: u64,
    rate: DeliveryRate,
    bandwidth: Bandwidth,
    min_rtt: Option<MinRtt>,
    drained_rtt: DrainedRtt,
    phase: Phase,
    window: u64,
    round_start: Instant,
    rounds: u64,
    /// A packet was acknowledged that was sent after the round began.
    round_ends: bool,
    delivered: u64,
    losses: CycleLosses,
    black_hole: BlackHoleDetector,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Searches for the bandwidth.
    Startup { best: f64, rounds: u32 },
    /// Drains the queue that Startup built.
    Drain,
    /// A step of [`GAIN_CYCLE`].
    ProbeBw { step: usize, since: Instant },
    /// Measures the minimum RTT again.
    ProbeRtt { until: Instant, window: f64 },
}

/// The minimum RTT.
#[derive(Clone, Copy, Debug)]
struct MinRtt {
    rtt: Duration,
    at: Instant,
}

/// RTTs of packets sent when our own queue was drained: the propagation delay plus the queues of
/// others and the jitter of the path.
#[derive(Clone, Copy, Debug, Default)]
struct DrainedRtt {
    /// Start and end of the drained interval.
    time: Option<(Instant, Instant)>,
    sum: Duration,
    count: u32,
    /// Mean RTT of the last interval.
    mean: Duration,
}

impl DrainedRtt {
    fn begin(&mut self, from: Instant, until: Instant) {
        if self.count > 0 {
            self.mean = self.sum / self.count;
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

/// Bytes lost and delivered since the cycle began, and the number of cycles without probing that
/// are left.
#[derive(Clone, Copy, Debug, Default)]
struct CycleLosses {
    lost: u64,
    delivered_before: u64,
    no_probe_cycles: u32,
}

/// The maximum delivery rate of the last round trips, in bytes per second.
#[derive(Clone, Copy, Debug)]
struct Bandwidth {
    /// The maximum of this half of the interval, and of the half before.
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
        if round >= began + BANDWIDTH_WINDOW_ROUNDS && now >= at + BANDWIDTH_WINDOW {
            self.halves = [sample, self.halves[0]];
            self.began = (round, now);
        }
        self.halves[0] = self.halves[0].max(sample);
    }
}

impl Bbr {
    pub(super) fn new(now: Instant, mtu: u16) -> Bbr {
        Bbr {
            mtu: mtu.into(),
            rate: DeliveryRate::new(now),
            bandwidth: Bandwidth::unknown(0, now),
            min_rtt: None,
            drained_rtt: DrainedRtt::default(),
            phase: Phase::Startup { best: 0.0, rounds: 0 },
            window: INITIAL_WINDOW,
            round_start: now,
            rounds: 0,
            round_ends: false,
            delivered: 0,
            losses: CycleLosses::default(),
            black_hole: BlackHoleDetector::new(),
        }
    }

    /// The congestion window in bytes.
    pub(super) fn window(&self) -> u64 {
        if self.is_black_hole() {
            return BLACK_HOLE_WINDOW_PACKETS * self.mtu;
        }
        self.window.max(MIN_WINDOW_PACKETS * self.mtu)
    }

    /// Whether batches are disabled because they do not arrive.
    pub(super) fn is_gso_disabled(&self) -> bool {
        self.black_hole.is_gso_disabled()
    }

    /// Whether only small packets arrive.
    pub(super) fn is_black_hole(&self) -> bool {
        self.black_hole.is_black_hole(self.mtu)
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    /// A transmit of one or several packets was sent. Returns whether they may form a batch.
    pub(super) fn handle_sent(&mut self, now: Instant, bytes: u64) -> bool {
        self.rate.handle_sent(now, self.min_rtt_or_zero());
        self.black_hole
            .handle_sent(now, bytes, self.mtu, self.min_rtt_or_zero())
    }

    /// A packet sent at `sent` was acknowledged.
    pub(super) fn handle_ack(&mut self, now: Instant, sent: Instant, bytes: u64) {
        self.rate.handle_ack(now, sent, bytes);
        let was_black_hole = self.is_black_hole();
        self.black_hole.handle_ack(now, sent, bytes, self.mtu);
        if was_black_hole && !self.is_black_hole() {
            self.restart(now);
        }
        self.round_ends |= sent >= self.round_start;
        let rtt = now.saturating_duration_since(sent);
        self.drained_rtt.handle_ack(sent, rtt);
        if self.min_rtt.is_none_or(|min_rtt| rtt <= min_rtt.rtt) {
            self.min_rtt = Some(MinRtt { rtt, at: now });
        }
    }

    /// All packets of one ACK frame were handled. `app_limited`: the application had nothing more
    /// to send.
    pub(super) fn handle_acks_end(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let acked = self.rate.delivered() - std::mem::replace(&mut self.delivered, self.rate.delivered());
        let is_new_round = std::mem::take(&mut self.round_ends);
        if is_new_round {
            self.rounds += 1;
            self.round_start = now;
            self.handle_round_end(now);
        }
        if let Some(sample) = self.rate.take_sample(now, self.min_rtt_or_zero())
            && (!app_limited || sample > self.bandwidth.get())
        {
            self.bandwidth.update(sample, self.rounds, now);
        }
        self.update_phase(now, in_flight, is_new_round && !app_limited);
        if !app_limited {
            self.maybe_probe_rtt(now);
        }
        self.set_window(acked);
        if in_flight == 0 {
            self.rate.handle_idle();
            self.black_hole.handle_idle();
        }
    }

    fn handle_round_end(&mut self, now: Instant) {
        match self.black_hole.end_round(self.mtu) {
            RoundOutcome::Normal => {}
            RoundOutcome::NothingDelivered => self.window /= UNDELIVERED_ROUND_DIVISOR,
            RoundOutcome::GsoDisabled => self.restart(now),
        }
    }

    /// Forgets the path and starts again.
    fn restart(&mut self, now: Instant) {
        self.bandwidth = Bandwidth::unknown(self.rounds, now);
        self.phase = Phase::Startup { best: 0.0, rounds: 0 };
        self.window = MIN_WINDOW_PACKETS * self.mtu;
        self.losses = CycleLosses {
            delivered_before: self.rate.delivered(),
            ..CycleLosses::default()
        };
    }

    /// Packets were lost. `is_persistent`: persistent congestion (RFC 9002 section 7.6).
    pub(super) fn handle_loss(&mut self, bytes: u64, is_persistent: bool) {
        self.losses.lost += bytes;
        self.black_hole.handle_loss(bytes);
        if is_persistent {
            self.window = 0;
        }
    }

    /// The minimum RTT; zero until it is known.
    fn min_rtt_or_zero(&self) -> Duration {
        self.min_rtt.map_or(Duration::ZERO, |min_rtt| min_rtt.rtt)
    }

    /// The bandwidth-delay product in bytes.
    fn bdp(&self) -> f64 {
        self.bandwidth.get() * (self.min_rtt_or_zero() + HOST_DELAY).as_secs_f64()
    }

    /// `is_full_round`: a round trip ended during which there was always more to send.
    fn update_phase(&mut self, now: Instant, in_flight: u64, is_full_round: bool) {
        match self.phase {
            Phase::Startup { best, rounds } if is_full_round => {
                let bandwidth = self.bandwidth.get();
                if self.is_loss_high() {
                    self.phase = Phase::Drain;
                } else if bandwidth >= best * FULL_BANDWIDTH_GROWTH {
                    self.phase = Phase::Startup {
                        best: bandwidth,
                        rounds: 0,
                    };
                } else if rounds + 1 < FULL_BANDWIDTH_ROUNDS {
                    self.phase = Phase::Startup {
                        best,
                        rounds: rounds + 1,
                    };
                } else {
                    self.phase = Phase::Drain;
                }
            }
            Phase::Startup { .. } => {}
            Phase::Drain if in_flight as f64 <= self.bdp() + self.headroom() => self.enter_probe_bw(now, 2),
            Phase::Drain => {}
            Phase::ProbeBw { step, since }
                if now.saturating_duration_since(since) > self.min_rtt_or_zero() + HOST_DELAY =>
            {
                if GAIN_CYCLE[step] < 1.0 {
                    self.drained_rtt.begin(since + (now - since) * 3 / 4, now);
                }
                self.enter_probe_bw(now, (step + 1) % GAIN_CYCLE.len());
            }
            Phase::ProbeBw { .. } => {}
            Phase::ProbeRtt { until, .. } if now >= until && self.min_rtt.is_some() => {
                self.drained_rtt = DrainedRtt::default();
                self.enter_probe_bw(now, 2);
            }
            Phase::ProbeRtt { .. } => {}
        }
    }

    fn enter_probe_bw(&mut self, now: Instant, step: usize) {
        self.phase = Phase::ProbeBw { step, since: now };
        if step == 0 {
            let no_probe_cycles = match self.is_loss_high() {
                true => NO_PROBE_CYCLES,
                false => self.losses.no_probe_cycles.saturating_sub(1),
            };
            self.losses = CycleLosses {
                lost: 0,
                delivered_before: self.delivered,
                no_probe_cycles,
            };
        }
    }

    fn is_loss_high(&self) -> bool {
        let delivered = self.delivered - self.losses.delivered_before;
        self.losses.lost > 8 * self.mtu && self.losses.lost * LOSS_THRESHOLD > delivered
    }

    /// Measures the minimum RTT again if the last measurement is old. The queue is empty then, so
    /// that any RTT will do.
    fn maybe_probe_rtt(&mut self, now: Instant) {
        let Some(min_rtt) = self.min_rtt else { return };
        let is_probe_bw = matches!(self.phase, Phase::ProbeBw { .. });
        if is_probe_bw && now.saturating_duration_since(min_rtt.at) > MIN_RTT_WINDOW {
            let window = self.bandwidth.get() * min_rtt.rtt.as_secs_f64() * PROBE_RTT_GAIN;
            self.phase = Phase::ProbeRtt {
                until: now + PROBE_RTT_DURATION.max(min_rtt.rtt * 2),
                window,
            };
            // The minimum is taken anew from now on.
            self.min_rtt = None;
        }
    }

    fn headroom(&self) -> f64 {
        let packets = |count: u64| (count * self.mtu) as f64;
        packets(BURST_PACKETS) + packets(AGGREGATION_PACKETS).min(self.bandwidth.get() * ACK_DELAY)
    }

    fn set_window(&mut self, acked: u64) {
        let bdp = self.bdp();
        let mean = self
            .drained_rtt
            .mean
            .clamp(self.min_rtt_or_zero(), self.min_rtt_or_zero() * 2);
        let mean = self.bandwidth.get() * (mean + HOST_DELAY).as_secs_f64();
        let min_bdp = self.bandwidth.get() * self.min_rtt_or_zero().as_secs_f64();
        let target = match self.phase {
            Phase::Startup { .. } => {
                let target = STARTUP_GAIN * bdp + self.headroom();
                self.window = self.window.max((self.window + acked).min(target as u64));
                return;
            }
            Phase::Drain => bdp + self.headroom(),
            Phase::ProbeBw { step, .. } if self.losses.no_probe_cycles > 0 => {
                min_bdp * GAIN_CYCLE[step].min(1.0) + self.headroom() / 3.0
            }
            Phase::ProbeBw { step, .. } => mean * GAIN_CYCLE[step] + self.headroom(),
            Phase::ProbeRtt { window, .. } => window,
        };
        self.window = (self.window + acked).min(target as u64);
    }
}
