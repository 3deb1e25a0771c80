//! One direction of a link: bounded queue and rate, then loss, then delay. Pure: times go in and come out.

use super::now;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nanoseconds since this process first asked; the emulators' own time.
pub fn nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    // From one hour on, so that a moment before the start is no underflow.
    let since = START.get_or_init(now).elapsed() + Duration::from_secs(3600);
    u64::try_from(since.as_nanos()).expect("a run of less than 584 years")
}

/// splitmix64's.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// splitmix64: small, fast, repeatable from a seed.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// What the `n`-th draw (from 0) of a fresh one gives.
    pub fn at(seed: u64, n: u64) -> u64 {
        Rng(seed.wrapping_add(n.wrapping_mul(STEP))).draw()
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What one direction of a link does to packets. Times in nanoseconds, shares from 0 to 1.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One way.
    delay: u64,
    /// Uniform, plus or minus; keeps the order.
    jitter: u64,
    loss: f64,
    /// Mean run of lost packets; up to 1: independent losses.
    burst: f64,
    /// Bits per nanosecond; 0: unlimited.
    rate: f64,
    /// Longest wait at that rate; later packets are dropped.
    queue: u64,
    /// Larger packets vanish without a word; 0: no limit.
    mtu: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            delay: 0,
            jitter: 0,
            loss: 0.0,
            burst: 0.0,
            rate: 0.0,
            queue: 50_000_000,
            mtu: 0,
        }
    }
}

impl Settings {
    /// Sets `delay`, `jitter`, `queue` (ms), `loss` (%), `burst` (packets), `rate` (Mbit/s) or `mtu` (bytes).
    ///
    /// # Panics
    /// On an unknown key or a value that is no number: the test is wrong.
    fn set(&mut self, key: &str, value: &str) {
        let value: f64 = value
            .parse()
            .unwrap_or_else(|_| panic!("{key}={value} is not a number"));
        let milliseconds = (value * 1e6) as u64;
        match key {
            "delay" => self.delay = milliseconds,
            "jitter" => self.jitter = milliseconds,
            "queue" => self.queue = milliseconds,
            "loss" => self.loss = value / 100.0,
            "burst" => self.burst = value,
            "rate" => self.rate = value / 1000.0,
            "mtu" => self.mtu = value as usize,
            _ => panic!("unknown link setting {key}"),
        }
    }
}

/// Changes two directions by a text like `delay=25,loss=1,up.rate=10`; plain keys set both, `up.` and `down.` one.
///
/// # Panics
/// On anything that it does not know.
pub fn configure(text: &str, up: &mut Link, down: &mut Link) {
    for setting in text.split([',', ' ']).filter(|s| !s.is_empty()) {
        let (key, value) = setting
            .split_once('=')
            .unwrap_or_else(|| panic!("want key=value, not {setting}"));
        match key.split_once('.') {
            Some(("up", key)) => up.settings.set(key, value),
            Some(("down", key)) => down.settings.set(key, value),
            _ => {
                up.settings.set(key, value);
                down.settings.set(key, value);
            }
        }
    }
    up.restart();
    down.restart();
}

/// What became of the packets of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    pub queue_drops: u64,
    pub mtu_drops: u64,
    pub blackholed: u64,
    pub filtered: u64,
    pub unroutable: u64,
}

/// One direction of a link.
pub struct Link {
    settings: Settings,
    pub counters: Counters,
    busy_until: u64,
    last_out: u64,
    in_burst: bool,
    rng: Rng,
}

impl Link {
    /// A perfect link; `seed` decides its losses and jitter once it has any.
    pub fn new(seed: u64) -> Link {
        Link {
            settings: Settings::default(),
            counters: Counters::default(),
            busy_until: 0,
            last_out: 0,
            in_burst: false,
            rng: Rng::new(seed),
        }
    }

    /// A packet of `length` bytes reaches this link at `at`: when does it come out, if at all?
    pub fn offer(&mut self, at: u64, length: usize) -> Option<u64> {
        if self.settings.mtu != 0 && length > self.settings.mtu {
            self.counters.mtu_drops += 1;
            return None;
        }
        let sent = self.transmit(at, length)?;
        if self.lose() {
            self.counters.lost += 1;
            return None;
        }
        self.counters.packets += 1;
        self.counters.bytes += length as u64;
        let offset = (self.rng.unit() * 2.0 - 1.0) * self.settings.jitter as f64;
        let out = ((sent + self.settings.delay) as f64 + offset) as u64;
        // Jitter alone never reorders.
        self.last_out = out.max(sent).max(self.last_out);
        Some(self.last_out)
    }

    /// When the last bit has left the queue.
    fn transmit(&mut self, at: u64, length: usize) -> Option<u64> {
        if self.settings.rate <= 0.0 {
            return Some(at);
        }
        let start = self.busy_until.max(at);
        if start - at > self.settings.queue {
            self.counters.queue_drops += 1;
            return None;
        }
        self.busy_until = start + (length as f64 * 8.0 / self.settings.rate) as u64;
        Some(self.busy_until)
    }

    fn lose(&mut self) -> bool {
        let share = self.settings.loss;
        if share <= 0.0 {
            self.in_burst = false;
            return false;
        }
        let draw = self.rng.unit();
        if self.settings.burst <= 1.0 || share >= 1.0 {
            return draw < share;
        }
        // Two states (Gilbert): everything is lost in the bad one.
        let leave = 1.0 / self.settings.burst;
        let enter = (share * leave / (1.0 - share)).min(1.0);
        self.in_burst = if self.in_burst { draw >= leave } else { draw < enter };
        self.in_burst
    }

    /// New settings hold from now on: what was promised to a queue that is gone no longer counts.
    fn restart(&mut self) {
        self.busy_until = 0;
        self.last_out = 0;
    }
}
