//! QUIC's congestion controller: BBR, with room for a keystroke and its copies at any time.

use quinn::congestion::{Bbr, BbrConfig, Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

/// The window never falls below so many packets: BBR goes down to four, or to one after losses, and a lost packet
/// with a few copies behind it would wait for its repair with no room for the copies of the next.
const LEAST_PACKETS: u64 = 10;

/// Makes the controllers of new connections.
pub(super) struct FlooredBbr;

impl ControllerFactory for FlooredBbr {
    fn build(self: Arc<Self>, _now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Floored {
            bbr: Bbr::new(Arc::new(BbrConfig::default()), current_mtu),
            mtu: current_mtu.into(),
        })
    }
}

#[derive(Clone)]
struct Floored {
    bbr: Bbr,
    mtu: u64,
}

impl Controller for Floored {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.bbr.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.bbr.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_packet_num_acked: Option<u64>) {
        self.bbr
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.bbr
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.bbr.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.bbr.window().max(LEAST_PACKETS * self.mtu)
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.bbr.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.bbr.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn losses_leave_room_for_ten_packets() {
        let now = clock::now();
        let mut controller = Arc::new(FlooredBbr).build(now, 1200);
        let whole = controller.window();
        for packet in 0..200 {
            controller.on_sent(now, 1200, packet);
        }
        controller.on_congestion_event(now, now, true, 200 * 1200);
        controller.on_end_acks(now, 0, false, Some(199));
        assert!(
            (12_000..=whole).contains(&controller.window()),
            "{}",
            controller.window()
        );
        controller.on_mtu_update(1452);
        assert!(controller.window() >= 14_520);
    }
}
