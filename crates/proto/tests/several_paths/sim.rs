//! One session over several paths: both connections, and their carriers.

use crate::client::Client;
use crate::line::{Line, LinePath, Packet, Piece, index_of};
use crate::network::{CLIENT, Path, SERVER};
use bowline_proto::connection::{self, Connection, ConnectionConfig, Epochs, Event, Role};
use bowline_proto::session::{Session, SessionConfig, SessionMemory};
use bowline_proto::wire::{Accepted, Answer, Epoch, Frame, Hello, Offset, Refusal, RefusalCode, Resume, SessionId};
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) const SESSION: SessionId = SessionId::new([128; 16]);

const FILL: usize = 64 * 1024;
/// More passes within a millisecond mean that a timeout stays in the past.
const MAX_PASSES: u32 = 500;
/// How long a session without a carrier is kept.
const TTL: Duration = Duration::from_secs(7 * 86_400);

/// What happened, for the assertions of the tests.
#[derive(Default)]
pub(crate) struct Log {
    /// Attempts to dial in outages.
    pub(crate) attempts: Vec<Duration>,
    /// Which of them have new sockets.
    pub(crate) renewals: Vec<usize>,
    /// Dials of standby carriers, with their path.
    pub(crate) standby_dials: Vec<(Duration, usize)>,
    pub(crate) resumes: Vec<Duration>,
    /// Most resumes that waited for an answer at once.
    pub(crate) most_open_resumes: usize,
    pub(crate) suspicions: Vec<Duration>,
    pub(crate) upgrades: Vec<Duration>,
    /// Packets other than acknowledgements that the client has sent on its lead, and on other carriers.
    pub(crate) on_lead: Vec<Duration>,
    pub(crate) beside_lead: Vec<Duration>,
}

/// One end of the session: its connection, and a pipe whose bytes tell where they belong.
pub(crate) struct Half {
    pub(crate) connection: Connection<LinePath>,
    pub(crate) epochs: Arc<Epochs>,
    closed: Rc<RefCell<Vec<usize>>>,
    waiting: u64,
    written: u64,
    taken: u64,
    /// The pipe takes nothing.
    is_blocked: bool,
}

pub(crate) struct Sim {
    pub(crate) paths: Vec<Path>,
    beginning: Instant,
    pub(crate) now: Duration,
    pub(crate) halves: [Half; 2],
    pub(crate) lines: Vec<Line>,
    /// By arrival: carrier, receiver, and packet.
    packets: BTreeMap<(Duration, u64), (usize, usize, Packet)>,
    sent: u64,
    /// Passes within the present millisecond.
    passes: (u128, u32),
    pub(crate) client: Client,
    pub(crate) log: Log,
}

impl Sim {
    /// A session that has just opened on the path with this number.
    pub(crate) fn new(paths: Vec<Path>, first: usize) -> Sim {
        let beginning = beginning();
        let mut sim = Sim {
            halves: [Role::Client, Role::Server].map(|role| Half::new(role, beginning)),
            client: Client::new(first, beginning),
            paths,
            beginning,
            now: Duration::ZERO,
            lines: Vec::new(),
            packets: BTreeMap::new(),
            sent: 0,
            passes: (0, 0),
            log: Log::default(),
        };
        let line = sim.open_line(first);
        let accepted = connection::Accepted {
            epoch: Epoch::new(1),
            received: Offset::ZERO,
            window: sim.halves[CLIENT].connection.session().window(),
        };
        sim.lead(SERVER, line, accepted);
        sim.lead(CLIENT, line, accepted);
        sim.pass();
        sim
    }

    pub(crate) fn instant(&self) -> Instant {
        self.beginning + self.now
    }

    // What a test does and asks.

    /// The pipe of this half gives `len` bytes more. The server half echoes what it receives.
    pub(crate) fn give(&mut self, me: usize, len: u64) {
        self.halves[me].waiting += len;
        self.pass();
    }

    /// Presses a key.
    pub(crate) fn press_key(&mut self) {
        self.give(CLIENT, 1);
    }

    /// The pipe of this half takes nothing, or goes on.
    pub(crate) fn block(&mut self, me: usize, is_blocked: bool) {
        self.halves[me].is_blocked = is_blocked;
        self.take(me);
        self.pass();
    }

    /// How many bytes of this half the peer has acknowledged.
    pub(crate) fn acknowledged(&self, me: usize) -> u64 {
        self.halves[me].connection.session().delivered().get()
    }

    pub(crate) fn run_until(&mut self, end: Duration) {
        while let Some(next) = self.next().filter(|next| *next < end) {
            self.now = next.max(self.now + Duration::from_micros(1));
            self.pass();
        }
        self.now = self.now.max(end);
        self.pass();
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Runs until `is_done`, at most for `limit`, and returns how long that took.
    pub(crate) fn run_to(&mut self, limit: Duration, is_done: impl Fn(&Sim) -> bool) -> Duration {
        let begun = self.now;
        while !is_done(self) {
            let next = self.next().unwrap_or(Duration::MAX);
            assert!(next <= begun + limit, "not done after {limit:?}: {self}");
            self.now = next.max(self.now + Duration::from_micros(1));
            self.pass();
        }
        self.now - begun
    }

    /// Whether each pipe was given everything that the other gave.
    pub(crate) fn is_delivered(&self) -> bool {
        let [client, server] = &self.halves;
        let is_idle = client.waiting + server.waiting == 0;
        is_idle && client.taken == server.written && server.taken == client.written
    }

    /// The path of the client's lead.
    pub(crate) fn lead_path(&self) -> Option<usize> {
        self.halves[CLIENT].connection.paths().lead().map(|lead| lead.path)
    }

    pub(crate) fn standby_paths(&self) -> Vec<usize> {
        let standbys = self.halves[CLIENT].connection.paths().standbys();
        standbys.map(|standby| standby.path).collect()
    }

    /// Whether both halves have the same lead, and the client half trusts it.
    pub(crate) fn is_healthy(&self) -> bool {
        let [client, server] = [CLIENT, SERVER].map(|me| self.halves[me].connection.paths().lead());
        let is_same = client
            .zip(server)
            .is_some_and(|(client, server)| client.id == server.id);
        is_same && !self.halves[CLIENT].connection.is_suspect()
    }

    // Time.

    fn next(&self) -> Option<Duration> {
        let connections = self.halves.iter().filter_map(|half| {
            let timeout = half.connection.poll_timeout(true, self.instant())?;
            Some(timeout.saturating_duration_since(self.beginning))
        });
        let arrival = self.packets.keys().next().map(|(at, _)| *at);
        connections
            .chain(arrival)
            .chain(self.lines.iter().filter_map(Line::timeout))
            .chain(self.client_timeouts())
            .min()
    }

    pub(crate) fn since_beginning(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.beginning)
    }

    /// Does everything that is due now.
    fn pass(&mut self) {
        let passes = if self.passes.0 == self.now.as_millis() {
            self.passes.1 + 1
        } else {
            0
        };
        self.passes = (self.now.as_millis(), passes);
        assert!(passes < MAX_PASSES, "a timeout stays in the past: {self}");
        while let Some(arrived) = self.packets.first_entry().filter(|first| first.key().0 <= self.now) {
            let (line, me, packet) = arrived.remove();
            self.receive(line, me, packet);
        }
        self.repeat_lost();
        let now = self.instant();
        for me in [CLIENT, SERVER] {
            self.halves[me].write();
            let handled = self.halves[me].connection.handle_timeout(now);
            handled.expect("an honest peer");
            self.settle(me);
            while self.halves[me].connection.transmit(FILL, now) {
                self.settle(me);
            }
            self.halves[me].connection.send_copies(now);
            self.settle(me);
        }
        self.drive_client();
    }

    // Carriers.

    pub(crate) fn open_line(&mut self, path: usize) -> usize {
        self.lines.push(Line::new(path, self.paths[path].rtt, self.now));
        self.lines.len() - 1
    }

    pub(crate) fn send(&mut self, line: usize, me: usize, piece: Piece) {
        let packet = self.lines[line].packet(me, piece, self.now);
        self.send_packet(line, me, packet);
    }

    fn send_packet(&mut self, line: usize, me: usize, packet: Packet) {
        if me == CLIENT && !matches!(packet, Packet::Ack(_)) {
            let lead = self.halves[CLIENT].connection.paths().lead();
            match lead.is_some_and(|lead| lead.id == line) {
                true => self.log.on_lead.push(self.now),
                false => self.log.beside_lead.push(self.now),
            }
        }
        let Line { path, .. } = self.lines[line];
        if let Some(at) = self.lines[line].travel(&self.paths[path], me, self.now) {
            self.sent += 1;
            self.packets.insert((at, self.sent), (line, 1 - me, packet));
        }
    }

    /// One half closes its end.
    pub(crate) fn close_line(&mut self, line: usize, me: usize) {
        if self.lines[line].is_open(me) {
            self.lines[line].close(me);
            self.send_packet(line, me, Packet::Close);
        }
    }

    fn repeat_lost(&mut self) {
        for line in 0..self.lines.len() {
            for me in [CLIENT, SERVER] {
                if self.lines[line].is_timed_out(me, self.now) {
                    self.lines[line].close(me);
                    self.handle_line_lost(line, me, false);
                }
                for packet in self.lines[line].resend(me, self.now) {
                    self.send_packet(line, me, packet);
                }
            }
        }
    }

    fn handle_line_lost(&mut self, line: usize, me: usize, by_peer: bool) {
        let now = self.instant();
        let connection = &mut self.halves[me].connection;
        if let Some(index) = index_of(connection.paths_mut(), line) {
            let closed = connection.handle_path_closed(index, by_peer, now);
            closed.expect("an honest peer");
            self.settle(me);
        } else if me == CLIENT {
            self.handle_unanswered(line);
        }
    }

    fn receive(&mut self, line: usize, me: usize, packet: Packet) {
        if !self.lines[line].is_open(me) {
            return;
        }
        let (news, ack) = self.lines[line].receive(me, packet, self.now);
        if let Some(ack) = ack {
            self.send_packet(line, me, ack);
        }
        match news {
            Some(Packet::Close) => {
                self.lines[line].close(me);
                self.handle_line_lost(line, me, true);
            }
            Some(Packet::Stream(_, Piece::Frames(bytes))) => self.handle_frames(line, me, &bytes, false),
            Some(Packet::Stream(_, Piece::Hello(hello))) => self.handle_hello(line, &hello),
            Some(Packet::Stream(_, Piece::Answer(answer))) => self.handle_answer(line, answer),
            Some(Packet::Copy(bytes)) => self.handle_frames(line, me, &bytes, true),
            Some(Packet::Datagram(frame)) => self.handle_frame(line, me, frame, false),
            Some(Packet::Ack(_) | Packet::Keepalive) | None => {}
        }
    }

    fn handle_frames(&mut self, line: usize, me: usize, bytes: &Bytes, is_copy: bool) {
        let mut inbox = BytesMut::from(&bytes[..]);
        while let Some(frame) = Frame::decode(&mut inbox).expect("frames of an honest peer") {
            self.handle_frame(line, me, frame, is_copy);
        }
    }

    fn handle_frame(&mut self, line: usize, me: usize, frame: Frame, is_copy: bool) {
        let now = self.instant();
        let connection = &mut self.halves[me].connection;
        let Some(from) = index_of(connection.paths_mut(), line) else {
            return;
        };
        let handled = connection.handle_frame(from, frame, is_copy, now);
        handled.expect("an honest peer");
        self.take(me);
        self.settle(me);
    }

    /// The pipe takes what has arrived.
    fn take(&mut self, me: usize) {
        let taken = self.halves[me].take(me, self.instant());
        if me == SERVER {
            self.halves[SERVER].waiting += taken;
        }
    }

    /// The server half's answer to a hello.
    fn handle_hello(&mut self, line: usize, hello: &Hello) {
        let server = &mut self.halves[SERVER];
        match hello {
            Hello::Resume(Resume {
                epoch,
                received,
                window,
                ..
            }) if server.epochs.take(*epoch) => {
                let session = server.connection.session();
                let answer = Accepted {
                    key: None,
                    received: session.received(),
                    window: session.window(),
                    ttl: TTL.as_secs(),
                };
                let accepted = connection::Accepted {
                    epoch: *epoch,
                    received: *received,
                    window: *window,
                };
                self.send(line, SERVER, Piece::Answer(Answer::Accepted(answer)));
                self.lead(SERVER, line, accepted);
            }
            Hello::Resume(_) => {
                let refusal = Refusal {
                    code: RefusalCode::Stale,
                    message: "".into(),
                };
                self.send(line, SERVER, Piece::Answer(Answer::Refused(refusal)));
            }
            Hello::Standby { .. } => {
                self.send(line, SERVER, Piece::Answer(Answer::Standing));
                self.stand_by(SERVER, line);
            }
            other => panic!("nobody sends that: {other:?}"),
        }
    }

    /// Makes a carrier the lead.
    pub(crate) fn lead(&mut self, me: usize, line: usize, accepted: connection::Accepted) {
        let (transport, now) = (self.transport(me, line), self.instant());
        let connection = &mut self.halves[me].connection;
        let handled = connection.handle_path(transport, accepted, Bytes::new(), now);
        handled.expect("an honest peer");
        self.settle(me);
    }

    pub(crate) fn stand_by(&mut self, me: usize, line: usize) {
        let (transport, now) = (self.transport(me, line), self.instant());
        let handled = self.halves[me].connection.handle_standby(transport, now);
        handled.expect("an honest peer");
        self.settle(me);
    }

    fn transport(&self, me: usize, id: usize) -> LinePath {
        let line = &self.lines[id];
        line.transport(id, me, &self.paths[line.path], &self.halves[me].closed)
    }

    /// What a connection has decided is done.
    fn settle(&mut self, me: usize) {
        let mut packets = Vec::new();
        for path in self.halves[me].connection.paths_mut().iter_mut() {
            packets.extend(path.packets.drain(..).map(|packet| (path.id, packet)));
            if !path.outbox.is_empty() {
                let frames = Piece::Frames(path.outbox.split().freeze());
                packets.push((path.id, self.lines[path.id].packet(me, frames, self.now)));
            }
        }
        packets
            .into_iter()
            .for_each(|(line, packet)| self.send_packet(line, me, packet));
        for line in self.halves[me].closed.take() {
            self.close_line(line, me);
        }
        while let Some(event) = self.halves[me].connection.poll_event() {
            if me == CLIENT && matches!(event, Event::Suspected { .. }) {
                self.log.suspicions.push(self.now);
            }
        }
    }
}

impl Half {
    fn new(role: Role, now: Instant) -> Half {
        let epochs = Arc::new(Epochs::after(Epoch::new(1)));
        let config = ConnectionConfig {
            role,
            epochs: Arc::clone(&epochs),
            detached_since: now,
            confirmed: true,
            detach_timeout: TTL,
            unconfirmed_timeout: TTL,
        };
        let memory = SessionMemory::heap(&SessionConfig {
            replay_buffer: 1 << 20,
            receive_window: 1 << 20,
        });
        Half {
            connection: Connection::new(Session::new(memory), config, now),
            epochs,
            closed: Rc::default(),
            waiting: 0,
            written: 0,
            taken: 0,
            is_blocked: false,
        }
    }

    fn write(&mut self) {
        let room = self.connection.session_mut().input();
        let fits = room.len().min(usize::try_from(self.waiting).expect("little"));
        for (place, byte) in room[..fits].iter_mut().enumerate() {
            *byte = byte_at(self.written + place as u64);
        }
        self.connection.session_mut().commit_input(fits);
        self.written += fits as u64;
        self.waiting -= fits as u64;
    }

    fn take(&mut self, me: usize, now: Instant) -> u64 {
        if self.is_blocked {
            return 0;
        }
        let session = self.connection.session_mut();
        let len = session.output().len();
        for (place, byte) in session.output().iter().enumerate() {
            let place = self.taken + place as u64;
            assert_eq!(*byte, byte_at(place), "byte {place} that half {me} received");
        }
        if len > 0 {
            session.output_written(len, now);
        }
        self.taken += len as u64;
        len as u64
    }
}

fn byte_at(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

#[allow(clippy::disallowed_methods, reason = "virtual time begins at any instant")]
fn beginning() -> Instant {
    Instant::now()
}

impl std::fmt::Display for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let written = self.halves.iter().map(|half| (half.written, half.taken));
        write!(
            f,
            "at {:?}, lead on {:?}, standbys on {:?}, wants {:?}, pipes {:?}, suspicions {:?}",
            self.now,
            self.lead_path(),
            self.standby_paths(),
            self.halves[CLIENT].connection.dial_request(),
            written.collect::<Vec<_>>(),
            self.log.suspicions,
        )
    }
}
