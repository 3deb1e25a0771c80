//! QUIC's congestion controller: a window after the model of BBR, with room for a keystroke and its copies at any time.
//!
//! quinn paces by the window and the round trip alone, and its own BBR counts on pacing by rate: its window is twice what
//! the path holds, so that it fills queues, and each loss narrows it. This one lets as much be in flight as the path holds.

mod arrivals;
mod model;
mod rate;
#[cfg(test)]
mod tests;

use super::departure;
use model::Model;
use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;
use tracing::info;

/// Packets that the peer may leave unacknowledged until its delay (25 ms) is over; QUIC itself says one.
pub(super) const UNACKED_PACKETS: u32 = 10;

/// Makes the controllers of new connections.
pub(super) struct Modelled;

impl ControllerFactory for Modelled {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Model::new(now, current_mtu))
    }
}

/// Whether nothing but small packets arrives of what this end sends.
pub(in crate::carrier) fn is_hole(connection: &quinn::Connection) -> bool {
    let controller = connection.congestion_state().into_any().downcast::<Model>();
    controller.is_ok_and(|model| model.is_hole())
}

impl Controller for Model {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        departure::announce(bytes, self.handle_sent(now, bytes));
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.handle_ack(now, sent, bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest_acked: Option<u64>) {
        let sent_joined = !self.sends_singly();
        self.handle_acks_end(now, in_flight, app_limited);
        if sent_joined && self.sends_singly() {
            info!(
                event = "singly",
                "packets that leave joined do not arrive on a path: sending each alone"
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
        model::INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
