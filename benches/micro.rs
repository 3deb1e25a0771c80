//! What the inner machinery costs by itself, without a pipe, a transport or a system call: the frame codec, the session
//! core, the replay buffer. Beside them what copying as many bytes costs.
//!
//! `cargo bench --bench micro`, about a minute.

#[path = "micro/codec.rs"]
mod codec;
#[path = "../tests/support/cores.rs"]
mod cores;
#[path = "micro/replay.rs"]
mod replay;

use cores::Cores;
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    copies(&mut criterion);
    codec::encoding(&mut criterion);
    codec::decoding(&mut criterion);
    core(&mut criterion);
    replay::buffer(&mut criterion);
    criterion.final_summary();
}

/// The measure for all others: of what they take, so much is memory's.
fn copies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy");
    for (name, len) in [("32 KiB", 32 * KIB), ("1 MiB", MIB)] {
        let (from, mut to) = (vec![7u8; len], vec![0; len]);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(&mut to).copy_from_slice(black_box(&from)));
        });
    }
}

fn core(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    let mut cores = Cores::joined();
    group.bench_function("a key and its echo", |bencher| bencher.iter(|| cores.echo()));
    group.throughput(Throughput::Bytes(MIB as u64));
    group.bench_function("1 MiB", |bencher| bencher.iter(|| cores.transfer(0, MIB)));
}
