//! QUIC congestion control: a window computed by the model of BBR, with room for a keystroke and
//! its copies at any time.
//!
//! quinn paces by window and RTT only. Its own BBR relies on pacing by rate: its window is twice
//! the bandwidth-delay product, so that without that pacing it fills queues, and every loss shrinks
//! the window. This controller limits what is in flight to the bandwidth-delay product.

mod bbr;
mod black_hole;
mod delivery_rate;
#[cfg(test)]
mod tests;

use super::gso;
use bbr::Bbr;
use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;
use tracing::info;

/// The peer may leave this many packets unacknowledged for up to its max_ack_delay of 25 ms; RFC
/// 9000 recommends one.
pub(super) const UNACKED_PACKETS: u32 = 10;

/// Creates the controllers of new connections.
pub(super) struct BbrFactory;

impl ControllerFactory for BbrFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Bbr::new(now, current_mtu))
    }
}

/// Whether only small packets of this end arrive at the peer.
pub(crate) fn is_black_hole(connection: &quinn::Connection) -> bool {
    let controller = connection.congestion_state().into_any().downcast::<Bbr>();
    controller.is_ok_and(|bbr| bbr.is_black_hole())
}

impl Controller for Bbr {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        gso::set_allowed(bytes, self.handle_sent(now, bytes));
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.handle_ack(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest_acked: Option<u64>) {
        let sent_joined = !self.is_gso_disabled();
        self.handle_acks_end(now, in_flight, app_limited);
        if sent_joined && self.is_gso_disabled() {
            info!(
                event = "gso_disabled",
                "batched packets (GSO) do not arrive on this path: sending each packet by itself"
            );
        }
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.handle_loss(lost_bytes, is_persistent_congestion);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.set_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        bbr::INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
