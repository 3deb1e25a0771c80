//! The replay buffer, through a session core that only sends: what the peer would say is made up.

use crate::cores::FILL;
use crate::{KIB, MIB};
use bowline::clock;
use bowline::connection::MAX_COPY;
use bowline::session::{Session, SessionConfig, SessionMemory};
use bowline::wire::{Epoch, Frame, Offset};
use bytes::BytesMut;
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use std::time::Instant;

/// Sent and not acknowledged, as on a path of 100 ms at 84 MB/s: then the buffer's places are not in a cache when their
/// turn comes.
const IN_FLIGHT: usize = 8 * MIB;
const PIECE: usize = 64 * KIB;
/// The head of an SSH packet with one key in it, and all that belongs to it.
const KEY: usize = 36;

pub(crate) fn buffer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    let piece = vec![7; PIECE];
    let mut sender = Sender::new();
    for _ in 0..IN_FLIGHT / PIECE {
        sender.send(&piece);
    }
    group.throughput(Throughput::Bytes(PIECE as u64));
    // With the copy into the buffer, which a pipe's read is.
    group.bench_function("64 KiB behind 8 MiB", |bencher| {
        bencher.iter(|| {
            sender.send(black_box(&piece));
            sender.handle_ack(PIECE);
        });
    });
    group.throughput(Throughput::Bytes(IN_FLIGHT as u64));
    group.bench_function("8 MiB again", |bencher| bencher.iter(|| sender.send_again()));

    let mut sender = Sender::new();
    sender.send(&piece[..KEY]);
    group.throughput(Throughput::Elements(1));
    group.bench_function("a copy of a key", |bencher| {
        let mut copy = BytesMut::with_capacity(MAX_COPY);
        bencher.iter(|| {
            copy.clear();
            assert!(sender.session.copy(MAX_COPY, &mut copy), "all of it fits");
        });
    });
}

struct Sender {
    session: Session,
    outbox: BytesMut,
    epoch: Epoch,
    acked: Offset,
    now: Instant,
}

impl Sender {
    fn new() -> Sender {
        let mut sender = Sender {
            session: Session::new(SessionMemory::heap(&SessionConfig::default())),
            outbox: BytesMut::new(),
            epoch: Epoch::default(),
            acked: Offset::ZERO,
            now: clock::now(),
        };
        sender.attach();
        sender
    }

    fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.session.input();
            let len = room.len().min(bytes.len());
            assert!(len > 0, "the buffer is full");
            room[..len].copy_from_slice(&bytes[..len]);
            self.session.commit_input(len);
            bytes = &bytes[len..];
        }
        self.transmit();
    }

    fn send_again(&mut self) {
        self.attach();
        self.transmit();
    }

    fn handle_ack(&mut self, len: usize) {
        self.acked = self.acked.saturating_add(len as u64);
        let ack = Frame::Ack {
            delivered: self.acked,
            window: u64::from(u32::MAX),
        };
        self.session.handle_frame(ack).expect("all of it was sent");
    }

    /// Another carrier leads, and the peer has nothing more than what it acknowledged.
    fn attach(&mut self) {
        self.epoch = self.epoch.next();
        self.session
            .attach(self.epoch, self.acked, u32::MAX.into())
            .expect("all of it was sent");
    }

    fn transmit(&mut self) {
        loop {
            self.outbox.clear();
            self.session.transmit(&mut self.outbox, FILL, self.now);
            if black_box(&self.outbox).is_empty() {
                return;
            }
        }
    }
}
