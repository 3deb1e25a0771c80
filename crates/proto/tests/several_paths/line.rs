//! A carrier: a QUIC connection on one path, with one ordered stream and datagrams.

use crate::network::{CLIENT, Path};
use bowline_proto::connection::{PathClose, PathIndex, PathTransport, Paths};
use bowline_proto::wire::{Answer, Frame, Hello};
use bytes::{Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// A connection is lost after this long without a packet from its peer (`IDLE_TIMEOUT` of the QUIC settings).
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

#[derive(Clone)]
pub(crate) enum Packet {
    /// The piece of the stream with this number.
    Stream(u64, Piece),
    Datagram(Frame),
    Copy(Bytes),
    /// It only elicits an acknowledgement.
    Keepalive,
    /// Of all pieces before this number.
    Ack(u64),
    Close,
}

#[derive(Clone)]
pub(crate) enum Piece {
    Hello(Hello),
    Answer(Answer),
    Frames(Bytes),
}

/// What one end of a carrier has counted.
#[derive(Default)]
struct Counts {
    received: Cell<u64>,
    acks: Cell<u64>,
    rebindings: Cell<u64>,
}

/// One end of a carrier.
struct End {
    counts: Rc<Counts>,
    is_open: bool,
    unacked: VecDeque<(u64, Piece)>,
    sent: u64,
    received: u64,
    /// When the unacknowledged pieces are sent again, and after which pause.
    resend: Option<(Duration, Duration)>,
    heard: Duration,
}

pub(crate) struct Line {
    pub(crate) path: usize,
    rtt: Duration,
    ends: [End; 2],
    /// When the client has sent last, for the NAT.
    said: Duration,
}

impl Line {
    pub(crate) fn new(path: usize, rtt: Duration, now: Duration) -> Line {
        let end = || End {
            counts: Rc::default(),
            is_open: true,
            unacked: VecDeque::new(),
            sent: 0,
            received: 0,
            resend: None,
            heard: now,
        };
        Line {
            path,
            rtt,
            ends: [end(), end()],
            said: now,
        }
    }

    pub(crate) fn is_open(&self, me: usize) -> bool {
        self.ends[me].is_open
    }

    pub(crate) fn close(&mut self, me: usize) {
        self.ends[me].is_open = false;
        self.ends[me].resend = None;
    }

    /// The next packet of the stream.
    pub(crate) fn packet(&mut self, me: usize, piece: Piece, now: Duration) -> Packet {
        let pause = self.rtt * 3;
        let end = &mut self.ends[me];
        end.sent += 1;
        end.unacked.push_back((end.sent, piece.clone()));
        end.resend.get_or_insert((now + pause, pause));
        Packet::Stream(end.sent, piece)
    }

    /// When a packet that is sent now arrives.
    pub(crate) fn travel(&mut self, path: &Path, me: usize, now: Duration) -> Option<Duration> {
        let is_forgotten = path.nat.is_some_and(|nat| now > self.said + nat);
        if me == CLIENT {
            self.said = now;
            if is_forgotten {
                let rebindings = &self.ends[CLIENT].counts.rebindings;
                rebindings.set(rebindings.get() + 1);
            }
        } else if is_forgotten {
            return None;
        }
        path.travel(me, now)
    }

    /// A packet has arrived. Returns what it contains if that is new, and the acknowledgement to send.
    pub(crate) fn receive(&mut self, me: usize, packet: Packet, now: Duration) -> (Option<Packet>, Option<Packet>) {
        let pause = self.rtt * 3;
        let end = &mut self.ends[me];
        end.heard = now;
        end.counts.received.set(end.counts.received.get() + 1);
        match packet {
            Packet::Ack(before) => {
                end.counts.acks.set(end.counts.acks.get() + 1);
                end.unacked.retain(|(number, _)| *number >= before);
                end.resend = (!end.unacked.is_empty()).then_some((now + pause, pause));
                (None, None)
            }
            Packet::Close => (Some(packet), None),
            Packet::Stream(number, _) if number != end.received + 1 => (None, Some(Packet::Ack(end.received + 1))),
            Packet::Stream(number, _) => {
                end.received = number;
                (Some(packet), Some(Packet::Ack(number + 1)))
            }
            Packet::Datagram(_) | Packet::Copy(_) | Packet::Keepalive => {
                (Some(packet), Some(Packet::Ack(end.received + 1)))
            }
        }
    }

    /// The packets to send again now.
    pub(crate) fn resend(&mut self, me: usize, now: Duration) -> Vec<Packet> {
        let end = &mut self.ends[me];
        let Some((at, pause)) = end.resend.filter(|(at, _)| *at <= now) else {
            return Vec::new();
        };
        end.resend = Some((at + pause * 2, pause * 2));
        let unacked = end.unacked.iter().cloned();
        unacked.map(|(number, piece)| Packet::Stream(number, piece)).collect()
    }

    /// Whether nothing was heard for too long.
    pub(crate) fn is_timed_out(&self, me: usize, now: Duration) -> bool {
        self.ends[me].is_open && now >= self.ends[me].heard + IDLE_TIMEOUT
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        let ends = self.ends.iter().filter(|end| end.is_open);
        ends.flat_map(|end| [Some(end.heard + IDLE_TIMEOUT), end.resend.map(|(at, _)| at)])
            .flatten()
            .min()
    }

    /// The carrier as a path of one half's connection.
    pub(crate) fn transport(&self, id: usize, me: usize, path: &Path, closed: &Rc<RefCell<Vec<usize>>>) -> LinePath {
        LinePath {
            id,
            path: self.path,
            rtt: self.rtt,
            shows_acks: path.shows_acks,
            counts: Rc::clone(&self.ends[me].counts),
            outbox: BytesMut::new(),
            packets: Vec::new(),
            closed: Rc::clone(closed),
        }
    }
}

/// A carrier as a path of a connection. What is sent waits here until the simulation takes it.
pub(crate) struct LinePath {
    pub(crate) id: usize,
    pub(crate) path: usize,
    rtt: Duration,
    shows_acks: bool,
    counts: Rc<Counts>,
    pub(crate) outbox: BytesMut,
    pub(crate) packets: Vec<Packet>,
    closed: Rc<RefCell<Vec<usize>>>,
}

impl PathTransport for LinePath {
    fn rtt(&self) -> Option<Duration> {
        Some(self.rtt)
    }

    fn received(&self) -> u64 {
        self.counts.received.get()
    }

    fn counts_acks(&self) -> bool {
        self.shows_acks
    }

    fn ack_mark(&self) -> Option<u64> {
        self.shows_acks.then(|| self.counts.acks.get())
    }

    fn rebindings(&self) -> u64 {
        self.counts.rebindings.get()
    }

    fn losses(&self) -> Option<(u64, u64)> {
        None
    }

    fn is_black_hole(&self) -> bool {
        false
    }

    fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    fn send_now(&mut self, frame: &Frame) {
        self.packets.push(Packet::Datagram(frame.clone()));
    }

    fn send_keepalive(&mut self, token: u64) {
        self.packets.push(match self.shows_acks {
            true => Packet::Keepalive,
            false => Packet::Datagram(Frame::Ping { token }),
        });
    }

    fn send_copy(&mut self, copy: Bytes) {
        self.packets.push(Packet::Copy(copy));
    }

    fn close(&mut self, _reason: PathClose) {
        self.closed.borrow_mut().push(self.id);
    }
}

/// Where the carrier with this number is among the paths.
pub(crate) fn index_of(paths: &mut Paths<LinePath>, id: usize) -> Option<PathIndex> {
    let mut indices = paths.indices();
    indices.find(|index| paths.get_mut(*index).is_some_and(|path| path.id == id))
}
