//! The one loop that joins a local pipe, a session and its carriers.
//!
//! Both halves run it: `local pipe <-> Session <-> Carrier`. They differ in who produces carriers, which arrive
//! through a bounded channel, and in what the pipe is. Everything is polled by one task, without a lock and
//! without a queue between the steps: a step that cannot move is asked again when its waker says so.

mod attached;
mod budget;
mod carriers;
mod copies;
mod ending;
mod epochs;
mod facts;
mod hole;
mod late;
mod leads;
mod ledger;
mod memory;
mod parts;
mod pipe;
mod vigil;
mod vitals;

pub use budget::{Budget, Held};
pub use epochs::Epochs;
pub use facts::{Facts, Roster, Snapshot};
pub use ledger::{Ledger, Record};
pub use memory::session_memory;
pub use parts::{ARRIVALS, Arrival, ORDERS, Order, Outcome, PumpParts, STANDBYS};
pub use vigil::{Need, Vigil};
pub use vitals::{LeadVitals, Vitals};

use crate::carrier::{self, Carrier, CloseReason};
use crate::clock::{self, Timer};
use crate::session::Session;
use crate::wire::{CloseCode, Frame};
use budget::Share;
use carriers::Carriers;
use copies::Copies;
use ending::Ending;
use hole::{HoleWatch, Seen};
use late::LateWatch;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tracing::{debug, field, warn};
use vigil::Advice;
use vitals::{Hearing, Look};

/// Rounds of one poll before other tasks get their turn.
const ROUNDS: usize = 32;
/// Frames taken from the carriers in one round.
const FRAMES: usize = 64;
/// How far the lead's outbox is filled in one go: a full frame and its header.
const FILL: usize = crate::wire::MAX_DATA + 64;
/// Nobody waits longer, whatever a peer or a user says.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);
/// When to ask again for memory that was refused.
const BUDGET_RETRY: Duration = Duration::from_millis(50);

/// One running session.
pub struct Pump<R, W> {
    session: Session,
    input: Option<R>,
    output: Option<W>,
    pipe_closed: CloseCode,
    arrivals: mpsc::Receiver<Box<Arrival>>,
    standbys: mpsc::Receiver<Carrier>,
    epochs: Arc<Epochs>,
    orders: mpsc::Receiver<Order>,
    facts: Arc<Facts>,
    looks: mpsc::Receiver<Look>,
    hearing: Hearing,
    vigil: Option<Vigil>,
    hole: HoleWatch,
    late: LateWatch,
    patience: Duration,
    unconfirmed_patience: Duration,
    confirmed: bool,
    /// Since when a first frame of the peer is waited for.
    begun: Instant,
    share: Share,
    carriers: Carriers,
    copies: Copies,
    ending: Ending,
    alone_since: Instant,
    ledger: Option<Box<dyn Ledger>>,
    /// What the session had carried when that was looked at last.
    carried: u64,
    /// Since when it has carried nothing more.
    quiet_since: Instant,
    timer: Timer,
}

/// Whether a step moved something.
type Moved = bool;

impl<R, W> Pump<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// A pump for a session that begins, or that a predecessor left.
    pub fn new(parts: PumpParts<R, W>) -> Pump<R, W> {
        let session = parts.session;
        let mut share = Share::new(parts.budget);
        share.report(session.memory_held());
        Pump {
            input: (!session.is_input_ended()).then_some(parts.input),
            output: (!session.is_output_done()).then_some(parts.output),
            session,
            pipe_closed: parts.pipe_closed,
            arrivals: parts.arrivals,
            standbys: parts.standbys,
            epochs: parts.epochs,
            orders: parts.orders,
            looks: parts.facts.take_looks(),
            hearing: Hearing::new(clock::now()),
            facts: parts.facts,
            vigil: parts.vigil,
            hole: HoleWatch::default(),
            late: LateWatch::default(),
            // Far enough for any session, near enough to be added to any instant.
            patience: parts.patience.min(FOREVER),
            unconfirmed_patience: parts.unconfirmed_patience.min(FOREVER),
            confirmed: parts.confirmed,
            begun: parts.detached_since,
            share,
            carriers: Carriers::default(),
            copies: Copies::new(clock::now()),
            ending: Ending::new(parts.input_ends_itself),
            alone_since: parts.detached_since,
            ledger: parts.ledger,
            carried: 0,
            quiet_since: clock::now(),
            timer: Timer::new(),
        }
    }

    /// Runs the session to its end, and says goodbye to the peer.
    pub fn run(self) -> impl Future<Output = Outcome> {
        // A future keeps room for its arguments twice, and so does each that waits for it.
        Box::new(self).drive()
    }

    async fn drive(mut self: Box<Self>) -> Outcome {
        let outcome = poll_fn(|cx| self.poll(cx)).await;
        if outcome == Outcome::HandedOver {
            self.leave().await;
            return outcome;
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.handle_end(&outcome);
        }
        self.facts.handle_end();
        let reason = match &outcome {
            Outcome::Desync(error) => {
                warn!(event = "closed", %error, "session ended: the peer broke the protocol");
                self.say_close(CloseCode::Desync, &error.to_string());
                CloseReason::Protocol
            }
            Outcome::Ended(why) => {
                self.say_close(CloseCode::Ended, why);
                CloseReason::Done
            }
            _ => CloseReason::Done,
        };
        // The pipe learns of the end before the peer has confirmed it.
        drop((self.input.take(), self.output.take()));
        if !self.session.owes_last_words() {
            self.carriers.close(reason);
            carrier::flush_transport().await;
            return outcome;
        }
        let told = self.carriers.finish(reason).await;
        match outcome {
            // The peer may go on waiting for our last acknowledgement.
            Outcome::Finished if !told => Outcome::Unfinished,
            outcome => outcome,
        }
    }

    /// Says goodbye to the peer, not to the session.
    async fn leave(&mut self) {
        if let Some(lead) = self.carriers.lead() {
            Frame::Drain.encode(lead.outbox());
        }
        // What finds no room on the lead now is said by the close of it as well.
        poll_fn(|cx| Poll::Ready(self.carriers.poll_flush(cx))).await;
        std::mem::take(&mut self.carriers).close(CloseReason::ShuttingDown);
        carrier::flush_transport().await;
    }

    fn say_close(&mut self, code: CloseCode, message: &str) {
        if let Some(lead) = self.carriers.lead() {
            Frame::Close {
                code,
                message: message.into(),
            }
            .encode(lead.outbox());
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        for _ in 0..ROUNDS {
            let now = clock::now();
            match self.round(cx, now) {
                Err(outcome) => return Poll::Ready(outcome),
                Ok(true) => {}
                Ok(false) => {
                    let timeout = self.next_timeout(now);
                    self.timer.set(timeout);
                    if self.timer.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Every step once. `Err` is the end.
    fn round(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        let mut moved = self.take_orders(cx, now)?;
        moved |= self.take_arrivals(cx, now)?;
        moved |= self.take_standbys(cx, now)?;
        moved |= self.take_frames(cx, now)?;
        // The pipe is touched only when a successor would find its way from here: where the bytes go that are read,
        // and that its closing is deliberate.
        self.record();
        moved |= self.write_output(cx, now);
        moved |= self.read_input(cx);
        moved |= self.end_drain(now);
        self.keep_watch(cx, now)?;
        moved |= self.leave_hole(now)?;
        // Carriers are told only what a successor would stand by.
        self.record();
        moved |= self.feed_lead(cx, now)?;
        self.send_copies(now);
        self.check_end(now)?;
        self.give_memory_back(now);
        self.facts.update(&self.session);
        if let Some(roster) = self.carriers.new_roster() {
            self.facts.handle_roster(roster);
        }
        self.answer_looks(cx, now);
        Ok(moved)
    }

    fn take_orders(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        match self.orders.poll_recv(cx) {
            Poll::Ready(Some(Order::End(why))) => Err(Outcome::Ended(why)),
            Poll::Ready(Some(Order::HandOver)) => Err(Outcome::HandedOver),
            Poll::Ready(Some(Order::Lost(why))) if self.session.is_output_done() => {
                // The peer forgot a session whose end it had told us: it only missed our acknowledgement.
                debug!(why, "the peer forgot a session that had ended");
                Err(Outcome::Finished)
            }
            Poll::Ready(Some(Order::Lost(why))) => Err(Outcome::Lost(why)),
            Poll::Ready(Some(Order::HangUp)) => {
                self.ending.handle_hang_up(now);
                self.refuse_output();
                Ok(true)
            }
            Poll::Ready(None) | Poll::Pending => Ok(false),
        }
    }

    fn take_frames(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        let mut moved = false;
        for _ in 0..FRAMES {
            match self.carriers.poll_frame(cx, now) {
                Poll::Pending => break,
                Poll::Ready(carriers::News::LeadLost { by_peer }) => self.handle_lead_lost(by_peer, now)?,
                Poll::Ready(carriers::News::OtherLost) => {}
                Poll::Ready(carriers::News::Frame { heard, from }) => self.handle_heard(heard, from, now)?,
            }
            moved = true;
        }
        Ok(moved)
    }

    fn feed_lead(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        let Some(lead) = self.carriers.lead() else {
            return Ok(false);
        };
        let was_blocked = !lead.is_flushed();
        if !was_blocked {
            self.session.transmit(lead.outbox(), FILL, now);
        }
        let filled = !was_blocked && !lead.is_flushed();
        if let Some(vigil) = self.vigil.as_mut().filter(|_| filled) {
            vigil.handle_sent(lead, now, self.session.is_outstanding());
        }
        if filled && self.vigil.is_none() {
            self.late.handle_sent(lead, now);
        }
        if filled {
            self.copies.handle_sent(&self.session, &mut self.carriers, now);
        }
        if let carriers::Flushed::LeadLost { by_peer } = self.carriers.poll_flush(cx) {
            self.handle_lead_lost(by_peer, now)?;
            return Ok(true);
        }
        // An outbox that has just run empty may be filled again; nothing else would wake us for that.
        Ok((filled || was_blocked) && self.carriers.is_lead_flushed())
    }

    fn keep_watch(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Outcome> {
        let Some(vigil) = &mut self.vigil else { return Ok(()) };
        if vigil.poll_hints(cx, now) {
            self.carriers.doubt_standing(now);
        }
        if self.carriers.keep_warm(now) {
            vigil.handle_false_alarm(now);
        }
        let has_standby = self.carriers.has_standby();
        let outstanding = self.session.is_outstanding();
        let advice = vigil.poll(self.carriers.lead(), has_standby, now, outstanding);
        vigil.handle_waiting_input(self.session.replay_len(), now);
        if advice == Advice::Promote {
            self.promote(now)?;
        }
        Ok(())
    }

    fn leave_hole(&mut self, now: Instant) -> Result<Moved, Outcome> {
        let lead = self.carriers.lead().filter(|_| self.session.is_outstanding());
        let Some(lead) = lead else {
            self.hole.handle_lead();
            return Ok(false);
        };
        let reached = [self.session.delivered(), self.session.sent()];
        // The client half judges acknowledgements in its vigil.
        let seen = || Seen::of(lead, reached, self.vigil.is_none());
        if !self.hole.is_due(reached[0], now) || !self.hole.poll(seen(), now) {
            return Ok(false);
        }
        warn!(
            event = "undelivered",
            carrier = %lead.info().kind,
            remote = lead.info().remote.map(field::display),
            "the peer is heard, and nothing that is sent to it arrives: leaving this path"
        );
        self.hole.handle_lead();
        self.carriers.leave_lead(CloseReason::Undelivered);
        self.handle_lead_lost(false, now)?;
        Ok(true)
    }

    fn check_end(&mut self, now: Instant) -> Result<(), Outcome> {
        if self.session.is_finished() && self.carriers.is_lead_flushed() {
            return Err(match self.session.peer_close() {
                Some((code, message)) => Outcome::ClosedByPeer(code, message.clone()),
                None => Outcome::Finished,
            });
        }
        if self.ending.is_linger_over(now) {
            return Err(Outcome::Unfinished);
        }
        if self.carriers.lead().is_none() && now.saturating_duration_since(self.alone_since) >= self.patience {
            return Err(Outcome::Expired);
        }
        if !self.confirmed && now.saturating_duration_since(self.begun) >= self.unconfirmed_patience {
            return Err(Outcome::Unconfirmed(self.unconfirmed_patience));
        }
        Ok(())
    }

    fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        let expires = self.alone_since + self.patience;
        let unconfirmed = (!self.confirmed).then(|| self.begun + self.unconfirmed_patience);
        let lead = self.carriers.lead();
        let expiry = lead.is_none().then_some(expires);
        // While the outbox is blocked an ack cannot go out, and its time does not matter.
        let acks = lead
            .as_deref()
            .filter(|lead| lead.is_flushed())
            .and_then(|_| self.session.poll_timeout());
        let watch = self
            .vigil
            .as_ref()
            .and_then(|vigil| vigil.poll_timeout(lead.as_deref(), now));
        let warm = self.vigil.as_ref().and_then(|_| self.carriers.warm_timeout());
        let memory = (self.input.is_some() && self.share.is_refused()).then(|| now + BUDGET_RETRY);
        let faults = self.carriers.poll_timeout();
        let rest = self.memory_due();
        let copies = self.copies.poll_timeout();
        let hole = self.hole.poll_timeout();
        [
            expiry,
            unconfirmed,
            acks,
            watch,
            warm,
            copies,
            hole,
            memory,
            faults,
            rest,
            self.ending.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

#[cfg(test)]
mod tests;
