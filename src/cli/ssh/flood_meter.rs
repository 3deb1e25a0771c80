//! Whether output comes faster than the shadow screen should follow it.
//!
//! Pure: time is an argument.

use std::time::Instant;

/// So much may come at once and is followed all the same: several screens.
const BURST_BYTES: u64 = 64 * 1024;

/// Output of this rate is followed. The emulator can do 30 times as much, and what people read is far below.
const BYTES_PER_SECOND: u64 = 1024 * 1024;

/// A leaky bucket.
#[derive(Debug, Default)]
pub(super) struct FloodMeter {
    level: u64,
    at: Option<Instant>,
}

impl FloodMeter {
    /// Whether these bytes are part of a flood.
    pub(super) fn is_flood(&mut self, count: usize, now: Instant) -> bool {
        let elapsed = self.at.replace(now).map(|at| now.saturating_duration_since(at));
        let micros = elapsed.map_or(u128::MAX, |elapsed| elapsed.as_micros());
        let drained = u64::try_from(micros.saturating_mul(BYTES_PER_SECOND.into()) / 1_000_000).unwrap_or(u64::MAX);
        let level = self.level.saturating_sub(drained).saturating_add(count as u64);
        // Full is full: the end of a flood is noticed soon, however long it was.
        self.level = level.min(2 * BURST_BYTES);
        level > BURST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_is_what_comes_faster_than_anyone_reads() {
        let mut now = crate::clock::now();
        let mut meter = FloodMeter::default();
        assert!(!meter.is_flood(60_000, now), "a few screens at once");
        now += Duration::from_secs(1);
        for _ in 0..1000 {
            now += Duration::from_millis(20);
            assert!(!meter.is_flood(16_000, now), "a program that redraws its screen");
        }
        let flooded = (0..1000).filter(|_| {
            now += Duration::from_micros(100);
            meter.is_flood(4_000, now)
        });
        assert!(flooded.count() > 980);
        now += Duration::from_millis(130);
        assert!(!meter.is_flood(4_000, now), "it has ended");
    }
}
