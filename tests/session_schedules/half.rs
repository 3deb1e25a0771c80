//! One half: a session core, the pipe beside it, and what a driver keeps about carriers.

use crate::chance::{Chance, bytes_of};
use crate::memory_store::{MemoryStore, nothing};
use bowline::session::{MOST_COPIED, PipeCounts, Session, SessionConfig, SessionMemory, Snapshot};
use bowline::wire::{CloseCode, Epoch, Frame, Offset};
use bytes::BytesMut;
use std::fmt;
use std::time::Instant;

/// How far a driver fills a lead's outbox in one go.
const FILL: usize = 64 * 1024 + 64;

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

/// Frames remembered for being heard again.
const ECHOES: usize = 8;

/// A carrier that frames are read from.
pub(crate) struct Attached {
    pub(crate) carrier: usize,
    pub(crate) epoch: Epoch,
    delivered: bool,
    /// What was sent on it while it led.
    reached: Offset,
}

/// A carrier on its way to the driver.
pub(crate) struct Arrival {
    pub(crate) carrier: usize,
    pub(crate) epoch: Epoch,
    pub(crate) received: Offset,
    pub(crate) window: u64,
}

pub(crate) struct Half {
    me: usize,
    pub(crate) session: Session,
    config: SessionConfig,
    /// Bytes that the pipe will give, and has given.
    plan: usize,
    written: usize,
    /// The driver has seen the pipe's end.
    input_ended: bool,
    /// The pipe is broken, whether the driver knows or not.
    pub(crate) closed: bool,
    /// What the pipe has taken.
    delivered: usize,
    end_delivered: bool,
    /// By epoch; the last leads while `has_lead`.
    pub(crate) attached: Vec<Attached>,
    has_lead: bool,
    pub(crate) arrivals: Vec<Arrival>,
    /// What others see of the session, a moment ago.
    pub(crate) facts: (Offset, u64),
    /// The session is finished and its driver gone.
    pub(crate) over: bool,
    /// There was no living carrier then to say so.
    pub(crate) over_alone: bool,
    echoes: Vec<Frame>,
    /// For replay and for receiving. It outlives the process, which the latter need not.
    memory: [MemoryStore; 2],
    kept: Snapshot,
}

impl Half {
    pub(crate) fn new(me: usize, chance: &mut Chance) -> Half {
        // Sizes below the least are raised to it, so these stand for the tiniest windows too.
        let sizes = [0, 1, 1 << 16, (1 << 16) + 17, 100_000, 1 << 17, 1 << 20];
        let config = SessionConfig {
            replay_buffer: chance.one_of(&sizes),
            receive_window: chance.one_of(&sizes),
        };
        let most = chance.one_of(&[0, 30, 30, 1000, 1000, 5000, 20_000, 100_000, crate::chance::MOST_BYTES]);
        let memory = [config.replay_buffer, config.receive_window]
            .map(|len| MemoryStore::new(len.max(SessionConfig::MIN_BUFFER)));
        let session = Session::new(lend(&memory));
        Half {
            kept: session.snapshot(),
            memory,
            me,
            facts: (session.received(), session.window()),
            session,
            config,
            plan: chance.below(most + 1),
            written: 0,
            input_ended: false,
            closed: false,
            delivered: 0,
            end_delivered: false,
            attached: Vec::new(),
            has_lead: false,
            arrivals: Vec::new(),
            over: false,
            over_alone: false,
            echoes: Vec::new(),
        }
    }

    pub(crate) fn lead(&self) -> Option<usize> {
        self.attached.last().filter(|_| self.has_lead).map(|lead| lead.carrier)
    }

    // The pipe.

    /// The pipe gives up to `most` bytes, as far as there is room. A driver that `dies` has them and never knew.
    pub(crate) fn write(&mut self, most: usize, dies: bool) -> bool {
        if self.input_ended || self.session.peer_close().is_some() {
            return false;
        }
        let room = self.session.input();
        let len = room.len().min(most).min(self.plan - self.written);
        room[..len].copy_from_slice(&bytes_of(self.me)[self.written..self.written + len]);
        self.written += len;
        if dies {
            return false;
        }
        self.session.commit_input(len);
        self.check_memory();
        len > 0
    }

    /// The pipe ends once it gave everything.
    pub(crate) fn end_input(&mut self) -> bool {
        let due = !self.input_ended && self.written == self.plan && self.session.peer_close().is_none();
        if due {
            self.input_ended = true;
            self.session.finish_input();
        }
        due
    }

    /// The pipe breaks, unless both its directions have ended.
    pub(crate) fn close(&mut self) {
        if self.break_pipe() {
            self.notice_pipe();
        }
    }

    /// The same, and the driver does not know yet.
    pub(crate) fn break_pipe(&mut self) -> bool {
        let is_over = self.input_ended && self.end_delivered;
        if is_over || self.closed {
            return false;
        }
        self.closed = true;
        self.plan = self.written;
        true
    }

    /// The driver sees that the pipe ended, or is broken.
    pub(crate) fn notice_pipe(&mut self) {
        if self.closed && self.session.snapshot().close.is_none() {
            self.input_ended = true;
            self.session.close(CloseCode::UpstreamClosed, "broken pipe");
        } else {
            self.end_input();
        }
    }

    /// The pipe takes up to `most` bytes, and its end when that is due. A driver that `dies` never knew.
    pub(crate) fn take(&mut self, most: usize, now: Instant, dies: bool) -> bool {
        if self.closed {
            return false;
        }
        let readable = self.session.output();
        let len = readable.len().min(most);
        let expected = &bytes_of(1 - self.me)[self.delivered..];
        assert!(
            expected.starts_with(&readable[..len]),
            "other bytes than were written, after byte {}",
            self.delivered
        );
        self.delivered += len;
        if dies && len > 0 {
            return false;
        }
        if len > 0 {
            self.session.output_written(len, now);
        }
        let ends = self.session.is_output_end_due();
        if ends {
            assert!(!self.end_delivered, "the end was delivered twice");
            self.end_delivered = true;
            if dies {
                return false;
            }
            self.session.output_ended();
        }
        len > 0 || ends
    }

    // The process.

    /// Keeps what a successor has to know.
    pub(crate) fn record(&mut self) {
        self.kept = self.session.snapshot();
    }

    /// The process dies, and a successor goes on with what is left; gives what was kept.
    pub(crate) fn restart(&mut self) -> Snapshot {
        // The memory comes back with the end of the session in it.
        self.session = Session::new(nothing());
        let counts = PipeCounts {
            read: Offset::new(self.written as u64).expect("a small number"),
            written: Offset::new(self.delivered as u64).expect("a small number"),
            output_shut: self.end_delivered,
        };
        self.session = Session::restore(lend(&self.memory), &self.kept, counts).expect("what belongs together");
        self.input_ended = self.session.is_input_ended();
        self.attached.clear();
        self.has_lead = false;
        self.arrivals.clear();
        self.echoes.clear();
        self.note_facts();
        self.kept
    }

    // Carriers.

    /// Whether the carrier leads now; one that comes after a later one is of no use.
    pub(crate) fn attach(&mut self, arrival: &Arrival) -> bool {
        let reached = self.session.lead_position();
        let attached = self.session.attach(arrival.epoch, arrival.received, arrival.window);
        if attached.expect("the peer is honest").is_none() {
            return false;
        }
        if let Some(lead) = self.attached.last_mut().filter(|_| self.has_lead) {
            lead.reached = reached;
        }
        self.has_lead = true;
        self.attached.push(Attached {
            carrier: arrival.carrier,
            epoch: arrival.epoch,
            delivered: false,
            reached: arrival.received,
        });
        true
    }

    /// A carrier that was attached before leads again, under a new epoch.
    pub(crate) fn promote(&mut self, carrier: usize, epoch: Epoch, (received, window): (Offset, u64)) -> bool {
        let Some(place) = self.attached.iter().position(|attached| attached.carrier == carrier) else {
            return false;
        };
        let reached = self.session.lead_position();
        let attached = self.session.attach(epoch, received, window);
        if attached.expect("the peer is honest").is_none() {
            return false;
        }
        if let Some(lead) = self.attached.last_mut().filter(|_| self.has_lead) {
            lead.reached = reached;
        }
        self.has_lead = true;
        self.attached.remove(place);
        self.attached.push(Attached {
            carrier,
            epoch,
            delivered: false,
            reached: received,
        });
        true
    }

    /// Another carrier than the lead that could lead.
    pub(crate) fn standing(&self) -> Option<usize> {
        let others = self.attached.len() - usize::from(self.has_lead);
        self.attached[..others].last().map(|other| other.carrier)
    }

    /// A copy of all that is not acknowledged, if it is little.
    pub(crate) fn copy(&self) -> Option<Frame> {
        let mut copy = BytesMut::new();
        self.session.copy(MOST_COPIED, &mut copy).then(|| {
            let frame = Frame::decode(&mut copy).expect("our own frame");
            frame.expect("a whole one")
        })
    }

    /// Hears a copy, whenever it comes.
    pub(crate) fn hear_copy(&mut self, copy: Frame) {
        self.session.handle_copy(copy).expect("the peer is honest");
        self.check_memory();
    }

    /// Removes a carrier that is lost.
    pub(crate) fn lose(&mut self, carrier: usize) {
        let Some(place) = self.attached.iter().position(|attached| attached.carrier == carrier) else {
            return;
        };
        let was_lead = self.lead() == Some(carrier);
        self.attached.remove(place);
        if was_lead {
            self.has_lead = false;
            self.session.detach();
            self.fall_back();
        }
    }

    /// The half that does not dial goes on with what it has.
    fn fall_back(&mut self) {
        if let Some(older) = self.attached.last().filter(|_| self.me == SERVER) {
            let fallen_back = self.session.fall_back(older.reached);
            fallen_back.expect("the peer is honest");
            self.has_lead = true;
        }
    }

    /// Fills the lead's outbox, which is empty.
    pub(crate) fn transmit(&mut self, outbox: &mut BytesMut, now: Instant) -> bool {
        self.session.transmit(outbox, FILL, now);
        self.check_ack(outbox);
        !outbox.is_empty()
    }

    /// Takes one frame; gives the carriers that are of no use any more.
    pub(crate) fn handle_frame(&mut self, frame: Frame, from: usize) -> Vec<usize> {
        if self.echoes.len() < ECHOES {
            self.echoes.push(frame.clone());
        } else {
            self.echoes[self.delivered % ECHOES] = frame.clone();
        }
        self.session.handle_frame(frame).expect("the peer is honest");
        self.check_memory();
        let is_lead = self.lead() == Some(from);
        let lead = self.attached.last_mut().filter(|lead| is_lead && !lead.delivered);
        let Some(lead) = lead else { return Vec::new() };
        lead.delivered = true;
        let older = self.attached.len() - 1;
        self.attached.drain(..older).map(|other| other.carrier).collect()
    }

    /// Hears a frame once more that was heard before.
    pub(crate) fn hear_again(&mut self, chance: &mut Chance) -> bool {
        if self.echoes.is_empty() {
            return false;
        }
        let frame = self.echoes[chance.below(self.echoes.len())].clone();
        self.session.handle_frame(frame).expect("old news are no error");
        true
    }

    pub(crate) fn note_facts(&mut self) {
        self.facts = (self.session.received(), self.session.window());
    }

    // What must hold.

    /// An ack speaks of what the pipe took, and a window of room that is there.
    fn check_ack(&self, outbox: &BytesMut) {
        let mut front = BytesMut::from(&outbox[..outbox.len().min(20)]);
        if let Ok(Some(Frame::Ack { delivered, window })) = Frame::decode(&mut front) {
            // A CLOSE after a FIN has a position of its own.
            let ends = u64::from(self.end_delivered) * (1 + u64::from(self.session.peer_close().is_some()));
            let taken = self.delivered as u64 + ends;
            assert!(
                delivered.get() <= taken,
                "acknowledged {delivered}, the pipe took {taken}"
            );
            let room = self.delivered + self.config.receive_window.max(SessionConfig::MIN_BUFFER);
            // What a closed half is sent it drops, so that it has room for everything.
            assert!(
                self.closed || delivered.get() + window <= room as u64,
                "promised more room than there is"
            );
        }
    }

    fn check_memory(&self) {
        let replay = self.config.replay_buffer.max(SessionConfig::MIN_BUFFER);
        let receive = self.config.receive_window.max(SessionConfig::MIN_BUFFER);
        assert!(self.session.replay_len() <= replay, "the replay buffer grew");
        assert!(self.session.buffered() <= replay + receive, "the session grew");
    }

    /// A half that believes that everything was delivered is right.
    pub(crate) fn check_belief(&self, peer: &Half) {
        if self.session.is_input_done() && !peer.closed {
            self.check_equal(peer);
        }
    }

    /// Everything that this pipe gave was taken by the other.
    pub(crate) fn check_equal(&self, peer: &Half) {
        assert!(
            peer.closed || (peer.delivered == self.written && peer.end_delivered),
            "half {} gave {} bytes, the other pipe took {} (end: {})",
            self.me,
            self.written,
            peer.delivered,
            peer.end_delivered
        );
    }
}

fn lend([replay, receive]: &[MemoryStore; 2]) -> SessionMemory {
    SessionMemory {
        replay: replay.lend(),
        receive: receive.lend(),
    }
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let carriers: Vec<_> = self.attached.iter().map(|attached| attached.epoch).collect();
        f.debug_struct("Half")
            .field("written", &(self.written, self.plan, self.input_ended))
            .field("delivered", &(self.delivered, self.end_delivered))
            .field("closed", &(self.closed, self.session.peer_close().is_some()))
            .field("input_done", &self.session.is_input_done())
            .field("output_done", &self.session.is_output_done())
            .field("over", &self.over)
            .field("carriers", &(carriers, self.has_lead))
            .finish()
    }
}
