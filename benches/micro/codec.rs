//! The frame codec.

use bowline::wire::{Frame, Offset};
use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};
use std::hint::black_box;

/// What a carrier takes from its transport in one read.
const READ: usize = 32 * 1024;
/// Most frames in one read.
const FRAMES: usize = 64;
/// A session that has moved 3 GiB: its offsets take the longest form.
const OFFSET: u64 = 3 << 30;

pub(crate) fn encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (name, frame) in frames() {
        let mut out = BytesMut::with_capacity(2 * READ);
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                black_box(&frame).encode(&mut out);
            });
        });
    }
}

/// With the copy from the transport into the inbox, which no frame is read without.
pub(crate) fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for (name, frame) in frames() {
        let mut one = BytesMut::new();
        frame.encode(&mut one);
        let count = (READ / one.len()).clamp(1, FRAMES);
        let read = one.repeat(count);
        let mut inbox = BytesMut::new();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new(name, count), |bencher| {
            bencher.iter(|| {
                inbox.extend_from_slice(black_box(&read));
                while let Some(frame) = Frame::decode(&mut inbox).expect("a frame") {
                    black_box(frame);
                }
            });
        });
    }
}

fn frames() -> [(&'static str, Frame); 4] {
    let at = Offset::new(OFFSET).expect("a position");
    let data = |len| Frame::Data {
        offset: at,
        bytes: Bytes::from(vec![7; len]),
    };
    let ack = Frame::Ack {
        delivered: at,
        window: 8 << 20,
    };
    [
        ("data 1 B", data(1)),
        ("data 1 KiB", data(1024)),
        ("data 32 KiB", data(32 * 1024)),
        ("ack", ack),
    ]
}
