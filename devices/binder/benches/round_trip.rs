//! What the core takes for a synchronous call: by payload, and by how much else there is.
//!
//! A round trip is its three requests (free, call and wait; free and reply; wait) and two events, the page
//! copies included, with the trace off. Requests are made beforehand, as a device reads them into memory that it keeps.
//! `cargo bench -p binder`; a name as argument runs and sets up that alone.

use std::hint::black_box;

use binder::protocol::Command;
use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use shim::cpu_time::CpuTime;
use shim::{Pair, Shim};

mod shim;

/// Rounds that are made in advance: few enough to stay in the cache.
const BATCH: BatchSize = BatchSize::NumIterations(32);

fn round_trips(b: &mut Bencher<'_, CpuTime>, Pair { requests, shim }: &mut Pair) {
    b.iter_batched_ref(|| requests.round(), |round| shim.round_trip(round), BATCH);
}

fn payloads(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("payload");
    for size in [4, 128, 2048, 4096, 65536, 262_144] {
        // The call's bytes and the reply's.
        group.throughput(Throughput::Bytes(2 * size as u64));
        let mut pair = None;
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            round_trips(b, pair.get_or_insert_with(|| Pair::new(Shim::new(), size)));
        });
    }
    group.finish();
}

/// The memory speed that payload copies are held against: the same bytes, once.
fn copies(c: &mut Criterion<CpuTime>) {
    let mut group = c.benchmark_group("memcpy");
    for size in [65536, 262_144] {
        let (from, mut to) = (vec![1u8; size], vec![0u8; size]);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| black_box(&mut to).copy_from_slice(black_box(&from)));
        });
    }
    group.finish();
}

/// A call of 128 bytes beside `count` others.
fn crowd(c: &mut Criterion<CpuTime>, what: &str, pair_among: impl Fn(usize) -> Pair) {
    let mut group = c.benchmark_group(what);
    group.sample_size(20);
    for count in [10, 1_000, 100_000] {
        let mut pair = None;
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            let pair = pair.get_or_insert_with(|| pair_among(count));
            round_trips(b, pair);
        });
    }
    group.finish();
}

fn crowds(c: &mut Criterion<CpuTime>) {
    crowd(c, "processes", |count| {
        let mut shim = Shim::new();
        for _ in 0..count {
            shim.process();
        }
        Pair::new(shim, 128)
    });
    crowd(c, "waiting threads", |count| {
        let mut shim = Shim::new();
        let first = shim.process();
        for _ in 0..count {
            let mut thread = shim.thread(first.proc);
            shim.write_read(&mut thread, &[Command::EnterLooper], 256);
        }
        Pair::new(shim, 128)
    });
    // As many nodes of the caller as handles of the one it calls.
    crowd(c, "nodes and handles", |count| Pair::with_objects(Shim::new(), 128, count));
}

fn cpu_time() -> Criterion<CpuTime> {
    Criterion::default().with_measurement(CpuTime)
}

criterion_group! { name = benches; config = cpu_time(); targets = payloads, copies, crowds }
criterion_main!(benches);
