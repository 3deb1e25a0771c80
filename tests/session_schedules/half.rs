//! One half: the connection that ships, and the pipe beside it.

use crate::chance::{Chance, bytes_of};
use crate::memory_store::{MemoryStore, nothing};
use bowline::connection::{
    Accepted, Connection, ConnectionConfig, Epochs, Event, MAX_COPY, PathClose, PathIndex, PathTransport, Role,
};
use bowline::session::{PipeCounts, Session, SessionConfig, SessionMemory, Snapshot};
use bowline::wire::{CloseCode, Frame, Offset};
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How far a driver fills a lead's outbox in one go.
const FILL: usize = 64 * 1024 + 64;

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

/// Frames remembered for being heard again.
const ECHOES: usize = 8;

/// A carrier as a path of one half. What is sent waits here until the world moves it.
pub(crate) struct LinePath {
    pub(crate) line: usize,
    pub(crate) outbox: BytesMut,
    /// Datagrams.
    pub(crate) copies: Vec<Bytes>,
    closed_lines: Rc<RefCell<Vec<usize>>>,
}

impl PathTransport for LinePath {
    fn rtt(&self) -> Option<Duration> {
        None
    }

    fn received(&self) -> u64 {
        0
    }

    fn counts_acks(&self) -> bool {
        false
    }

    fn ack_mark(&self) -> Option<u64> {
        None
    }

    fn rebindings(&self) -> u64 {
        0
    }

    /// Too few packets to know the loss rate, so that there are copies.
    fn losses(&self) -> Option<(u64, u64)> {
        Some((0, 0))
    }

    fn is_black_hole(&self) -> bool {
        false
    }

    fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    fn send_now(&mut self, frame: &Frame) {
        frame.encode(&mut self.outbox);
    }

    fn send_keepalive(&mut self, _token: u64) {}

    fn send_copy(&mut self, copy: Bytes) {
        self.copies.push(copy);
    }

    fn close(&mut self, _reason: PathClose) {
        self.closed_lines.borrow_mut().push(self.line);
    }
}

/// A carrier on its way to the driver.
pub(crate) struct Arrival {
    pub(crate) carrier: usize,
    /// `None`: it is a standby carrier.
    pub(crate) accepted: Option<Accepted>,
}

pub(crate) struct Half {
    me: usize,
    pub(crate) connection: Connection<LinePath>,
    pub(crate) epochs: Arc<Epochs>,
    /// Lines that the connection has closed.
    closed_lines: Rc<RefCell<Vec<usize>>>,
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
    pub(crate) fn new(me: usize, chance: &mut Chance, now: Instant) -> Half {
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
        let epochs = Arc::<Epochs>::default();
        Half {
            kept: session.snapshot(),
            memory,
            me,
            facts: (session.received(), session.window()),
            connection: connect(me, session, &epochs, now),
            epochs,
            closed_lines: Rc::default(),
            config,
            plan: chance.below(most + 1),
            written: 0,
            input_ended: false,
            closed: false,
            delivered: 0,
            end_delivered: false,
            arrivals: Vec::new(),
            over: false,
            over_alone: false,
            echoes: Vec::new(),
        }
    }

    pub(crate) fn session(&self) -> &Session {
        self.connection.session()
    }

    pub(crate) fn lead(&self) -> Option<usize> {
        self.connection.paths().lead().map(|lead| lead.line)
    }

    // The pipe.

    /// The pipe gives up to `most` bytes, as far as there is room. A driver that `dies` has them and never knew.
    pub(crate) fn write(&mut self, most: usize, dies: bool) -> bool {
        if self.input_ended || self.session().peer_close().is_some() {
            return false;
        }
        let room = self.connection.session_mut().input();
        let len = room.len().min(most).min(self.plan - self.written);
        room[..len].copy_from_slice(&bytes_of(self.me)[self.written..self.written + len]);
        self.written += len;
        if dies {
            return false;
        }
        self.connection.session_mut().commit_input(len);
        self.check_memory();
        len > 0
    }

    /// The pipe ends once it gave everything.
    pub(crate) fn end_input(&mut self) -> bool {
        let due = !self.input_ended && self.written == self.plan && self.session().peer_close().is_none();
        if due {
            self.input_ended = true;
            self.connection.session_mut().finish_input();
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
        if self.closed && self.session().snapshot().close.is_none() {
            self.input_ended = true;
            self.connection
                .session_mut()
                .close(CloseCode::UpstreamClosed, "broken pipe");
        } else {
            self.end_input();
        }
    }

    /// The pipe takes up to `most` bytes, and its end when that is due. A driver that `dies` never knew.
    pub(crate) fn take(&mut self, most: usize, now: Instant, dies: bool) -> bool {
        if self.closed {
            return false;
        }
        let readable = self.connection.session().output();
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
            self.connection.session_mut().output_written(len, now);
        }
        let ends = self.session().is_output_end_due();
        if ends {
            assert!(!self.end_delivered, "the end was delivered twice");
            self.end_delivered = true;
            if dies {
                return false;
            }
            self.connection.session_mut().output_ended();
        }
        len > 0 || ends
    }

    // The process.

    /// Keeps what a successor has to know.
    pub(crate) fn record(&mut self) {
        self.kept = self.session().snapshot();
    }

    /// The process dies, and a successor goes on with what is left; gives what was kept.
    pub(crate) fn restart(&mut self, now: Instant) -> Snapshot {
        // The memory comes back with the end of the session in it.
        self.connection = connect(self.me, Session::new(nothing()), &self.epochs, now);
        let counts = PipeCounts {
            read: Offset::new(self.written as u64).expect("a small number"),
            written: Offset::new(self.delivered as u64).expect("a small number"),
            output_shut: self.end_delivered,
        };
        let session = Session::restore(lend(&self.memory), &self.kept, counts).expect("what belongs together");
        self.epochs = Arc::new(Epochs::after(self.kept.epoch));
        self.connection = connect(self.me, session, &self.epochs, now);
        self.input_ended = self.session().is_input_ended();
        self.closed_lines.borrow_mut().clear();
        self.arrivals.clear();
        self.echoes.clear();
        self.note_facts();
        self.kept
    }

    // Carriers.

    /// The carrier leads or stands by, unless it comes after a later lead.
    pub(crate) fn attach(&mut self, arrival: &Arrival, now: Instant) {
        let path = LinePath {
            line: arrival.carrier,
            outbox: BytesMut::new(),
            copies: Vec::new(),
            closed_lines: Rc::clone(&self.closed_lines),
        };
        let attached = match arrival.accepted {
            Some(accepted) => self.connection.handle_path(path, accepted, Bytes::new(), now),
            None => self.connection.handle_standby(path, now),
        };
        attached.expect("the peer is honest");
    }

    /// Lines that the connection has closed since the last call.
    pub(crate) fn take_closed(&mut self) -> Vec<usize> {
        self.closed_lines.take()
    }

    /// How many promotions the connection has decided since the last call.
    pub(crate) fn take_promotions(&mut self) -> u64 {
        let events = std::iter::from_fn(|| self.connection.poll_event());
        events
            .map(|event| u64::from(matches!(event, Event::LeadChanged { by_peer: false, .. })))
            .sum()
    }

    fn index_of(&mut self, line: usize) -> Option<PathIndex> {
        let paths = self.connection.paths_mut();
        paths
            .indices()
            .find(|index| paths.get_mut(*index).is_some_and(|path| path.line == line))
    }

    /// A copy of all that is not acknowledged, if it is little.
    pub(crate) fn copy(&self) -> Option<Bytes> {
        let mut copy = BytesMut::new();
        self.session().copy(MAX_COPY, &mut copy).then(|| copy.freeze())
    }

    /// Hears a datagram, whenever it comes, on a carrier that still lives.
    pub(crate) fn hear_copy(&mut self, line: usize, copy: &Bytes, now: Instant) {
        let frame = Frame::decode(&mut BytesMut::from(&copy[..])).expect("our own frame");
        if let Some(from) = self.index_of(line) {
            let handled = self
                .connection
                .handle_frame(from, frame.expect("a whole one"), true, now);
            handled.expect("the peer is honest");
            self.check_memory();
        }
    }

    /// A carrier is lost.
    pub(crate) fn lose(&mut self, line: usize, now: Instant) {
        if let Some(index) = self.index_of(line) {
            let closed = self.connection.handle_path_closed(index, false, now);
            closed.expect("the peer is honest");
        }
    }

    /// Fills the lead's outbox, which is empty.
    pub(crate) fn transmit(&mut self, now: Instant) {
        self.connection.transmit(FILL, now);
        if let Some(lead) = self.connection.paths().lead() {
            self.check_ack(&lead.outbox);
        }
        self.connection.send_copies(now);
    }

    /// Takes one frame.
    pub(crate) fn handle_frame(&mut self, frame: Frame, from: usize, now: Instant) {
        if self.echoes.len() < ECHOES {
            self.echoes.push(frame.clone());
        } else {
            self.echoes[self.delivered % ECHOES] = frame.clone();
        }
        let from = self.index_of(from).expect("it is attached");
        let handled = self.connection.handle_frame(from, frame, false, now);
        handled.expect("the peer is honest");
        self.check_memory();
    }

    /// Hears a frame once more that was heard before.
    pub(crate) fn hear_again(&mut self, chance: &mut Chance) -> bool {
        if self.echoes.is_empty() {
            return false;
        }
        let frame = self.echoes[chance.below(self.echoes.len())].clone();
        self.connection
            .session_mut()
            .handle_frame(frame)
            .expect("old news are no error");
        true
    }

    pub(crate) fn note_facts(&mut self) {
        self.facts = (self.session().received(), self.session().window());
    }

    // What must hold.

    /// An ack speaks of what the pipe took, and a window of room that is there.
    fn check_ack(&self, outbox: &BytesMut) {
        let mut front = BytesMut::from(&outbox[..outbox.len().min(20)]);
        if let Ok(Some(Frame::Ack { delivered, window })) = Frame::decode(&mut front) {
            // A CLOSE after a FIN has a position of its own.
            let ends = u64::from(self.end_delivered) * (1 + u64::from(self.session().peer_close().is_some()));
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
        assert!(self.session().replay_len() <= replay, "the replay buffer grew");
        assert!(self.session().buffered() <= replay + receive, "the session grew");
    }

    /// A half that believes that everything was delivered is right.
    pub(crate) fn check_belief(&self, peer: &Half) {
        if self.session().is_input_done() && !peer.closed {
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

fn connect(me: usize, session: Session, epochs: &Arc<Epochs>, now: Instant) -> Connection<LinePath> {
    let config = ConnectionConfig {
        role: if me == CLIENT { Role::Client } else { Role::Server },
        epochs: Arc::clone(epochs),
        detached_since: now,
        confirmed: true,
        detach_timeout: Duration::from_secs(3600),
        unconfirmed_timeout: Duration::from_secs(3600),
    };
    Connection::new(session, config, now)
}

fn lend([replay, receive]: &[MemoryStore; 2]) -> SessionMemory {
    SessionMemory {
        replay: replay.lend(),
        receive: receive.lend(),
    }
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others: Vec<_> = self.connection.paths().others().map(|other| other.line).collect();
        f.debug_struct("Half")
            .field("written", &(self.written, self.plan, self.input_ended))
            .field("delivered", &(self.delivered, self.end_delivered))
            .field("closed", &(self.closed, self.session().peer_close().is_some()))
            .field("input_done", &self.session().is_input_done())
            .field("output_done", &self.session().is_output_done())
            .field("over", &self.over)
            .field("carriers", &(self.lead(), others))
            .finish()
    }
}
