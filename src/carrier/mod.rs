//! Carriers: authenticated, encrypted, ordered byte streams between the halves, which may fail at
//! any moment.
//!
//! A carrier first exchanges hello messages, with async calls ([`Carrier::send_message`],
//! [`Carrier::read_message`]), then frames, by polling, because the pump serves several carriers at
//! once. It knows nothing of sessions.

mod accepted;
mod dialed;
mod link;
mod path;
pub mod relays;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod via;

pub use crate::transport::{CloseReason, ConnectError};
pub use accepted::{AuthenticatedClient, IN_PROCESS, accept_quic, accept_tls, in_process, listen_quic, tls_server};
pub use dialed::{DialError, Dialed, dial_quic, dial_tls};
pub use path::{Path, PathParseError, Proxied, Rank};

use crate::clock;
use crate::fault;
use crate::identity::statement::EXPORTER_LABEL;
use crate::transport::{Authenticated, NoPeerKey, unmapped};
use crate::wire::{DecodeError, Frame, FrameReader, MAX_HELLO, Quoting, next_message};
use bytes::{Bytes, BytesMut};
use link::Link;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

/// Longest wait until the peer has received the last bytes of a carrier that is closed.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes of small frames that wait for a peer that does not read.
const MAX_UNREAD: usize = 64 * 1024;

/// Lets the transport's tasks send what is pending before the runtime ends.
///
/// quinn only marks a connection as closed, and a task sends the close. Three yields: for the
/// connection's task, the endpoint's task, and one to spare.
pub(crate) async fn flush_transport() {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

/// What both ends of a carrier proved, and properties of the carrier.
#[derive(Clone, Debug)]
pub struct CarrierInfo {
    /// The transport.
    pub kind: Kind,
    /// The peer's address when the carrier was opened; `None` if something between the halves hides
    /// it.
    pub remote: Option<SocketAddr>,
    /// What the carrier goes through, if anything: the name of a relay, a proxy or a program.
    pub via: Option<Arc<str>>,
    /// Quality of the path, as far as this end knows it.
    pub rank: Rank,
    /// The peer's TLS key, SPKI DER.
    pub peer_key: Bytes,
    /// TLS exporter value (RFC 8446 section 7.5), label `EXPORTER-bowline-open`: equal at both
    /// ends, and unique to this connection.
    pub exporter: [u8; 32],
}

impl CarrierInfo {
    /// What a connection without a relay, proxy or program proved.
    fn of(
        connection: &impl Authenticated,
        kind: Kind,
        remote: Option<SocketAddr>,
    ) -> Result<CarrierInfo, CarrierError> {
        Ok(CarrierInfo {
            kind,
            remote: remote.map(unmapped),
            via: None,
            rank: match kind {
                Kind::Tls => Rank::DirectInOrder,
                Kind::Quic | Kind::Memory => Rank::Direct,
            },
            peer_key: connection.peer_key()?,
            exporter: connection.exporter(EXPORTER_LABEL)?,
        })
    }

    /// Whether both carriers use the same path: the same transport to the same machine, or the same
    /// relay. Such carriers are likely to fail together.
    pub fn shares_path_with(&self, other: &CarrierInfo) -> bool {
        let machine = |info: &CarrierInfo| info.remote.map(|remote| remote.ip());
        (self.kind, &self.via, machine(self)) == (other.kind, &other.via, machine(other))
    }
}

/// Transports of carriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP.
    Tls,
    /// An in-process stream, for tests and embedding.
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

/// A frame from the peer.
#[derive(Debug)]
pub struct ReceivedFrame {
    /// The frame.
    pub frame: Frame,
    /// It arrived as a datagram: out of order relative to the stream, and possibly a duplicate.
    pub is_copy: bool,
}

/// One carrier. It is boxed, because channels of carriers allocate dozens of slots.
pub struct Carrier {
    parts: Box<Parts>,
}

struct Parts {
    info: CarrierInfo,
    link: Link,
    inbox: BytesMut,
    reader: FrameReader,
    outbox: BytesMut,
    /// Taken from the outbox, and not yet accepted by the transport.
    writing: Bytes,
    rtt_probe: RttProbe,
}

/// Measures the round trip with ping frames, for transports that do not.
#[derive(Default)]
struct RttProbe {
    asked: Option<(u64, Instant)>,
    rtt: Option<Duration>,
}

impl RttProbe {
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
            // Smoothed as in TCP (RFC 6298 section 2).
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
                writing: Bytes::new(),
                rtt_probe: RttProbe::default(),
            }),
        }
    }

    /// Records that the carrier goes through a relay, a proxy or a program.
    pub(crate) fn via(mut self, what: Arc<str>, rank: Rank) -> Carrier {
        self.parts.info.via = Some(what);
        self.parts.info.rank = rank;
        self
    }

    /// What both ends proved.
    pub fn info(&self) -> &CarrierInfo {
        &self.parts.info
    }

    /// Smoothed round-trip time; `None` until it is known.
    pub fn rtt(&self) -> Option<Duration> {
        self.parts.link.rtt().or(self.parts.rtt_probe.rtt)
    }

    /// Number of packets received, whatever they contain. If it changes, the path works.
    pub fn packets_received(&self) -> u64 {
        self.parts.link.packets_received()
    }

    /// Whether [`Carrier::packets_received`] counts the acknowledgements of the peer's transport.
    /// Behind a relay, a proxy or a program it does not: only what the peer itself sends arrives
    /// from end to end.
    pub fn sees_transport_acks(&self) -> bool {
        self.parts.link.sees_transport_acks()
    }

    /// Changes whenever the peer's transport acknowledges something new. `None` if the transport
    /// does not tell.
    pub fn ack_mark(&self) -> Option<u64> {
        self.parts.link.ack_mark()
    }

    /// Changes whenever the peer shows that it receives what we send: [`Carrier::ack_mark`] or,
    /// without it, [`Carrier::packets_received`].
    pub fn answer_mark(&self) -> u64 {
        self.ack_mark().unwrap_or_else(|| self.packets_received())
    }

    /// Whether the transport has found that only small packets arrive at the peer. Meant for a lead
    /// that delivers nothing.
    pub fn is_black_hole(&self) -> bool {
        self.parts.link.is_black_hole()
    }

    /// How often the peer noticed that our address changed, usually because a NAT dropped its
    /// binding.
    pub fn rebindings(&self) -> u64 {
        self.parts.link.rebindings()
    }

    /// Packets sent, and lost packets among them; `None` if the transport does not count them.
    pub fn losses(&self) -> Option<(u64, u64)> {
        self.parts.link.losses()
    }

    /// Largest UDP payload that the path is known to carry; `None` for other transports.
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

    /// Receives one message, without its length prefix.
    ///
    /// # Errors
    /// The carrier is lost, or the message is too large.
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

    /// Waits until the carrier is lost. What the peer sends meanwhile is kept for
    /// [`Carrier::read_message`].
    pub async fn lost(&mut self) -> CarrierError {
        std::future::poll_fn(|cx| {
            // If the peer sends more than one message can hold, reading pauses.
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

    /// Raises the receive window to that of a session. Before, it is very small.
    pub fn raise_receive_window(&self) {
        self.parts.link.raise_receive_window();
    }

    /// The next frame from the peer. Frames are in order, except probes, their answers and copies,
    /// which may overtake others.
    ///
    /// # Errors
    /// The carrier is lost, or the peer sent an invalid frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<ReceivedFrame, CarrierError>> {
        loop {
            if let Some(frame) = self.parts.reader.next(&mut self.parts.inbox)? {
                self.parts.rtt_probe.handle_received(&frame);
                return Poll::Ready(Ok(ReceivedFrame { frame, is_copy: false }));
            }
            // A datagram contains one frame; the rest of it is reserved for later versions. The
            // loss of the connection is reported by the stream, after everything that arrived on it
            // was read.
            if let Poll::Ready(Ok(datagram)) = self.parts.link.poll_datagram(cx)
                && let Some(frame) = Frame::decode(&mut BytesMut::from(datagram))?
            {
                return Poll::Ready(Ok(ReceivedFrame { frame, is_copy: true }));
            }
            ready!(self.parts.link.poll_read(cx, &mut self.parts.inbox))?;
        }
    }

    /// Sends a small frame, ahead of the queue if the transport has datagrams. It may get lost.
    pub fn send_now(&mut self, frame: &Frame) {
        self.parts.rtt_probe.handle_sent(frame);
        let mut encoded = BytesMut::new();
        frame.encode(&mut encoded);
        // A peer that keeps sending pings but does not read gets no more answers than fit.
        if !self.parts.link.send_datagram(encoded.clone().freeze()) && self.parts.outbox.len() < MAX_UNREAD {
            self.parts.outbox.extend_from_slice(&encoded);
        }
    }

    /// Makes the peer acknowledge something, so that [`Carrier::answer_mark`] changes.
    pub fn solicit_ack(&mut self, token: u64) {
        self.send_now(&match self.ack_mark() {
            // The peer ignores an unsolicited pong, but its transport acknowledges it.
            Some(_) => Frame::Pong { token },
            None => Frame::Ping { token },
        });
    }

    /// Sends a copy of data that travels on another carrier or on this one's stream. It may get
    /// lost. Without datagrams it is queued, unless the queue does not move.
    pub fn send_copy(&mut self, copy: Bytes) {
        if fault::loses_copies() {
            return;
        }
        if !self.parts.link.send_datagram(copy.clone()) && self.is_flushed() {
            self.parts.outbox.extend_from_slice(&copy);
        }
    }

    /// The buffer for outgoing frames. The caller bounds its size.
    pub fn outbox(&mut self) -> &mut BytesMut {
        &mut self.parts.outbox
    }

    /// Whether the transport has accepted everything in the outbox.
    pub fn is_flushed(&self) -> bool {
        self.parts.outbox.is_empty() && self.parts.writing.is_empty()
    }

    /// Writes the outbox to the transport; ready once it accepted everything.
    ///
    /// # Errors
    /// The carrier is lost.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        while !self.is_flushed() {
            if self.parts.writing.is_empty() {
                // A partly consumed buffer would keep all of its memory.
                self.parts.writing = std::mem::take(&mut self.parts.outbox).freeze();
            }
            ready!(self.parts.link.poll_write(cx, &mut self.parts.writing))?;
        }
        self.parts.link.poll_flush(cx)
    }

    /// Sends `answer` if that is possible without blocking, and closes. A QUIC close carries the
    /// reason; on other transports the answer arrives unless bytes of the peer arrive afterwards
    /// and cause a reset.
    pub(crate) fn turn_away(mut self, answer: &[u8], reason: CloseReason) {
        self.parts.outbox.extend_from_slice(answer);
        // Errors do not matter for a peer that is turned away.
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()));
        self.close(reason);
    }

    /// Closes at once. Bytes that were not sent yet are lost.
    pub fn close(&mut self, reason: CloseReason) {
        self.parts.link.close(reason);
    }

    /// Sends what is queued, waits up to 2 s until the peer has received it, and closes. Returns
    /// whether the peer has received it.
    pub async fn finish(mut self, reason: CloseReason) -> bool {
        let finishing =
            async { std::future::poll_fn(|cx| self.poll_flush(cx)).await.is_ok() && self.parts.link.finish().await };
        let delivered = tokio::time::timeout(FINISH_TIMEOUT, finishing).await;
        self.parts.link.close(reason);
        flush_transport().await;
        delivered.unwrap_or(false)
    }
}

/// Why a carrier was lost. The session continues on another one.
#[derive(Debug, thiserror::Error)]
pub enum CarrierError {
    /// The connection failed, or the peer closed it.
    #[error("carrier lost: {0}")]
    Lost(Quoting<quinn::ConnectionError>),
    /// The peer has too many carriers without a session; it may accept this one later.
    #[error("the server half has too many connections without a session for now")]
    Busy,
    /// The byte stream failed.
    #[error("carrier broke: {0}")]
    Stream(Quoting<std::io::Error>),
    /// The peer closed the byte stream cleanly.
    #[error("peer closed the carrier")]
    Closed,
    /// The TLS handshake succeeded without a key of the peer.
    #[error(transparent)]
    NoPeerKey(#[from] NoPeerKey),
    /// The peer violated the protocol.
    #[error("peer broke the protocol")]
    Protocol(#[from] DecodeError),
}

impl From<quinn::ConnectionError> for CarrierError {
    fn from(error: quinn::ConnectionError) -> CarrierError {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) if close.error_code == CloseReason::Busy.code() => {
                CarrierError::Busy
            }
            error => CarrierError::Lost(Quoting(error)),
        }
    }
}

impl From<std::io::Error> for CarrierError {
    fn from(error: std::io::Error) -> CarrierError {
        CarrierError::Stream(Quoting(error))
    }
}

impl CarrierError {
    /// Whether the error came from the peer's host, which is thus reachable. It need not know the
    /// carrier any more.
    pub fn is_from_peer(&self) -> bool {
        use quinn::ConnectionError::{ApplicationClosed, ConnectionClosed, Reset};
        match self {
            CarrierError::Lost(error) => matches!(**error, Reset | ApplicationClosed(_) | ConnectionClosed(_)),
            CarrierError::Busy | CarrierError::Closed | CarrierError::NoPeerKey(_) | CarrierError::Protocol(_) => true,
            // Anything on the path may have sent a TCP reset.
            CarrierError::Stream(_) => false,
        }
    }

    /// Whether the peer closed the carrier because it was done ([`CloseReason::Done`]).
    pub fn is_peer_done(&self) -> bool {
        match self {
            CarrierError::Lost(error) => matches!(&**error,
                quinn::ConnectionError::ApplicationClosed(close) if close.error_code == CloseReason::Done.code()),
            CarrierError::Closed => true,
            CarrierError::Busy | CarrierError::Stream(_) | CarrierError::NoPeerKey(_) | CarrierError::Protocol(_) => {
                false
            }
        }
    }
}
