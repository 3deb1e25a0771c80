//! A UDP socket that sends what quinn gives it in pieces by fewer system calls.
//!
//! quinn hands over a few packets at a time, the kernel takes 64 KiB at once. Each call goes through the whole network stack and wakes
//! whoever receives, so a full piece is held back for the next one. Nothing waits for time to pass: whatever is no full piece goes out
//! at once, with all that is held, if the kernel has room; and what is held goes out when the endpoint's task comes around, which is
//! woken right then. Where joined packets do not arrive, each leaves by a call of its own.

use crate::carrier::quic::departure;
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Packets in a full piece. quinn would join ten at most by itself, and each connection keeps memory for as many as it may.
pub(super) const PIECE: usize = 4;

/// Most bytes in one call: a UDP datagram's own limit holds for all packets of it together, IPv6 headers and all.
const MOST: usize = 65_000;

/// A socket that joins.
#[derive(Debug)]
pub(super) struct Joining {
    socket: Arc<dyn AsyncUdpSocket>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    /// What the packets in `bytes` have in common.
    like: Option<Alike>,
    /// How often the endpoint's task is to look for arrivals first: after once, the connection may be in the middle of it.
    turns: u8,
    /// The endpoint's task. Without one nothing is held.
    endpoint: Option<Waker>,
    /// Tells that task when the kernel has room again.
    room: Option<Pin<Box<dyn UdpPoller>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Alike {
    destination: SocketAddr,
    ecn: Option<EcnCodepoint>,
    packet: usize,
    source: Option<IpAddr>,
}

impl Alike {
    /// `None` for a single packet.
    fn of(transmit: &Transmit<'_>) -> Option<Alike> {
        Some(Alike {
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

impl Held {
    /// Whether it may go behind what is held, in the same call.
    fn fits(&self, transmit: &Transmit<'_>, most_packets: usize) -> bool {
        let Some(like) = self.like else { return false };
        // One packet alone has no size for all, and may be the last and shorter.
        let packet = transmit.segment_size.unwrap_or(transmit.contents.len());
        let is_alike = Alike { packet, ..like }
            == Alike {
                destination: transmit.destination,
                ecn: transmit.ecn,
                packet,
                source: transmit.src_ip,
            };
        // Behind a shorter one there is no place: the kernel cuts at every so many bytes.
        let ends_whole = self.bytes.len().is_multiple_of(like.packet);
        let fits_in = transmit
            .segment_size
            .map_or(packet <= like.packet, |packet| packet == like.packet);
        let most = (most_packets * like.packet).min(MOST);
        is_alike && fits_in && ends_whole && self.bytes.len() + transmit.contents.len() <= most
    }

    fn send(&mut self, socket: &dyn AsyncUdpSocket) -> io::Result<()> {
        let Some(like) = self.like else { return Ok(()) };
        match socket.try_send(&like.transmit(&self.bytes)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            sent => {
                self.bytes.clear();
                self.like = None;
                self.room = None;
                sent
            }
        }
    }
}

impl Joining {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>) -> Arc<Joining> {
        Arc::new(Joining {
            socket,
            held: Mutex::default(),
        })
    }

    /// The endpoint's task looks for what has arrived: time to send what is held, unless it was only just woken.
    fn come_around(&self, cx: &mut Context<'_>) {
        let mut held = self.held();
        if held
            .endpoint
            .as_ref()
            .is_none_or(|endpoint| !endpoint.will_wake(cx.waker()))
        {
            held.endpoint = Some(cx.waker().clone());
        }
        if held.like.is_none() {
            return;
        }
        held.turns = held.turns.saturating_sub(1);
        if held.turns > 0 {
            return cx.waker().wake_by_ref();
        }
        // What the system refuses for good is lost on the way, as far as quinn is concerned.
        while held
            .send(&*self.socket)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            let room = held
                .room
                .get_or_insert_with(|| Arc::clone(&self.socket).create_io_poller());
            match room.as_mut().poll_writable(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return cx.waker().wake_by_ref(),
                Poll::Pending => return,
            }
        }
    }

    /// Sends each packet alone. Where there is no room for the last ones, all come again: what arrives twice counts once.
    fn send_singly(&self, transmit: &Transmit<'_>, packet: usize) -> io::Result<()> {
        self.held().send(&*self.socket)?;
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

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for Joining {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Some(packet) = transmit.segment_size
            && !departure::may_join(transmit.contents.len())
        {
            return self.send_singly(transmit, packet);
        }
        let mut held = self.held();
        let most_packets = self.socket.max_transmit_segments();
        if !held.fits(transmit, most_packets) {
            held.send(&*self.socket)?;
        }
        let like = Alike::of(transmit).filter(|like| transmit.contents.len() == PIECE * like.packet);
        let is_full = like.is_some() && held.endpoint.is_some();
        if held.like.is_none() {
            if !is_full {
                return self.socket.try_send(transmit);
            }
            held.like = like;
        }
        held.bytes.extend_from_slice(transmit.contents);
        if is_full && held.fits(transmit, most_packets) {
            held.turns = 2;
            if let Some(endpoint) = &held.endpoint {
                endpoint.wake_by_ref();
            }
            return Ok(());
        }
        match held.send(&*self.socket) {
            // It was taken, and goes out with the next, or when the endpoint's task comes around.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                held.endpoint.iter().for_each(Waker::wake_by_ref);
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
        self.come_around(cx);
        self.socket.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments().min(PIECE)
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
