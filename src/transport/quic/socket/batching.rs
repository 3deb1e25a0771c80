//! A UDP socket that combines several transmits of quinn into one system call (UDP generic
//! segmentation offload, GSO).
//!
//! quinn sends a few packets at a time, but the kernel takes up to 64 KiB per call. Each call
//! traverses the whole network stack and wakes the receiver, so a full transmit is held back for
//! the next one. There is no timer: a transmit that is not full is sent immediately together with
//! everything held back, and what is held back is sent when the endpoint's task, which is woken at
//! once, polls the socket. If batches do not arrive on a path, each packet is sent by a call of its
//! own.

use crate::transport::quic::gso::{self, GsoPoller};
use parking_lot::Mutex;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Packets in a full transmit. quinn's default is ten, and each connection allocates memory for as
/// many.
pub(super) const SEGMENTS_PER_TRANSMIT: usize = 4;

/// Most bytes per call: the limit of a UDP datagram applies to all packets of a batch together,
/// including IPv6 headers.
const MAX_BATCH_BYTES: usize = 65_000;

/// A socket that batches transmits.
#[derive(Debug)]
pub(super) struct BatchingSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    pending: Mutex<PendingBatch>,
}

#[derive(Debug, Default)]
struct PendingBatch {
    bytes: Vec<u8>,
    /// What the packets in `bytes` have in common; `None` if nothing is held back.
    key: Option<BatchKey>,
    /// How many more polls of the endpoint's task to wait for: on the first, the connection may
    /// still be sending.
    polls: u8,
    /// The endpoint's task. Without it nothing is held back.
    endpoint: Option<Waker>,
    /// Wakes that task when the socket becomes writable.
    writable: Option<Pin<Box<dyn UdpPoller>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BatchKey {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    packet: usize,
    source: Option<IpAddr>,
}

impl BatchKey {
    /// `None` for a single packet.
    fn of(transmit: &Transmit<'_>) -> Option<BatchKey> {
        Some(BatchKey {
            destination: transmit.destination,
            ecn: transmit.ecn,
            packet: transmit.segment_size?,
            source: transmit.src_ip,
        })
    }

    fn transmit(self, contents: &[u8]) -> Transmit<'_> {
        Transmit {
            destination: self.destination,
            ecn: self.ecn,
            contents,
            segment_size: Some(self.packet),
            src_ip: self.source,
        }
    }
}

impl PendingBatch {
    /// Whether the transmit can be appended to the batch.
    fn fits(&self, transmit: &Transmit<'_>, most_packets: usize) -> bool {
        let Some(key) = self.key else { return false };
        // A single packet has no segment size. It may be the last packet of a batch, and shorter.
        let packet = transmit.segment_size.unwrap_or(transmit.contents.len());
        let is_alike = BatchKey { packet, ..key }
            == BatchKey {
                destination: transmit.destination,
                ecn: transmit.ecn,
                packet,
                source: transmit.src_ip,
            };
        // Nothing can follow a shorter packet: the kernel splits the batch at multiples of the
        // packet size.
        let ends_whole = self.bytes.len().is_multiple_of(key.packet);
        let fits_in = transmit
            .segment_size
            .map_or(packet <= key.packet, |packet| packet == key.packet);
        let most = (most_packets * key.packet).min(MAX_BATCH_BYTES);
        is_alike && fits_in && ends_whole && self.bytes.len() + transmit.contents.len() <= most
    }

    fn send(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        let Some(key) = self.key else { return Ok(()) };
        match socket.try_send(&key.transmit(&self.bytes)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            sent => {
                self.bytes.clear();
                self.key = None;
                self.writable = None;
                sent
            }
        }
    }
}

impl BatchingSocket {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Arc<BatchingSocket> {
        Arc::new(BatchingSocket {
            socket,
            pending: Mutex::default(),
        })
    }

    /// The endpoint's task polls for received packets: sends what is held back, unless that task
    /// was woken only just now.
    fn poll_pending(&self, cx: &mut Context<'_>) {
        let mut pending = self.pending.lock();
        if pending
            .endpoint
            .as_ref()
            .is_none_or(|endpoint| !endpoint.will_wake(cx.waker()))
        {
            pending.endpoint = Some(cx.waker().clone());
        }
        if pending.key.is_none() {
            return;
        }
        pending.polls = pending.polls.saturating_sub(1);
        if pending.polls > 0 {
            return cx.waker().wake_by_ref();
        }
        // For quinn, a packet that the kernel rejects is lost on the way.
        while pending
            .send(&*self.socket)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            let writable = pending
                .writable
                .get_or_insert_with(|| Arc::clone(&self.socket).create_io_poller());
            match writable.as_mut().poll_writable(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return cx.waker().wake_by_ref(),
                Poll::Pending => return,
            }
        }
    }

    /// Sends each packet by a call of its own. If the buffer fills up in between, quinn sends all
    /// of them again: duplicates do no harm.
    fn send_segments(&self, transmit: &Transmit<'_>, packet: usize) -> io::Result<()> {
        self.pending.lock().send(&*self.socket)?;
        transmit.contents.chunks(packet).try_for_each(|contents| {
            self.socket.try_send(&Transmit {
                destination: transmit.destination,
                ecn: transmit.ecn,
                contents,
                segment_size: None,
                src_ip: transmit.src_ip,
            })
        })
    }
}

impl AsyncUdpSocket for BatchingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(GsoPoller::new(Arc::clone(&self.socket).create_io_poller()))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Some(packet) = transmit.segment_size
            && !gso::is_allowed(transmit.contents.len())
        {
            return self.send_segments(transmit, packet);
        }
        let mut pending = self.pending.lock();
        let most_packets = self.socket.max_transmit_segments();
        if !pending.fits(transmit, most_packets) {
            pending.send(&*self.socket)?;
        }
        let key = BatchKey::of(transmit).filter(|key| transmit.contents.len() == SEGMENTS_PER_TRANSMIT * key.packet);
        let is_full = key.is_some() && pending.endpoint.is_some();
        if pending.key.is_none() {
            if !is_full {
                return self.socket.try_send(transmit);
            }
            pending.key = key;
        }
        pending.bytes.extend_from_slice(transmit.contents);
        if is_full && pending.fits(transmit, most_packets) {
            pending.polls = 2;
            if let Some(endpoint) = &pending.endpoint {
                endpoint.wake_by_ref();
            }
            return Ok(());
        }
        match pending.send(&*self.socket) {
            // The packets were accepted. They are sent with the next transmit, or when the
            // endpoint's task polls.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                pending.endpoint.iter().for_each(Waker::wake_by_ref);
                Ok(())
            }
            sent => sent,
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.poll_pending(cx);
        self.socket.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments().min(SEGMENTS_PER_TRANSMIT)
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
