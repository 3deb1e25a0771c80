//! One path of a connection: what the core needs of its transport, and what it knows about it.

use super::redundancy::LossEstimator;
use super::standby::StandbyMonitor;
use crate::wire::{Epoch, Frame, Offset};
use bytes::{Bytes, BytesMut};
use std::time::{Duration, Instant};

/// Assumed round-trip time of a path that has not measured it.
pub const UNKNOWN_RTT: Duration = Duration::from_millis(100);

/// The transport of one path: counters, and queues that the driver flushes. No method blocks.
pub trait PathTransport {
    /// Smoothed round-trip time; `None` while unknown.
    fn rtt(&self) -> Option<Duration>;

    /// Counts packets from the peer, or only frames if the transport cannot see packets from end to end.
    fn received(&self) -> u64;

    /// Whether [`PathTransport::received`] also counts acknowledgements by the peer's transport.
    fn counts_acks(&self) -> bool;

    /// Changes with every acknowledgement by the peer's transport; `None` if the transport does not show them.
    fn ack_mark(&self) -> Option<u64>;

    /// Counts how often the peer saw our address change.
    fn rebindings(&self) -> u64;

    /// Packets sent and packets lost; `None` if unknown.
    fn losses(&self) -> Option<(u64, u64)>;

    /// Whether the transport knows that large packets are not delivered.
    fn is_black_hole(&self) -> bool;

    /// The queue of frames in order.
    fn outbox(&mut self) -> &mut BytesMut;

    /// Sends a small frame before everything queued, if possible. It may get lost.
    fn send_now(&mut self, frame: &Frame);

    /// Sends something that changes [`PathTransport::answer_mark`] if the peer receives it.
    fn send_keepalive(&mut self, token: u64);

    /// Sends a copy of bytes of an ordered stream. It may get lost.
    fn send_copy(&mut self, copy: Bytes);

    /// Closes the path.
    fn close(&mut self, reason: PathClose);

    /// Changes when the peer has shown that it receives us.
    fn answer_mark(&self) -> u64 {
        self.ack_mark().unwrap_or_else(|| self.received())
    }
}

/// Why the core closes a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathClose {
    /// Another path is used instead.
    Replaced,
    /// A standby carrier did not answer.
    Unresponsive,
    /// Packets from the peer arrive, but nothing sent to it is delivered.
    Undelivered,
    /// It is lost already.
    Lost,
}

/// A path that frames are read from.
pub(super) struct PathState<T> {
    pub(super) transport: T,
    /// Its latest epoch as lead; `None` if it never led.
    pub(super) epoch: Option<Epoch>,
    /// A frame arrived on it since it became the lead.
    pub(super) delivered: bool,
    /// Everything before this position was sent on it, or had been received before it came.
    pub(super) reached: Offset,
    pub(super) loss: LossEstimator,
    /// It is a standby carrier.
    pub(super) is_standby: bool,
    pub(super) standby_monitor: StandbyMonitor,
    /// [`PathTransport::answer_mark`] at the last check.
    pub(super) answer_mark: u64,
    /// When it was suspected and replaced as lead; `None` once it answers.
    pub(super) suspected_at: Option<Instant>,
}

impl<T: PathTransport> PathState<T> {
    pub(super) fn new(transport: T, now: Instant) -> PathState<T> {
        PathState {
            answer_mark: transport.answer_mark(),
            transport,
            epoch: None,
            delivered: false,
            reached: Offset::ZERO,
            loss: LossEstimator::default(),
            is_standby: false,
            standby_monitor: StandbyMonitor::new(now),
            suspected_at: None,
        }
    }

    pub(super) fn rtt(&self) -> Duration {
        self.transport.rtt().unwrap_or(UNKNOWN_RTT)
    }

    /// A former lead becomes a standby carrier and is probed at once.
    pub(super) fn become_standby(&mut self, suspected: bool, now: Instant) {
        self.is_standby = true;
        self.answer_mark = self.transport.answer_mark();
        self.suspected_at = suspected.then_some(now);
        self.standby_monitor = StandbyMonitor::new(now);
        self.standby_monitor.handle_doubt(now);
    }

    /// Checks whether the peer has answered. Returns when the path was suspected, if this answer refutes the suspicion.
    pub(super) fn check_answer(&mut self, now: Instant) -> Option<Instant> {
        let mark = self.transport.answer_mark();
        if mark == self.answer_mark {
            return None;
        }
        self.answer_mark = mark;
        self.standby_monitor.handle_heard(now);
        self.suspected_at.take()
    }
}
