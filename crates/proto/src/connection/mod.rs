//! The connection: one session over changing paths, without I/O and without a clock.
//!
//! A [`Connection`] decides which path leads, when it is suspected, when a standby carrier is promoted, when to dial, and
//! which bytes are copied. The driver owns the pipe and the sockets. It passes everything that happens to a `handle_*`
//! method, then drains [`Connection::poll_event`], publishes [`Connection::dial_request`], and flushes the transports.
//! [`Connection::transmit`] fills the lead's outbox; [`Connection::poll_timeout`] says when to call
//! [`Connection::handle_timeout`] next. Both halves use it alike; only the client half monitors and dials. Its
//! dialers are driven by [`Redial`], which says when to dial and when to resume, and [`StandbySchedule`].

mod dial_race;
mod path;
mod path_monitor;
mod path_upgrade;
mod paths;
mod redial;
mod redundancy;
mod standby;
mod undelivered;

pub use dial_race::{DIAL_TIMEOUT, DialProgress, RESUME_TIMEOUT, opening_order};
pub use path::{PathClose, PathTransport, UNKNOWN_RTT};
pub use path_monitor::DialRequest;
pub use paths::{Epochs, PathIndex, Paths};
pub use redial::{Redial, RedialAction, Resumed};
pub use redundancy::MAX_COPY;
pub use standby::{STANDBY_TIMEOUT, StandbySchedule};

use crate::session::{Session, SessionError};
use crate::wire::{Epoch, Frame, Offset};
use bytes::{Bytes, BytesMut};
use path_monitor::{Action, PathMonitor};
use redundancy::Redundancy;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use undelivered::{BlackHoleDetector, LateAckDetector, LeadSample};

/// Which half a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It monitors the lead, promotes standby carriers and dials.
    Client,
    /// It follows the client half.
    Server,
}

/// How a connection begins.
pub struct ConnectionConfig {
    /// Which half it belongs to.
    pub role: Role,
    /// Shared with everything that makes carriers the lead.
    pub epochs: Arc<Epochs>,
    /// Since when there has been no lead; now for a new session.
    pub detached_since: Instant,
    /// Whether a frame has come from the peer, to this process or a predecessor.
    pub confirmed: bool,
    /// Longest time without a lead.
    pub detach_timeout: Duration,
    /// Longest time until the first frame from the peer, with a lead or without one: the peer may have died before it learned
    /// that the session exists, and its path is taken for alive for a while if it is silent.
    pub unconfirmed_timeout: Duration,
}

/// What the peer said when a path was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// The path's epoch as lead.
    pub epoch: Epoch,
    /// First position that the peer has not received.
    pub received: Offset,
    /// The peer's receive window beyond that.
    pub window: u64,
}

/// What a connection has decided, for logs and statistics. The driver drains events after each call: they describe the lead as
/// it is then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Another path leads.
    LeadChanged {
        /// Its epoch.
        epoch: Epoch,
        /// How many bytes are sent again.
        replayed_bytes: u64,
        /// Since when the previous lead was silent, if it was suspected.
        silent_since: Option<Instant>,
        /// Whether the peer itself has asked for it or accepted it just now.
        by_peer: bool,
    },
    /// A former lead leads again.
    FellBack {
        /// Its epoch.
        epoch: Epoch,
    },
    /// There is no lead any more.
    LeadLost,
    /// The lead is silent.
    Suspected {
        /// Its round-trip time.
        rtt: Duration,
        /// Whether a standby carrier is promoted; otherwise a dial is requested.
        has_standby: bool,
    },
    /// The previous lead answers: it was suspected wrongly.
    FalseAlarm,
    /// A path or a `RESUME` came with an epoch that is not the highest.
    StaleEpoch {
        /// Its epoch.
        epoch: Epoch,
    },
}

/// One session over changing paths.
pub struct Connection<T> {
    session: Session,
    paths: Paths<T>,
    /// `None` on the server half.
    monitor: Option<PathMonitor>,
    epochs: Arc<Epochs>,
    redundancy: Redundancy,
    black_hole: BlackHoleDetector,
    late_ack: LateAckDetector,
    confirmed: bool,
    /// Since when it waits for a first frame from the peer.
    begun: Instant,
    detached_since: Instant,
    detach_timeout: Duration,
    unconfirmed_timeout: Duration,
    events: VecDeque<Event>,
}

impl<T: PathTransport> Connection<T> {
    /// A connection for a new or restored session.
    pub fn new(session: Session, config: ConnectionConfig, now: Instant) -> Connection<T> {
        Connection {
            session,
            paths: Paths::default(),
            monitor: (config.role == Role::Client).then(|| PathMonitor::new(now)),
            epochs: config.epochs,
            redundancy: Redundancy::new(now),
            black_hole: BlackHoleDetector::default(),
            late_ack: LateAckDetector::default(),
            confirmed: config.confirmed,
            begun: config.detached_since,
            detached_since: config.detached_since,
            detach_timeout: config.detach_timeout,
            unconfirmed_timeout: config.unconfirmed_timeout,
            events: VecDeque::new(),
        }
    }

    // Getters.

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The session, for reading from and writing to the pipe.
    pub fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// The paths.
    pub fn paths(&self) -> &Paths<T> {
        &self.paths
    }

    /// The paths, for reading frames and flushing.
    pub fn paths_mut(&mut self) -> &mut Paths<T> {
        &mut self.paths
    }

    /// Ends the connection and returns its paths, for closing them.
    pub fn take_paths(&mut self) -> Paths<T> {
        std::mem::take(&mut self.paths)
    }

    /// Whether a frame has come from the peer.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Since when there has been no lead; `None` while there is one.
    pub fn detached_since(&self) -> Option<Instant> {
        self.paths.lead().is_none().then_some(self.detached_since)
    }

    /// Whether the lead is suspected. Always false on the server half.
    pub fn is_suspect(&self) -> bool {
        self.silent_since().is_some()
    }

    /// What the dialer should do. Always [`DialRequest::None`] on the server half.
    pub fn dial_request(&self) -> DialRequest {
        self.monitor.as_ref().map_or(DialRequest::None, PathMonitor::request)
    }

    /// The longest keepalive interval that the lead's path is known to tolerate; `None` on the server half.
    pub fn max_keepalive_interval(&self) -> Option<Duration> {
        self.monitor.as_ref().map(PathMonitor::max_keepalive_interval)
    }

    /// Whether there has been no lead for too long.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires().is_some_and(|at| at <= now)
    }

    /// The longest time until the first frame from the peer, if it has passed without one.
    pub fn unconfirmed_for(&self, now: Instant) -> Option<Duration> {
        let is_over = self.confirmation_due().is_some_and(|at| at <= now);
        is_over.then_some(self.unconfirmed_timeout)
    }

    // What happened.

    /// A path was accepted and becomes the lead. `first`: the first bytes of the stream, if the hello had some.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_path(
        &mut self,
        mut transport: T,
        accepted: Accepted,
        first: Bytes,
        now: Instant,
    ) -> Result<(), SessionError> {
        let Accepted {
            epoch,
            received,
            window,
        } = accepted;
        self.paths.set_reached(self.session.lead_position());
        let Some(replayed) = self.session.attach(epoch, received, window)? else {
            self.events.push_back(Event::StaleEpoch { epoch });
            transport.close(PathClose::Replaced);
            return Ok(());
        };
        if !first.is_empty() {
            // Sent with the hello: this does not confirm that the peer has the session or receives our frames.
            let (offset, bytes) = (Offset::ZERO, first);
            self.session.handle_frame(Frame::Data { offset, bytes })?;
        }
        self.paths.add(transport, epoch, received, now);
        self.handle_lead_changed(epoch, replayed, true);
        if let Some(monitor) = &mut self.monitor {
            monitor.handle_attached(now);
        }
        Ok(())
    }

    /// A standby carrier was accepted. If there is no lead, it is promoted at once.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_standby(&mut self, transport: T, now: Instant) -> Result<(), SessionError> {
        self.paths.add_standby(transport, now);
        if self.monitor.is_some() && self.paths.lead().is_none() {
            self.promote(now)?;
        }
        Ok(())
    }

    /// A frame arrived. `is_copy`: as a datagram, beside the ordered stream.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_frame(
        &mut self,
        from: PathIndex,
        frame: Frame,
        is_copy: bool,
        now: Instant,
    ) -> Result<(), SessionError> {
        self.confirmed = true;
        if let Frame::Ping { token } = frame {
            if let Some(path) = self.paths.get_mut(from) {
                path.send_now(&Frame::Pong { token });
            }
        } else if from == PathIndex::Lead {
            self.paths.handle_delivered();
        }
        if from == PathIndex::Lead {
            self.ping_if_ack_is_late(now);
            if let Some(monitor) = &mut self.monitor {
                monitor.handle_frame(&frame, now);
            }
        }
        match frame {
            Frame::Resume {
                epoch,
                received,
                window,
            } => {
                let resumed = Accepted {
                    epoch,
                    received,
                    window,
                };
                self.handle_resume(from, resumed, now)
            }
            frame if is_copy => self.session.handle_copy(frame),
            frame => self.session.handle_frame(frame),
        }
    }

    /// A path is lost. `peer_reachable`: the peer's host itself closed it.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_path_closed(
        &mut self,
        index: PathIndex,
        peer_reachable: bool,
        now: Instant,
    ) -> Result<(), SessionError> {
        self.paths.remove(index, PathClose::Lost);
        match index {
            PathIndex::Lead => self.handle_lead_lost(peer_reachable, now),
            PathIndex::Other(_) => Ok(()),
        }
    }

    /// The network changed or the machine woke up.
    pub fn handle_network_change(&mut self, now: Instant) {
        if let Some(monitor) = &mut self.monitor {
            monitor.handle_network_change(now);
            self.paths.probe_standbys(now);
        }
    }

    /// Does what is due: probes, suspicion, promotion, and leaving a lead that delivers nothing. Returns whether the lead
    /// was left.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<bool, SessionError> {
        self.monitor_paths(now)?;
        self.leave_black_hole(now)
    }

    // What to do.

    /// Appends frames to the lead's outbox until it holds `fill` bytes or there is nothing to send now. Returns whether it
    /// appended any. The outbox must be empty.
    pub fn transmit(&mut self, fill: usize, now: Instant) -> bool {
        let Some(lead) = self.paths.lead_mut() else {
            return false;
        };
        self.session.transmit(lead.outbox(), fill, now);
        if lead.outbox().is_empty() {
            return false;
        }
        match &mut self.monitor {
            Some(monitor) => monitor.handle_sent(lead, now, self.session.is_outstanding()),
            None => self.late_ack.handle_sent(lead, now),
        }
        self.redundancy.handle_sent(&self.session, &mut self.paths, now);
        true
    }

    /// Sends the copies that are due. To be called after [`Connection::transmit`].
    pub fn send_copies(&mut self, now: Instant) {
        self.redundancy.handle_timeout(&self.session, &mut self.paths, now);
    }

    /// Promotes the best standby carrier and sends `RESUME` on it. Everything after the last ack is sent again behind the
    /// `RESUME`. Returns whether there was a standby carrier. For the client half.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn promote(&mut self, now: Instant) -> Result<bool, SessionError> {
        let Some(place) = self.paths.best_standby() else {
            return Ok(false);
        };
        let epoch = self.epochs.next();
        self.paths.set_reached(self.session.lead_position());
        // Nothing new is known about what the peer has received.
        let Some(replayed) = self.session.attach(epoch, Offset::ZERO, 0)? else {
            return Ok(false);
        };
        let suspected = self.paths.lead().is_some();
        self.paths.promote(place, epoch, suspected, now);
        self.handle_lead_changed(epoch, replayed, false);
        let resume = Frame::Resume {
            epoch,
            received: self.session.received(),
            window: self.session.window(),
        };
        if let Some(lead) = self.paths.lead_mut() {
            resume.encode(lead.outbox());
            // A copy as a datagram: it may arrive before the stream does.
            let mut copy = BytesMut::new();
            resume.encode(&mut copy);
            lead.send_copy(copy.freeze());
            if let Some(monitor) = &mut self.monitor {
                monitor.handle_promoted(lead, now);
            }
        }
        Ok(true)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When something is due without further input. `is_flushed`: the lead's outbox is empty; while it is not, an ack cannot
    /// be sent, so its deadline does not matter.
    pub fn poll_timeout(&self, is_flushed: bool, now: Instant) -> Option<Instant> {
        let lead = self.paths.lead();
        let ack = lead.filter(|_| is_flushed).and_then(|_| self.session.poll_timeout());
        let monitor = self.monitor.as_ref();
        [
            self.expires(),
            self.confirmation_due(),
            ack,
            monitor.and_then(|monitor| monitor.poll_timeout(lead, now)),
            monitor.and_then(|_| self.paths.poll_timeout()),
            self.redundancy.poll_timeout(),
            self.black_hole.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // Decisions.

    fn monitor_paths(&mut self, now: Instant) -> Result<(), SessionError> {
        let Some(monitor) = &mut self.monitor else {
            return Ok(());
        };
        if self.paths.handle_timeout(now) {
            monitor.handle_false_alarm(now);
            self.events.push_back(Event::FalseAlarm);
        }
        let has_standby = self.paths.has_healthy_standby();
        let outstanding = self.session.is_outstanding();
        let action = monitor.poll(self.paths.lead(), has_standby, now, outstanding);
        monitor.handle_waiting_input(self.session.replay_len(), now);
        let Some(lead) = self.paths.lead_mut() else {
            return Ok(());
        };
        match action {
            Action::Keep => {}
            Action::Probe(token) => lead.send_now(&Frame::Ping { token }),
            Action::Keepalive(token) => lead.send_keepalive(token),
            Action::Suspect => {
                let rtt = lead.rtt().unwrap_or(UNKNOWN_RTT);
                self.events.push_back(Event::Suspected { rtt, has_standby });
                if has_standby {
                    self.promote(now)?;
                }
            }
        }
        Ok(())
    }

    fn leave_black_hole(&mut self, now: Instant) -> Result<bool, SessionError> {
        let lead = self.paths.lead().filter(|_| self.session.is_outstanding());
        let Some(lead) = lead else {
            self.black_hole.handle_lead();
            return Ok(false);
        };
        let reached = [self.session.delivered(), self.session.sent()];
        if !self.black_hole.is_due(reached[0], now) {
            return Ok(false);
        }
        // On the client half the path monitor evaluates acknowledgements.
        let sample = LeadSample::of(lead, reached, self.monitor.is_none());
        if !self.black_hole.poll(sample, now) {
            return Ok(false);
        }
        self.paths.remove(PathIndex::Lead, PathClose::Undelivered);
        self.handle_lead_lost(false, now)?;
        Ok(true)
    }

    /// Server half only: if an ack is overdue, a NAT may have dropped its mapping for the peer. A `PING` makes the transport
    /// detect the loss at once, and tells the peer that its keepalive interval was too long.
    fn ping_if_ack_is_late(&mut self, now: Instant) {
        let is_client = self.monitor.is_some();
        let Some(lead) = self.paths.lead_mut().filter(|_| !is_client) else {
            return;
        };
        if self.late_ack.handle_heard(lead, now) {
            lead.send_now(&Frame::Ping { token: 0 });
        }
    }

    /// The client half has promoted another carrier, and already sends on it.
    fn handle_resume(&mut self, from: PathIndex, resumed: Accepted, now: Instant) -> Result<(), SessionError> {
        let Accepted {
            epoch,
            received,
            window,
        } = resumed;
        if self.monitor.is_some() || !self.epochs.take(epoch) {
            self.events.push_back(Event::StaleEpoch { epoch });
            return Ok(());
        }
        self.paths.set_reached(self.session.lead_position());
        let Some(replayed) = self.session.attach(epoch, received, window)? else {
            return Ok(());
        };
        match from {
            PathIndex::Lead => self.paths.renew_lead(epoch),
            PathIndex::Other(place) => self.paths.promote(place, epoch, false, now),
        }
        self.handle_lead_changed(epoch, replayed, true);
        Ok(())
    }

    fn handle_lead_changed(&mut self, epoch: Epoch, replayed_bytes: u64, by_peer: bool) {
        self.black_hole.handle_lead();
        self.late_ack.handle_lead();
        let silent_since = self.silent_since();
        self.events.push_back(Event::LeadChanged {
            epoch,
            replayed_bytes,
            silent_since,
            by_peer,
        });
    }

    fn handle_lead_lost(&mut self, peer_reachable: bool, now: Instant) -> Result<(), SessionError> {
        self.session.detach();
        self.black_hole.handle_lead();
        self.late_ack.handle_lead();
        if self.fall_back()? || (self.monitor.is_some() && self.promote(now)?) {
            return Ok(());
        }
        self.detached_since = now;
        self.events.push_back(Event::LeadLost);
        if let Some(monitor) = &mut self.monitor {
            monitor.handle_lost(peer_reachable, now, self.session.is_outstanding());
        }
        Ok(())
    }

    /// Server half only: continues on an older path. The client half may have cancelled its dial race after this half had
    /// switched to the newer path, and would not learn that the newer one is gone. The client half redials instead.
    fn fall_back(&mut self) -> Result<bool, SessionError> {
        if self.monitor.is_some() {
            return Ok(false);
        }
        let Some((epoch, reached)) = self.paths.fall_back() else {
            return Ok(false);
        };
        self.session.fall_back(reached)?;
        self.events.push_back(Event::FellBack { epoch });
        Ok(true)
    }

    fn silent_since(&self) -> Option<Instant> {
        self.monitor.as_ref().and_then(PathMonitor::suspected_since)
    }

    fn expires(&self) -> Option<Instant> {
        let since = self.detached_since()?;
        since.checked_add(self.detach_timeout)
    }

    /// When the peer must have sent a frame; `None` if it has, or if it may take for ever.
    fn confirmation_due(&self) -> Option<Instant> {
        let due = || self.begun.checked_add(self.unconfirmed_timeout);
        if self.confirmed { None } else { due() }
    }
}
