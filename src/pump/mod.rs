//! The loop that connects a local pipe, a session and its carriers: `local pipe <-> Session <-> Carrier`.
//!
//! Both halves run it. They differ in what the pipe is and in who produces carriers. One task polls everything, without
//! locks and without queues between the steps: a step that cannot make progress is polled again when its waker fires.
//!
//! Four channels connect it with the rest of the process: [`PathEvent`]s into it (carriers, network changes),
//! [`SessionCommand`]s of the session's owner, [`ActivePaths`] out of it with what the dialers should do, and requests for
//! [`LiveStats`].

mod carriers;
mod live_stats;
mod memory;
mod parts;
mod pipe;
mod session_stats;

pub use crate::connection::{Accepted, DialRequest, Epochs, Role};
pub use live_stats::{LeadStats, LiveStats};
pub use memory::{Budget, Reservation, session_memory};
pub use parts::{Checkpoint, CheckpointStore};
pub use parts::{MAX_COMMANDS, MAX_PATH_EVENTS, NewLead, Outcome, PathEvent, PumpParts, SessionCommand};
pub use session_stats::{ActivePaths, OutageStats, Progress, SessionStats};

use crate::carrier::{self, CloseReason};
use crate::clock::{self, Timer};
use crate::connection::{Connection, ConnectionConfig};
use crate::wire::{CloseCode, Frame};
use carriers::CarrierPath;
use live_stats::{LastHeard, StatsRequest};
use memory::BudgetShare;
use pipe::Shutdown;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tracing::warn;

/// Rounds per poll before the task yields.
const ROUNDS: usize = 32;
/// Most frames read from the carriers in one round.
const FRAMES: usize = 64;
/// How far the lead's outbox is filled at a time: one full frame with its header.
const FILL: usize = crate::wire::MAX_DATA + 64;
/// Upper bound of timeouts from a peer or a user. Small enough to be added to any instant.
const MAX_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Delay before asking again for memory that was refused.
const BUDGET_RETRY_DELAY: Duration = Duration::from_millis(50);

/// One running session.
pub struct Pump<R, W> {
    connection: Connection<CarrierPath>,
    input: Option<R>,
    output: Option<W>,
    pipe_closed: CloseCode,
    path_events: mpsc::Receiver<PathEvent>,
    commands: mpsc::Receiver<SessionCommand>,
    stats: Arc<SessionStats>,
    stats_requests: mpsc::Receiver<StatsRequest>,
    last_heard: LastHeard,
    /// The dial request that was published last.
    published: DialRequest,
    share: BudgetShare,
    /// The peer closed a carrier because it had finished the session, so it waits for nothing more.
    is_peer_done: bool,
    shutdown: Shutdown,
    checkpoints: Option<Box<dyn CheckpointStore>>,
    /// [`Session::transferred`] at the last check.
    transferred: u64,
    /// Since when it has transferred nothing.
    quiet_since: Instant,
    timer: Timer,
}

/// Whether a step made progress.
type Moved = bool;

impl<R, W> Pump<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// A pump for a new or restored session.
    pub fn new(parts: PumpParts<R, W>) -> Pump<R, W> {
        let (session, now) = (parts.session, clock::now());
        let mut share = BudgetShare::new(parts.budget);
        share.report(session.memory_held());
        let config = ConnectionConfig {
            role: parts.role,
            epochs: parts.epochs,
            detached_since: parts.detached_since,
            confirmed: parts.confirmed,
            detach_timeout: parts.detach_timeout.min(MAX_TIMEOUT),
            unconfirmed_timeout: parts.unconfirmed_timeout,
        };
        Pump {
            input: (!session.is_input_ended()).then_some(parts.input),
            output: (!session.is_output_done()).then_some(parts.output),
            connection: Connection::new(session, config, now),
            pipe_closed: parts.pipe_closed,
            path_events: parts.path_events,
            commands: parts.commands,
            stats_requests: parts.stats.take_stats_requests(),
            last_heard: LastHeard::new(now),
            stats: parts.stats,
            published: DialRequest::None,
            share,
            is_peer_done: false,
            shutdown: Shutdown::new(parts.input_ends_itself),
            checkpoints: parts.checkpoints,
            transferred: 0,
            quiet_since: now,
            timer: Timer::new(),
        }
    }

    /// Runs the session to its end and closes its carriers.
    pub fn run(self) -> impl Future<Output = Outcome> {
        // Boxed because a future stores its arguments twice, and so does each future that awaits it.
        Box::new(self).drive()
    }

    async fn drive(mut self: Box<Self>) -> Outcome {
        let outcome = poll_fn(|cx| self.poll(cx)).await;
        if outcome == Outcome::HandedOver {
            self.leave().await;
            return outcome;
        }
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.handle_end(&outcome);
        }
        self.stats.handle_end();
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
        let paths = self.connection.take_paths();
        if !self.connection.session().owes_last_ack() {
            carriers::close(paths, reason);
            carrier::flush_transport().await;
            return outcome;
        }
        let told = carriers::finish(paths, reason).await.unwrap_or(self.is_peer_done);
        match outcome {
            // The peer may go on waiting for our last acknowledgement.
            Outcome::Finished if !told => Outcome::Unfinished,
            outcome => outcome,
        }
    }

    /// Tells the peer that this process stops, without ending the session.
    async fn leave(&mut self) {
        let mut paths = self.connection.take_paths();
        if let Some(lead) = paths.lead_mut() {
            Frame::Drain.encode(lead.carrier.outbox());
        }
        // If this does not fit into the lead's buffers now, its close reason says the same.
        poll_fn(|cx| {
            for path in paths.iter_mut() {
                // An error means that the carrier is lost already.
                let _ = path.carrier.poll_flush(cx);
            }
            Poll::Ready(())
        })
        .await;
        carriers::close(paths, CloseReason::ShuttingDown);
        carrier::flush_transport().await;
    }

    fn say_close(&mut self, code: CloseCode, message: &str) {
        if let Some(lead) = self.connection.paths_mut().lead_mut() {
            Frame::Close {
                code,
                message: message.into(),
            }
            .encode(lead.carrier.outbox());
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

    /// Runs every step once. `Err` ends the session.
    fn round(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        let mut moved = self.take_orders(cx, now)?;
        moved |= self.take_path_event(cx, now)?;
        moved |= self.take_frames(cx, now)?;
        // Before the pipe is touched: a successor must know where in the ring the bytes go that are read, and that closing
        // the pipe is intended.
        self.save_checkpoint();
        moved |= self.write_output(cx, now);
        moved |= self.read_input(cx);
        moved |= self.end_drain(now);
        moved |= self.monitor_paths(now)?;
        // Before anything is sent: a successor must know what the peer was told.
        self.save_checkpoint();
        moved |= self.feed_lead(cx, now)?;
        self.connection.send_copies(now);
        self.check_end(now)?;
        self.give_memory_back(now);
        self.stats.update(self.connection.session());
        self.publish_paths();
        self.answer_stats_requests(cx, now);
        Ok(moved)
    }

    fn take_orders(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        match self.commands.poll_recv(cx) {
            Poll::Ready(Some(SessionCommand::End(why))) => Err(Outcome::Ended(why)),
            Poll::Ready(Some(SessionCommand::HandOver)) => Err(Outcome::HandedOver),
            Poll::Ready(Some(SessionCommand::HangUp)) => {
                self.shutdown.handle_hang_up(now);
                self.refuse_output();
                Ok(true)
            }
            Poll::Ready(None) | Poll::Pending => Ok(false),
        }
    }

    fn feed_lead(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Moved, Outcome> {
        if self.connection.paths().lead().is_none() {
            return Ok(false);
        }
        let was_blocked = !self.is_lead_flushed();
        let filled = !was_blocked && self.connection.transmit(FILL, now);
        if self.flush(cx, now)? {
            return Ok(true);
        }
        // An outbox that has just become empty may be filled again, and no waker would tell us.
        Ok((filled || was_blocked) && self.is_lead_flushed())
    }

    fn monitor_paths(&mut self, now: Instant) -> Result<Moved, Outcome> {
        let moved = self.connection.handle_timeout(now).map_err(Outcome::Desync)?;
        self.handle_events(now);
        Ok(moved)
    }

    fn check_end(&mut self, now: Instant) -> Result<(), Outcome> {
        let session = self.connection.session();
        if session.is_finished() && self.is_lead_flushed() {
            return Err(match session.peer_close() {
                Some((code, message)) => Outcome::ClosedByPeer(code, message.clone()),
                None => Outcome::Finished,
            });
        }
        if self.shutdown.is_linger_over(now) {
            return Err(Outcome::Unfinished);
        }
        if self.connection.is_expired(now) {
            return Err(Outcome::Expired);
        }
        if let Some(timeout) = self.connection.unconfirmed_for(now) {
            return Err(Outcome::Unconfirmed(timeout));
        }
        Ok(())
    }

    fn next_timeout(&mut self, now: Instant) -> Option<Instant> {
        let is_flushed = self.is_lead_flushed();
        let memory = (self.input.is_some() && self.share.is_refused()).then(|| now + BUDGET_RETRY_DELAY);
        [
            self.connection.poll_timeout(is_flushed, now),
            memory,
            self.memory_due(),
            self.fault_timeout(),
            self.shutdown.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

#[cfg(test)]
mod tests;
