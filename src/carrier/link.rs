//! The transport under a carrier: a QUIC connection or a byte stream.

use super::CarrierError;
use crate::transport::quic::congestion;
use crate::transport::{CloseReason, Duplex};
use bytes::{Buf, Bytes, BytesMut};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::io::poll_read_buf;

/// Largest read from a byte stream.
const READ_SIZE: usize = 32 * 1024;

/// Most chunks per read from QUIC. A chunk is usually the content of one packet.
const MAX_CHUNKS: usize = 32;

/// A write of at least this size is part of a bulk transfer.
const BULK: usize = 4 * 1024;
/// Limits of the send window.
const MIN_SEND_WINDOW: u64 = 128 * 1024;
const MAX_SEND_WINDOW: u64 = 16 << 20;

/// Interval in packets between two checks for loss.
const LOSS_CHECK_PACKETS: u64 = 500;

pub(super) enum Link {
    Quic(QuicLink),
    Stream(StreamLink),
}

/// One bidirectional stream of a QUIC connection, and its datagrams.
pub(super) struct QuicLink {
    pub(super) connection: quinn::Connection,
    pub(super) send: quinn::SendStream,
    pub(super) recv: quinn::RecvStream,
    /// The pending receive. quinn forgets a waiter whose future is dropped.
    datagram: Option<DatagramRead>,
    trusted_window: quinn::VarInt,
    loss_check: LossCheck,
}

/// Packet counters at the last check, and whether packets were lost before it.
#[derive(Default)]
struct LossCheck {
    sent: u64,
    lost: u64,
    is_lossy: bool,
}

type DatagramRead = Pin<Box<dyn Future<Output = Result<Bytes, quinn::ConnectionError>> + Send>>;

/// Any ordered byte stream.
pub(super) struct StreamLink {
    stream: Box<dyn Duplex>,
    /// Number of successful reads: on some paths this is all that is known of received packets.
    reads: u64,
    /// Whether only the peer can end the stream cleanly.
    end_is_authentic: bool,
}

impl StreamLink {
    /// A stream without authentication of its end.
    pub(super) fn plain(stream: impl Duplex + 'static) -> StreamLink {
        StreamLink {
            stream: Box::new(stream),
            reads: 0,
            end_is_authentic: false,
        }
    }

    /// A stream that only the peer can end cleanly.
    pub(super) fn tls(stream: impl Duplex + 'static) -> StreamLink {
        StreamLink {
            end_is_authentic: true,
            ..StreamLink::plain(stream)
        }
    }

    /// Sends the clean end of the stream if that is possible without blocking.
    fn send_close_notify(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        // If it cannot be sent, the peer sees a broken stream.
        let _ = Pin::new(&mut self.stream).poll_shutdown(&mut cx);
    }

    /// Ends our direction and waits for the end of the other: then the peer has read everything. A
    /// peer that dropped the stream without reading resets it.
    async fn finish(&mut self) -> bool {
        if self.stream.shutdown().await.is_err() {
            return false;
        }
        let mut rest = [0; 1024];
        loop {
            match self.stream.read(&mut rest).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::UnexpectedEof,
            }
        }
    }
}

impl QuicLink {
    pub(super) fn new(
        connection: quinn::Connection,
        (send, recv): (quinn::SendStream, quinn::RecvStream),
        trusted_window: quinn::VarInt,
    ) -> QuicLink {
        QuicLink {
            connection,
            send,
            recv,
            datagram: None,
            trusted_window,
            loss_check: LossCheck::default(),
        }
    }
}

impl QuicLink {
    /// Keeps little more queued in the transport than is in flight, because later frames cannot
    /// overtake the queue: an ack behind megabytes of upload would stall the download. If packets
    /// are lost, the window is larger: quinn counts everything from the first missing byte on, and
    /// a packet that is lost twice is missing for three round trips.
    fn tune_send_window(&mut self, writing: usize) {
        if writing < BULK {
            return;
        }
        let path = self.connection.stats().path;
        if path.sent_packets >= self.loss_check.sent + LOSS_CHECK_PACKETS {
            self.loss_check = LossCheck {
                sent: path.sent_packets,
                lost: path.lost_packets,
                is_lossy: path.lost_packets > self.loss_check.lost,
            };
        }
        let windows = if self.loss_check.is_lossy { 4 } else { 2 };
        self.connection
            .set_send_window((windows * path.cwnd).clamp(MIN_SEND_WINDOW, MAX_SEND_WINDOW));
    }
}

impl QuicLink {
    /// Reads what has arrived in order. Returns the number of bytes.
    fn poll_read(&mut self, cx: &mut Context<'_>, inbox: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut packets = [const { Bytes::new() }; MAX_CHUNKS];
        let read = ready!(pin!(self.recv.read_chunks(&mut packets)).poll(cx))?;
        let packets = &packets[..read.unwrap_or(0)];
        let len = packets.iter().map(Bytes::len).sum();
        inbox.reserve(len);
        packets.iter().for_each(|bytes| inbox.extend_from_slice(bytes));
        Poll::Ready(Ok(len))
    }
}

impl Link {
    pub(super) fn rtt(&self) -> Option<Duration> {
        match self {
            Link::Quic(quic) => Some(quic.connection.rtt()),
            Link::Stream(stream) => stream.stream.transport_stats().map(|stats| stats.rtt),
        }
    }

    pub(super) fn packets_received(&self) -> u64 {
        match self {
            Link::Quic(quic) => quic.connection.stats().udp_rx.datagrams,
            Link::Stream(stream) => match stream.stream.transport_stats() {
                Some(stats) => stats.heard.into(),
                None => stream.reads,
            },
        }
    }

    pub(super) fn sees_transport_acks(&self) -> bool {
        match self {
            Link::Quic(_) => true,
            Link::Stream(stream) => stream.stream.transport_stats().is_some(),
        }
    }

    pub(super) fn ack_mark(&self) -> Option<u64> {
        match self {
            // ACK frames cannot be counted, because a peer that sends data repeats its last
            // acknowledgement in each packet. But an acknowledgement of something new gives an RTT
            // sample, and no two smoothed values are equal to the nanosecond.
            Link::Quic(quic) => Some(quic.connection.rtt().as_nanos() as u64),
            Link::Stream(_) => None,
        }
    }

    pub(super) fn is_black_hole(&self) -> bool {
        match self {
            Link::Quic(quic) => congestion::is_black_hole(&quic.connection),
            Link::Stream(_) => false,
        }
    }

    pub(super) fn rebindings(&self) -> u64 {
        match self {
            // The peer sends PATH_CHALLENGE when our packets come from a new address (RFC 9000
            // section 9.3).
            Link::Quic(quic) => quic.connection.stats().frame_rx.path_challenge,
            Link::Stream(_) => 0,
        }
    }

    pub(super) fn losses(&self) -> Option<(u64, u64)> {
        match self {
            Link::Quic(quic) => {
                let path = quic.connection.stats().path;
                Some((path.sent_packets, path.lost_packets))
            }
            Link::Stream(_) => None,
        }
    }

    pub(super) fn mtu(&self) -> Option<u16> {
        match self {
            Link::Quic(quic) => Some(quic.connection.stats().path.current_mtu),
            Link::Stream(_) => None,
        }
    }

    pub(super) fn raise_receive_window(&self) {
        if let Link::Quic(quic) = self {
            quic.connection.set_receive_window(quic.trusted_window);
        }
    }

    /// Appends at least one byte to `inbox`. While there is nothing to read, an empty inbox holds
    /// no memory.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, inbox: &mut BytesMut) -> Poll<Result<(), CarrierError>> {
        let read = match self {
            Link::Quic(quic) => {
                let read = quic.poll_read(cx, inbox);
                if read.is_pending() && inbox.is_empty() {
                    *inbox = BytesMut::new();
                }
                ready!(read)
            }
            Link::Stream(stream) => {
                inbox.reserve(READ_SIZE);
                let read = ready!(poll_read_buf(Pin::new(&mut stream.stream), cx, inbox));
                stream.reads += 1;
                read
            }
        };
        match read {
            Ok(0) if self.end_is_authentic() => Poll::Ready(Err(CarrierError::Closed)),
            Ok(0) => Poll::Ready(Err(self.lost(io::ErrorKind::UnexpectedEof.into()))),
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(self.lost(error))),
        }
    }

    /// Writes at least one byte from the front of `bytes`.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<Result<(), CarrierError>> {
        let written = match self {
            Link::Quic(quic) => {
                quic.tune_send_window(bytes.len());
                // Takes what fits without a copy, and leaves the rest in `bytes`.
                let chunks = std::slice::from_mut(bytes);
                ready!(pin!(quic.send.write_chunks(chunks)).poll(cx))
                    .map(|_| ())
                    .map_err(io::Error::from)
            }
            Link::Stream(stream) => {
                ready!(Pin::new(&mut stream.stream).poll_write(cx, bytes)).map(|written| bytes.advance(written))
            }
        };
        Poll::Ready(written.map_err(|error| self.lost(error)))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CarrierError>> {
        match self {
            Link::Quic(_) => Poll::Ready(Ok(())),
            Link::Stream(stream) => Pin::new(&mut stream.stream).poll_flush(cx).map_err(CarrierError::from),
        }
    }

    /// The next datagram, if the transport has datagrams.
    pub(super) fn poll_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, CarrierError>> {
        let Link::Quic(quic) = self else { return Poll::Pending };
        let read = quic.datagram.get_or_insert_with(|| {
            let connection = quic.connection.clone();
            Box::pin(async move { connection.read_datagram().await })
        });
        let datagram = ready!(read.as_mut().poll(cx));
        quic.datagram = None;
        Poll::Ready(datagram.map_err(CarrierError::from))
    }

    /// Whether the bytes were sent as a datagram.
    pub(super) fn send_datagram(&self, bytes: Bytes) -> bool {
        match self {
            Link::Quic(quic) => quic.connection.send_datagram(bytes).is_ok(),
            Link::Stream(_) => false,
        }
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        match self {
            Link::Quic(quic) => reason.close(&quic.connection),
            Link::Stream(stream) if reason == CloseReason::Done => stream.send_close_notify(),
            // Dropped: the peer cannot distinguish this from a failure of the path.
            Link::Stream(_) => {}
        }
    }

    /// Ends this direction and waits until the peer has received all of it.
    ///
    /// Closing a QUIC connection discards what its streams still hold. Therefore only the side that
    /// dialled closes first, and the other waits for that.
    pub(super) async fn finish(&mut self) -> bool {
        match self {
            Link::Quic(quic) => {
                if quic.send.finish().is_err() {
                    return false;
                }
                if quic.connection.side().is_client() {
                    quic.send.stopped().await.is_ok()
                } else {
                    matches!(
                        quic.connection.closed().await,
                        quinn::ConnectionError::ApplicationClosed(_)
                    )
                }
            }
            Link::Stream(stream) => stream.finish().await,
        }
    }

    fn end_is_authentic(&self) -> bool {
        matches!(self, Link::Stream(stream) if stream.end_is_authentic)
    }

    /// The reason of the connection, if known, says more than the error of the stream.
    fn lost(&self, error: io::Error) -> CarrierError {
        match self {
            Link::Quic(quic) => match quic.connection.close_reason() {
                Some(reason) => reason.into(),
                None => error.into(),
            },
            Link::Stream(_) => error.into(),
        }
    }
}
