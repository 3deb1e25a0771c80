//! The controller over an emulated bottleneck, in virtual time, with quinn's pacing.

use super::bbr::Bbr;
use crate::clock;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

const MTU: u64 = 1452;

/// A bottleneck link and its queue.
#[derive(Clone, Copy)]
struct Path {
    /// Bytes per second.
    rate: f64,
    /// Round trip without the queue.
    rtt: Duration,
    /// Longest time in the queue.
    queue: Duration,
    /// Loss in each direction, in thousandths.
    loss: u64,
    /// Largest random addition to the round trip.
    jitter: Duration,
}

const FAST: Path = Path {
    rate: 12_500_000.0,
    rtt: Duration::from_millis(50),
    queue: Duration::from_millis(50),
    loss: 0,
    jitter: Duration::ZERO,
};

/// Results, without the first two seconds.
#[derive(Debug)]
struct Seen {
    /// Delivered, as a share of the link's rate.
    share: f64,
    /// Lost, as a share of what was sent.
    lost: f64,
    /// Mean time in the queue.
    queued: Duration,
}

/// A sender that always has more to send.
struct Sender {
    bbr: Bbr,
    in_flight: BTreeMap<u64, Instant>,
    next: u64,
    tokens: f64,
    refilled: Instant,
    smoothed: f64,
}

impl Sender {
    fn new(now: Instant) -> Sender {
        Sender {
            bbr: Bbr::new(now, MTU as u16),
            in_flight: BTreeMap::new(),
            next: 0,
            tokens: 0.0,
            refilled: now,
            smoothed: 0.15,
        }
    }

    /// Sends what window and pacing allow, and returns the packet numbers.
    fn send(&mut self, now: Instant) -> Vec<u64> {
        let window = self.bbr.window();
        let elapsed = (now - self.refilled).as_secs_f64();
        let burst = (window as f64 * 0.002 / self.smoothed).max(10.0 * MTU as f64);
        self.tokens = (self.tokens + window as f64 * 1.25 * elapsed / self.smoothed).min(burst);
        self.refilled = now;
        let mut sent = vec![];
        while self.tokens >= MTU as f64 && (self.in_flight.len() as u64 + 1) * MTU <= window {
            self.tokens -= MTU as f64;
            self.bbr.handle_sent(now, MTU);
            self.in_flight.insert(self.next, now);
            sent.push(self.next);
            self.next += 1;
        }
        sent
    }

    fn handle_ack(&mut self, now: Instant, acked: &[u64]) {
        let Some(largest) = acked.iter().max().copied() else {
            return;
        };
        for number in acked {
            let Some(sent) = self.in_flight.remove(number) else {
                continue;
            };
            if *number == largest {
                let rtt = (now - sent).as_secs_f64();
                self.smoothed = self.smoothed * 0.875 + rtt * 0.125;
            }
            self.bbr.handle_ack(now, sent, MTU);
        }
        let in_flight = self.in_flight.len() as u64 * MTU;
        self.bbr.handle_acks_end(now, in_flight, false);
        let lost: Vec<u64> = self
            .in_flight
            .range(..largest.saturating_sub(2))
            .map(|(number, _)| *number)
            .collect();
        if !lost.is_empty() {
            self.in_flight.retain(|number, _| !lost.contains(number));
            self.bbr.handle_loss(lost.len() as u64 * MTU, false);
        }
    }
}

fn chance(state: &mut u64) -> u64 {
    // Marsaglia's xorshift is good enough for losses.
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Sends over the path for this many seconds. `change` may alter the path at any time.
fn transfer(path: Path, seconds: u64, change: impl Fn(u64, &mut Path)) -> Seen {
    let start = clock::now();
    let (mut path, mut seed) = (path, 88_172_645_463_325_252);
    let mut sender = Sender::new(start);
    let mut link_free = start;
    let mut on_way: VecDeque<(Instant, u64)> = VecDeque::new();
    let mut acks: VecDeque<(Instant, Vec<u64>)> = VecDeque::new();
    let (mut unacked, mut unacked_since, mut expected) = (vec![], start, 0);
    let (mut delivered, mut lost, mut sent, mut queued) = (0u64, 0u64, 0u64, Duration::ZERO);
    for step in 0..seconds * 10_000 {
        let now = start + Duration::from_micros(100) * step as u32;
        change(step / 10, &mut path);
        let counts = step >= 20_000;
        for packet in sender.send(now) {
            let waits = link_free.saturating_duration_since(now);
            sent += u64::from(counts);
            if waits > path.queue || chance(&mut seed) % 1000 < path.loss {
                lost += u64::from(counts);
                continue;
            }
            queued += if counts { waits } else { Duration::ZERO };
            link_free = link_free.max(now) + Duration::from_secs_f64(MTU as f64 / path.rate);
            let jitter = path.jitter.mul_f64((chance(&mut seed) % 1000) as f64 / 1000.0);
            let last = on_way.back().map_or(start, |(at, _)| *at);
            on_way.push_back(((link_free + path.rtt / 2 + jitter).max(last), packet));
        }
        while on_way.front().is_some_and(|(at, _)| *at <= now) {
            let (_, packet) = on_way.pop_front().unwrap();
            delivered += u64::from(counts);
            if unacked.is_empty() {
                unacked_since = now;
            }
            let is_gap = packet != expected;
            expected = packet + 1;
            unacked.push(packet);
            if unacked.len() > 10 || is_gap {
                acks.push_back((now + path.rtt / 2, std::mem::take(&mut unacked)));
            }
        }
        if !unacked.is_empty() && now >= unacked_since + Duration::from_millis(25) {
            acks.push_back((now + path.rtt / 2, std::mem::take(&mut unacked)));
        }
        while acks.front().is_some_and(|(at, _)| *at <= now) {
            let (_, acked) = acks.pop_front().unwrap();
            sender.handle_ack(now, &acked);
        }
    }
    let time = (seconds - 2) as f64;
    Seen {
        share: (delivered * MTU) as f64 / path.rate / time,
        lost: lost as f64 / sent as f64,
        queued: queued / (sent.max(1) as u32),
    }
}

fn steady(path: Path) -> Seen {
    transfer(path, 30, |_, _| {})
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn link_is_filled_without_filling_its_queue() {
    for (rtt, rate) in [
        (50, 12_500_000.0),
        (150, 12_500_000.0),
        (10, 2_500_000.0),
        (50, 62_500_000.0),
        (200, 250_000.0),
    ] {
        let seen = steady(Path {
            rate,
            rtt: ms(rtt),
            ..FAST
        });
        assert!(seen.share > 0.9 && seen.lost < 0.02, "{rtt} ms: {seen:?}");
        assert!(seen.queued < ms(20), "{rtt} ms: {seen:?}");
    }
}

#[test]
fn random_losses_cost_no_more_than_their_share() {
    for loss in [10, 20, 50] {
        let seen = steady(Path { loss, ..FAST });
        assert!(seen.share > 0.95, "{loss} of 1000: {seen:?}");
    }
}

#[test]
fn short_queue_is_not_overflowed() {
    for queue in [2, 5, 10] {
        let seen = steady(Path {
            queue: ms(queue),
            ..FAST
        });
        assert!(seen.share > 0.8 && seen.lost < 0.05, "{queue} ms: {seen:?}");
    }
}

#[test]
fn jitter_does_not_reduce_throughput() {
    for jitter in [5, 20, 40] {
        let seen = steady(Path {
            jitter: ms(jitter),
            ..FAST
        });
        assert!(seen.share > 0.8, "{jitter} ms: {seen:?}");
    }
}

#[test]
fn model_adapts_to_a_changed_path() {
    let seen = transfer(FAST, 30, |at, path| {
        path.rate = if at < 5_000 { 3_000_000.0 } else { 12_500_000.0 }
    });
    assert!(seen.share > 0.85, "{seen:?}");
    let seen = transfer(FAST, 30, |at, path| {
        path.rate = if at < 5_000 { 12_500_000.0 } else { 3_000_000.0 }
    });
    assert!(seen.share > 1.2 && seen.lost < 0.1, "{seen:?}");
    let seen = transfer(FAST, 60, |at, path| {
        path.rtt = if at < 5_000 { ms(20) } else { ms(200) }
    });
    assert!(seen.share > 0.75, "{seen:?}");
}

#[test]
fn losses_leave_room_for_ten_packets() {
    let mut bbr = Bbr::new(clock::now(), 1200);
    bbr.handle_loss(200 * 1200, true);
    assert_eq!(bbr.window(), 12_000);
    bbr.set_mtu(1452);
    assert_eq!(bbr.window(), 14_520);
}

/// A path with a round trip of 10 ms that delivers small packets, and full-size packets as told.
struct Filter {
    bbr: Bbr,
    now: Instant,
}

impl Filter {
    fn new() -> Filter {
        let mut filter = Filter {
            bbr: Bbr::new(clock::now(), 1200),
            now: clock::now(),
        };
        for _ in 0..5 {
            filter.round(true, true);
        }
        filter
    }

    /// Sends four full-size packets at once and a small one. Returns the window in packets at the
    /// end.
    fn round(&mut self, joined_arrive: bool, single_arrive: bool) -> u64 {
        let (sent, back) = (self.now, self.now + ms(10));
        let joins = self.bbr.handle_sent(sent, 4 * 1200);
        self.bbr.handle_sent(sent, 60);
        let arrive = if joins { joined_arrive } else { single_arrive };
        for _ in (0..4).take_while(|_| arrive) {
            self.bbr.handle_ack(back, sent, 1200);
        }
        self.bbr.handle_ack(back, sent, 60);
        self.bbr.handle_acks_end(back, 1200, false);
        if !arrive {
            self.bbr.handle_loss(4 * 1200, false);
        }
        self.now = back;
        self.bbr.window() / 1200
    }
}

#[test]
fn batches_are_disabled_if_none_arrives() {
    let mut filter = Filter::new();
    let mut rounds = 0;
    while !filter.bbr.is_gso_disabled() {
        filter.round(false, true);
        rounds += 1;
        assert!(rounds <= 4, "three round trips, and one more to see the last");
    }
    let mut window = 0;
    for _ in 0..100 {
        window = filter.round(false, true);
    }
    assert!(!filter.bbr.is_black_hole() && window > 10, "{window} packets");
}

#[test]
fn random_losses_do_not_disable_batches() {
    let mut filter = Filter::new();
    for _ in 0..200 {
        filter.round(false, true);
        filter.round(false, true);
        filter.round(true, true);
    }
    assert!(!filter.bbr.is_gso_disabled());
}

#[test]
fn black_hole_reduces_the_window_until_something_arrives() {
    let mut filter = Filter::new();
    for _ in 0..6 {
        filter.round(false, false);
    }
    assert!(filter.bbr.is_black_hole());
    assert_eq!(filter.bbr.window(), 3 * 1200);
    filter.round(false, true);
    assert!(!filter.bbr.is_black_hole() && filter.bbr.window() >= 10 * 1200);
}
