//! Carriers: authenticated, encrypted, ordered byte pipes between the halves, which may die at any moment.
//!
//! A carrier has two lives: first hello messages, written as sequential code ([`Carrier::send_message`],
//! [`Carrier::read_message`]); then frames, moved by polling, since the pump serves many at once. It knows nothing
//! of sessions.

mod dialed;
mod duplex;
mod error;
pub(crate) mod handshake_limiter;
mod link;
pub mod memory;
mod path;
pub mod quic;
pub mod relays;
pub mod stream;
pub mod tls;
pub mod via;

pub use dialed::{DialError, Dialed};
pub use duplex::{Duplex, Opaque, Reading};
pub use error::CarrierError;
pub use path::{NotAPath, Path, Proxied, Rank};

use crate::clock;
use crate::fault;
use crate::wire::{Frame, FrameReader, MAX_HELLO, next_message};
use bytes::{Bytes, BytesMut};
use link::Link;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

/// Longest wait for the peer to take the last bytes of a carrier that is closed in good order.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Most bytes of answers that wait for a peer.
const MOST_UNREAD: usize = 64 * 1024;

/// Lets the transport's own tasks send what was just asked of them, before the runtime may end.
///
/// quinn only marks a connection as closed and sends from a task; three turns are its, the endpoint's and a spare.
pub(crate) async fn let_go() {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

/// What both ends of a carrier proved, and what the carrier is.
#[derive(Clone, Debug)]
pub struct CarrierInfo {
    /// Which kind of path.
    pub kind: Kind,
    /// Where the peer is, as this end saw it first; `None` where something between the halves hides it.
    pub remote: Option<SocketAddr>,
    /// What joins the halves, where something does: a relay's name, a proxy, a program.
    pub via: Option<Arc<str>>,
    /// How good the way is that it goes, as far as that is known at this end.
    pub rank: Rank,
    /// The peer's TLS key, SPKI DER.
    pub peer_key: Bytes,
    /// TLS exporter (RFC 8446 section 7.5), label `EXPORTER-bowline-open`: the same at both ends and nowhere else.
    pub exporter: [u8; 32],
}

impl CarrierInfo {
    /// Whether it goes the way of another carrier: the same kind to the same machine, or by the same relay.
    pub fn shares_fate_of(&self, other: &CarrierInfo) -> bool {
        let machine = |info: &CarrierInfo| info.remote.map(|remote| remote.ip());
        (self.kind, &self.via, machine(self)) == (other.kind, &other.via, machine(other))
    }
}

/// Kinds of carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tls,
    /// An in-process pipe, for tests and embedding.
    Memory,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Quic => "quic",
            Kind::Tls => "tls",
            Kind::Memory => "memory",
        })
    }
}

/// Why this end closes a carrier; the peer sees it where it sees anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The session ended, or the carrier was not needed.
    Done,
    /// Another carrier leads.
    Replaced,
    /// The peer broke the protocol.
    Protocol,
    /// The half is going away.
    ShuttingDown,
    /// A hello was refused or did not come in time.
    Refused,
    /// Too many carriers are not a session's yet; the peer may come back later.
    Busy,
    /// What this half sends does not arrive.
    Undelivered,
}

/// A frame from the peer.
#[derive(Debug)]
pub struct Heard {
    /// The frame.
    pub frame: Frame,
    /// It came beside the ordered stream: it may have been sent before or after what is read now, and come twice.
    pub is_copy: bool,
}

/// One carrier. Small: channels reserve room for dozens of what they carry.
pub struct Carrier {
    parts: Box<Parts>,
}

struct Parts {
    info: CarrierInfo,
    link: Link,
    inbox: BytesMut,
    reader: FrameReader,
    outbox: BytesMut,
    /// Taken from the outbox, not yet taken by the link.
    leaving: Bytes,
    echo: Echo,
}

/// Measures the round trip by probes and their answers, where the transport does not tell it.
#[derive(Default)]
struct Echo {
    asked: Option<(u64, Instant)>,
    rtt: Option<Duration>,
}

impl Echo {
    fn handle_sent(&mut self, frame: &Frame) {
        if let Frame::Ping { token } = frame {
            self.asked = Some((*token, clock::now()));
        }
    }

    fn handle_received(&mut self, frame: &Frame) {
        if let (Frame::Pong { token }, Some((asked, at))) = (frame, self.asked)
            && *token == asked
        {
            let sample = clock::now().saturating_duration_since(at);
            // As TCP smooths it (RFC 6298 section 2).
            self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
            self.asked = None;
        }
    }
}

impl Carrier {
    fn new(info: CarrierInfo, link: Link) -> Carrier {
        Carrier {
            parts: Box::new(Parts {
                info,
                link,
                inbox: BytesMut::new(),
                reader: FrameReader::default(),
                outbox: BytesMut::new(),
                leaving: Bytes::new(),
                echo: Echo::default(),
            }),
        }
    }

    /// The same, where something joins the halves.
    pub(crate) fn via(mut self, what: Arc<str>, rank: Rank) -> Carrier {
        self.parts.info.via = Some(what);
        self.parts.info.rank = rank;
        self
    }

    /// What both ends proved.
    pub fn info(&self) -> &CarrierInfo {
        &self.parts.info
    }

    /// Smoothed round trip; `None` while nothing tells it.
    pub fn rtt(&self) -> Option<Duration> {
        self.parts.link.rtt().or(self.parts.echo.rtt)
    }

    /// Count of packets received, of whatever content: when it moves, the path lives.
    pub fn heard(&self) -> u64 {
        self.parts.link.heard()
    }

    /// Whether [`Carrier::heard`] moves when the peer's transport acknowledges what is sent. By way of a relay, a proxy or a
    /// program it does not: only what the peer itself says arrives from end to end.
    pub fn hears_transport(&self) -> bool {
        self.parts.link.hears_transport()
    }

    /// A number that changes when the peer's transport acknowledges something new: what is sent arrives. `None` where
    /// the kind cannot tell.
    pub fn ack_mark(&self) -> Option<u64> {
        self.parts.link.ack_mark()
    }

    /// A number that changes when the peer shows that it hears us, as far as the kind can tell: [`Carrier::ack_mark`],
    /// or else [`Carrier::heard`].
    pub fn answer_mark(&self) -> u64 {
        self.ack_mark().unwrap_or_else(|| self.heard())
    }

    /// Whether the transport knows that nothing but small packets arrives of what this half sends. It is asked of a lead that
    /// delivers nothing, not all the time.
    pub fn is_hole(&self) -> bool {
        self.parts.link.is_hole()
    }

    /// Counts how often the peer has found that we are heard from elsewhere: a NAT has forgotten us, as a rule.
    pub fn rebindings(&self) -> u64 {
        self.parts.link.rebindings()
    }

    /// Counts of packets sent, and of those among them that were lost; `None` where the kind cannot tell.
    pub fn losses(&self) -> Option<(u64, u64)> {
        self.parts.link.losses()
    }

    /// Most bytes of UDP payload that the path is known to take by now; `None` where the kind cannot tell.
    pub fn mtu(&self) -> Option<u16> {
        self.parts.link.mtu()
    }

    // Hello messages.

    /// Sends one message.
    ///
    /// # Errors
    /// The carrier is lost.
    pub async fn send_message(&mut self, message: Bytes) -> Result<(), CarrierError> {
        self.parts.outbox.extend_from_slice(&message);
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Receives one message, without its length.
    ///
    /// # Errors
    /// The carrier is lost, or a message is too large.
    pub async fn read_message(&mut self) -> Result<Bytes, CarrierError> {
        std::future::poll_fn(|cx| {
            loop {
                if let Some(message) = next_message(&mut self.parts.inbox)? {
                    return Poll::Ready(Ok(message));
                }
                ready!(self.parts.link.poll_read(cx, &mut self.parts.inbox))?;
            }
        })
        .await
    }

    /// Waits until the carrier is lost. What the peer says meanwhile is there for [`Carrier::read_message`].
    pub async fn lost(&mut self) -> CarrierError {
        std::future::poll_fn(|cx| {
            // Who says more than one message holds is not listened to for now.
            while self.parts.inbox.len() <= MAX_HELLO {
                if let Err(error) = ready!(self.parts.link.poll_read(cx, &mut self.parts.inbox)) {
                    return Poll::Ready(error);
                }
            }
            Poll::Pending
        })
        .await
    }

    // Frames.

    /// Gives the peer as much room on the carrier as a session may use; until then it gets very little.
    pub fn trust(&self) {
        self.parts.link.trust();
    }

    /// The next frame from the peer: in order, but for probes, their answers and copies, which may overtake.
    ///
    /// # Errors
    /// The carrier is lost, or the peer sent what is no frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard, CarrierError>> {
        loop {
            if let Some(frame) = self.parts.reader.next(&mut self.parts.inbox)? {
                self.parts.echo.handle_received(&frame);
                return Poll::Ready(Ok(Heard { frame, is_copy: false }));
            }
            // One frame a datagram; what else is in it is for later versions. A lost connection is told by the stream,
            // once everything that had arrived on it was read.
            if let Poll::Ready(Ok(datagram)) = self.parts.link.poll_datagram(cx)
                && let Some(frame) = Frame::decode(&mut BytesMut::from(datagram))?
            {
                return Poll::Ready(Ok(Heard { frame, is_copy: true }));
            }
            ready!(self.parts.link.poll_read(cx, &mut self.parts.inbox))?;
        }
    }

    /// Sends a small frame ahead of everything queued where the kind allows; it may get lost.
    pub fn send_now(&mut self, frame: &Frame) {
        self.parts.echo.handle_sent(frame);
        let mut encoded = BytesMut::new();
        frame.encode(&mut encoded);
        // A peer that asks without end and reads nothing gets no more answers than fit.
        if !self.parts.link.send_datagram(encoded.clone().freeze()) && self.parts.outbox.len() < MOST_UNREAD {
            self.parts.outbox.extend_from_slice(&encoded);
        }
    }

    /// Has the peer show that it hears us, so that [`Carrier::answer_mark`] moves, and asks no more of it than that takes.
    pub fn touch(&mut self, token: u64) {
        self.send_now(&match self.ack_mark() {
            // An answer to nothing: its transport acknowledges it, and nobody answers.
            Some(_) => Frame::Pong { token },
            None => Frame::Ping { token },
        });
    }

    /// Sends a copy of what another carrier brings, or this one's ordered stream; it may get lost. Where the kind has no
    /// datagrams it follows what is queued, unless that does not move.
    pub fn send_copy(&mut self, copy: Bytes) {
        if fault::loses_copies() {
            return;
        }
        if !self.parts.link.send_datagram(copy.clone()) && self.is_flushed() {
            self.parts.outbox.extend_from_slice(&copy);
        }
    }

    /// Where frames for the peer are appended. Bounded by the one who fills it.
    pub fn outbox(&mut self) -> &mut BytesMut {
        &mut self.parts.outbox
    }

    /// Whether everything appended was taken by the transport.
    pub fn is_flushed(&self) -> bool {
        self.parts.outbox.is_empty() && self.parts.leaving.is_empty()
    }

    /// Hands the outbox to the transport; ready when it took everything.
    ///
    /// # Errors
    /// The carrier is lost.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        while !self.is_flushed() {
            if self.parts.leaving.is_empty() {
                // What is left of its memory would keep all of it.
                self.parts.leaving = std::mem::take(&mut self.parts.outbox).freeze();
            }
            ready!(self.parts.link.poll_write(cx, &mut self.parts.leaving))?;
        }
        self.parts.link.poll_flush(cx)
    }

    /// Sends `answer` as far as that can be done at once, and closes. QUIC's close says all that matters by itself; where there
    /// is none, the answer arrives unless the peer's own words cross it and are reset.
    pub(crate) fn turn_away(mut self, answer: &[u8], reason: CloseReason) {
        self.parts.outbox.extend_from_slice(answer);
        // Nobody waits for a peer that is turned away.
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()));
        self.close(reason);
    }

    /// Closes at once; what was not sent yet is lost.
    pub fn close(&mut self, reason: CloseReason) {
        self.parts.link.close(reason);
    }

    /// Sends what is queued, waits (2 s at most) until the peer has it, and closes. Whether the peer has it.
    pub async fn finish(mut self, reason: CloseReason) -> bool {
        let last_words =
            async { std::future::poll_fn(|cx| self.poll_flush(cx)).await.is_ok() && self.parts.link.finish().await };
        let delivered = tokio::time::timeout(LAST_WORDS, last_words).await;
        self.parts.link.close(reason);
        let_go().await;
        delivered.unwrap_or(false)
    }
}
