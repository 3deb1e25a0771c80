use super::*;
use crate::carrier::in_process;
use crate::connection::{Accepted, Role};
use crate::session::{PipeCounts, RingMemory, Session, SessionConfig, SessionMemory, Snapshot as SessionSnapshot};
use crate::wire::{Epoch, Offset};
use bytes::{Bytes, BytesMut};
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::Waker;
use tokio::io::{DuplexStream, ReadBuf, duplex};

mod standby;

/// What was recorded last.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<Option<Checkpoint>>>);

impl Book {
    fn last(&self) -> Checkpoint {
        self.0.lock().unwrap().expect("nothing is done before the first record")
    }
}

impl CheckpointStore for Book {
    fn save(&mut self, checkpoint: &Checkpoint) {
        *self.0.lock().unwrap() = Some(*checkpoint);
    }
}

/// A pipe that gives what it is told to, takes what it is told to, and looks into the book before either.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<PipeState>>);

#[derive(Default)]
struct PipeState {
    book: Book,
    gives: Vec<Bytes>,
    ends: bool,
    is_broken: bool,
    is_shut: bool,
    /// What the book said at each touch.
    seen: Vec<SessionSnapshot>,
}

impl Pipe {
    fn state(&self) -> std::sync::MutexGuard<'_, PipeState> {
        self.0.lock().unwrap()
    }

    fn touch(&self) -> std::sync::MutexGuard<'_, PipeState> {
        let mut state = self.state();
        let known = state.book.last().session;
        state.seen.push(known);
        state
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.touch();
        match state.gives.pop() {
            Some(bytes) => into.put_slice(&bytes),
            None if state.ends => {}
            None => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.touch().is_broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.touch().is_shut = true;
        Poll::Ready(Ok(()))
    }
}

/// A carrier that becomes the lead, to a peer that has received nothing.
fn new_lead(stream: DuplexStream, epoch: u32, first: &'static [u8]) -> PathEvent {
    PathEvent::Lead(Box::new(NewLead {
        carrier: in_process(stream, Bytes::new(), [0; 32]),
        accepted: Accepted {
            epoch: Epoch::new(epoch),
            received: Offset::ZERO,
            window: 1 << 20,
        },
        first: Bytes::from_static(first),
    }))
}

/// A pump whose rounds the test counts out, and the far end of its lead.
struct Stand {
    pump: Pump<Pipe, Pipe>,
    pipe: Pipe,
    book: Book,
    budget: Arc<Budget>,
    peer: DuplexStream,
    now: Instant,
    path_events: mpsc::Sender<PathEvent>,
    epochs: Arc<Epochs>,
    _orders: mpsc::Sender<SessionCommand>,
}

impl Stand {
    fn new(session: Session) -> Stand {
        Stand::before(session, false)
    }

    /// The same, and whether the pipe's input ends by itself if its output is broken.
    fn before(session: Session, input_ends_itself: bool) -> Stand {
        Stand::of_half(session, input_ends_itself, Role::Server, MAX_TIMEOUT)
    }

    /// A new session, and how long it waits for a first frame.
    fn confirmed_within(unconfirmed_timeout: Duration) -> Stand {
        Stand::of_half(session(), false, Role::Server, unconfirmed_timeout)
    }

    fn of_half(session: Session, input_ends_itself: bool, role: Role, unconfirmed_timeout: Duration) -> Stand {
        let epochs = Arc::new(Epochs::after(Epoch::new(7)));
        let (book, pipe, now) = (Book::default(), Pipe::default(), clock::now());
        pipe.state().book = book.clone();
        let (path_events, received) = mpsc::channel(MAX_PATH_EVENTS);
        let (commands, ordered) = mpsc::channel(MAX_COMMANDS);
        let (peer, lead) = duplex(1 << 20);
        assert!(path_events.try_send(new_lead(lead, 7, b"")).is_ok());
        let budget = Budget::new(usize::MAX);
        let pump = Pump::new(PumpParts {
            stats: Arc::new(SessionStats::restored(&session, now)),
            session,
            input: pipe.clone(),
            output: pipe.clone(),
            pipe_closed: CloseCode::UpstreamClosed,
            input_ends_itself,
            role,
            path_events: received,
            epochs: Arc::clone(&epochs),
            commands: ordered,
            checkpoints: Some(Box::new(book.clone())),
            detached_since: now,
            confirmed: false,
            detach_timeout: MAX_TIMEOUT,
            unconfirmed_timeout,
            budget: Arc::clone(&budget),
        });
        Stand {
            pump,
            pipe,
            book,
            budget,
            peer,
            now,
            path_events,
            epochs,
            _orders: commands,
        }
    }

    /// Rounds until nothing moves, at a time.
    fn run_at(&mut self, after: Duration) {
        let mut cx = Context::from_waker(Waker::noop());
        while self.pump.round(&mut cx, self.now + after).unwrap() {}
    }

    /// One round at a time, or why it was the last.
    fn ends_at(&mut self, after: Duration) -> Option<Outcome> {
        let mut cx = Context::from_waker(Waker::noop());
        self.pump.round(&mut cx, self.now + after).err()
    }

    fn say(&mut self, frames: &[Frame]) {
        say(&mut self.peer, frames);
    }

    fn heard(&mut self) -> Vec<Frame> {
        heard(&mut self.peer)
    }
}

/// Says frames at the far end of a carrier.
fn say(peer: &mut DuplexStream, frames: &[Frame]) {
    let mut bytes = BytesMut::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    let mut cx = Context::from_waker(Waker::noop());
    let said = Pin::new(peer).poll_write(&mut cx, &bytes);
    assert!(matches!(said, Poll::Ready(Ok(len)) if len == bytes.len()));
}

/// What came to the far end of a carrier.
fn heard(peer: &mut DuplexStream) -> Vec<Frame> {
    let (mut memory, mut cx) = (vec![0; 1 << 20], Context::from_waker(Waker::noop()));
    let mut into = ReadBuf::new(&mut memory);
    let _ = Pin::new(peer).poll_read(&mut cx, &mut into);
    let (mut bytes, mut frames) = (BytesMut::from(into.filled()), Vec::new());
    while let Some(frame) = Frame::decode(&mut bytes).unwrap() {
        frames.push(frame);
    }
    frames
}

fn at(bytes: u64) -> Offset {
    Offset::new(bytes).unwrap()
}

fn ack(delivered: u64) -> Frame {
    Frame::Ack {
        delivered: at(delivered),
        window: 1 << 20,
    }
}

fn session() -> Session {
    Session::new(SessionMemory::heap(&SessionConfig::default()))
}

#[test]
fn the_pipe_is_read_only_with_the_place_of_its_bytes_on_record() {
    let mut stand = Stand::new(session());
    stand.pipe.state().gives.push(Bytes::from_static(b"abc"));
    stand.run_at(Duration::ZERO);
    stand.say(&[ack(3)]);
    stand.pipe.state().seen.clear();
    stand.run_at(Duration::ZERO);
    let seen = std::mem::take(&mut stand.pipe.state().seen);
    assert!(
        !seen.is_empty() && seen.iter().all(|known| known.acked == at(3)),
        "{seen:?}"
    );
    assert!(stand.book.last().confirmed && stand.book.last().detached_since.is_none());
}

#[test]
fn a_session_of_which_the_peer_never_said_a_word_ends_although_its_carrier_still_counts_as_alive() {
    const LIMIT: Duration = Duration::from_secs(120);
    let short = || {
        let mut stand = Stand::confirmed_within(LIMIT);
        stand.run_at(Duration::ZERO);
        stand
    };
    let mut stand = short();
    assert_eq!(stand.ends_at(LIMIT - Duration::from_secs(1)), None);
    assert!(
        stand
            .pump
            .next_timeout(stand.now)
            .is_some_and(|timeout| timeout <= stand.now + LIMIT)
    );
    assert_eq!(stand.ends_at(LIMIT), Some(Outcome::Unconfirmed(LIMIT)));
    // One word is enough.
    let mut stand = short();
    stand.say(&[ack(0)]);
    stand.run_at(Duration::from_secs(1));
    assert_eq!(stand.ends_at(2 * LIMIT), None);
}

#[test]
fn the_pipe_is_closed_only_with_the_end_on_record() {
    let mut stand = Stand::new(session());
    stand.run_at(Duration::ZERO);
    stand.say(&[Frame::Fin { offset: at(0) }]);
    stand.pipe.state().seen.clear();
    stand.run_at(Duration::ZERO);
    let state = stand.pipe.state();
    assert!(state.is_shut);
    assert!(state.seen.iter().all(|known| known.output_end == Some(at(0))));
}

#[test]
fn the_peer_hears_of_an_end_only_once_it_is_on_record() {
    let mut stand = Stand::new(session());
    stand.run_at(Duration::ZERO);
    stand.pipe.state().ends = true;
    stand.heard();
    let mut cx = Context::from_waker(Waker::noop());
    // One round: it reads the end, and says it.
    let now = stand.now;
    assert!(stand.pump.round(&mut cx, now).is_ok());
    assert_eq!(stand.heard(), [Frame::Fin { offset: at(0) }]);
    assert!(stand.book.last().session.fin);
}

#[test]
fn a_broken_pipe_that_said_its_last_is_reported_at_once() {
    let mut stand = Stand::new(session());
    stand.pipe.state().is_broken = true;
    stand.run_at(Duration::ZERO);
    stand.say(&[Frame::Data {
        offset: at(0),
        bytes: Bytes::from_static(b"x"),
    }]);
    stand.run_at(Duration::ZERO);
    stand.heard();
    stand.run_at(Duration::from_millis(999));
    assert_eq!(stand.heard(), []);
    stand.run_at(Duration::from_secs(1));
    assert!(matches!(stand.heard().last(), Some(Frame::Close { .. })));
    assert_eq!(stand.book.last().session.close, Some(CloseCode::UpstreamClosed));
}

#[test]
fn what_sshd_said_before_its_connection_broke_is_read_however_long_the_peer_makes_no_room() {
    let config = SessionConfig {
        replay_buffer: 1 << 16,
        ..SessionConfig::default()
    };
    let mut stand = Stand::before(Session::new(SessionMemory::heap(&config)), true);
    stand.pipe.state().is_broken = true;
    let said = [Bytes::from(vec![1; 1 << 16]), Bytes::from_static(b"last words")];
    stand.pipe.state().gives = said.iter().rev().cloned().collect();
    stand.run_at(Duration::ZERO);
    stand.say(&[Frame::Data {
        offset: at(0),
        bytes: Bytes::from_static(b"x"),
    }]);
    stand.run_at(Duration::ZERO);
    // The connection takes no more, and what fits is on its way; the peer is away for a minute.
    stand.run_at(Duration::from_secs(60));
    stand.heard();
    stand.pipe.state().ends = true;
    stand.say(&[ack(1 << 16)]);
    stand.run_at(Duration::from_secs(61));
    let heard = stand.heard();
    let is_last = |frame: &Frame| matches!(frame, Frame::Data { bytes, .. } if *bytes == said[1]);
    let last = heard.iter().position(is_last);
    let close = heard.iter().position(|frame| matches!(frame, Frame::Close { .. }));
    assert!(last.is_some() && last < close, "{heard:?}");
}

/// Memory that writes down what the book said when it was given back.
struct Watched {
    bytes: Vec<u8>,
    book: Book,
    given_back: Arc<Mutex<Vec<SessionSnapshot>>>,
}

impl RingMemory for Watched {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    fn release(&mut self, _range: Range<usize>) {
        self.given_back.lock().unwrap().push(self.book.last().session);
    }
}

#[test]
fn memory_goes_back_when_the_session_rests_and_the_record_says_that_it_is_empty() {
    let (book, given_back) = (Book::default(), Arc::default());
    let mut stand = Stand::new(Session::new(SessionMemory {
        replay: Box::new(Watched {
            bytes: vec![0; 1 << 16],
            book: book.clone(),
            given_back: Arc::clone(&given_back),
        }),
        ..SessionMemory::heap(&SessionConfig::default())
    }));
    stand.pump.checkpoints = Some(Box::new(book.clone()));
    stand.pipe.state().book = book;
    stand.pipe.state().gives.push(Bytes::from_static(b"abc"));
    stand.run_at(Duration::ZERO);
    stand.run_at(Duration::from_secs(9));
    assert_eq!(given_back.lock().unwrap().len(), 0, "not acknowledged yet");
    stand.say(&[ack(3)]);
    stand.run_at(Duration::from_secs(10));
    stand.run_at(Duration::from_millis(14_999));
    assert_eq!(given_back.lock().unwrap().len(), 0, "not quiet for long");
    stand.run_at(Duration::from_secs(15));
    stand.run_at(Duration::from_secs(99));
    let given_back: Vec<_> = given_back.lock().unwrap().iter().map(|known| known.acked).collect();
    assert_eq!(given_back, [at(3)]);
}

#[test]
fn what_a_predecessor_left_counts_against_the_budget_at_once() {
    let kept = SessionSnapshot {
        fin: true,
        ..SessionSnapshot::default()
    };
    let counts = PipeCounts {
        read: at(10),
        ..PipeCounts::default()
    };
    let memory = SessionMemory::heap(&SessionConfig::default());
    let mut stand = Stand::new(Session::restore(memory, &kept, counts).unwrap());
    assert_eq!(stand.budget.used(), 10);
    assert!(stand.pump.input.is_none(), "its end was read");
    stand.run_at(Duration::ZERO);
    assert!(matches!(
        stand.heard()[..],
        [Frame::Ack { .. }, Frame::Data { .. }, Frame::Fin { .. }]
    ));
}
