//! CPU time of one call by payload, in a second: the least of some rounds, for comparing before and after.
//!
//! `cargo bench -p binder --bench quick [-- BYTES ...]`. Counted in instructions, whatever else the machine
//! does: `valgrind --tool=callgrind --toggle-collect='*Shim*round_trip*' target/release/deps/quick-* 128 count`
//! (without a clock: rustix's takes the vDSO, which valgrind hides).

use criterion::measurement::Measurement;
use shim::cpu_time::CpuTime;
use shim::{Pair, Round, Shim};

mod shim;

const ROUNDS: usize = 10;
const BATCHES: usize = 100;
const BATCH: usize = 32;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let sizes: Vec<usize> = args.iter().filter_map(|size| size.parse().ok()).collect();
    for size in if sizes.is_empty() { vec![4, 128, 4096] } else { sizes } {
        let mut pair = Pair::new(Shim::new(), size);
        if args.iter().any(|arg| arg == "count") {
            (0..BATCHES * BATCH - 4).for_each(|_| {
                let round = pair.requests.round();
                pair.shim.round_trip(round);
            });
            println!("{size} bytes: {} round trips", BATCHES * BATCH);
            continue;
        }
        let best = (0..ROUNDS).map(|_| time(&mut pair)).min().unwrap_or_default();
        println!("{size} bytes: {} ns a round trip", best / (BATCHES * BATCH) as u64);
    }
}

/// Nanoseconds for all batches.
fn time(pair: &mut Pair) -> u64 {
    (0..BATCHES).fold(0, |sum, _| {
        let batch: Vec<Round> = (0..BATCH).map(|_| pair.requests.round()).collect();
        let start = CpuTime.start();
        batch.into_iter().for_each(|round| pair.shim.round_trip(round));
        sum + CpuTime.end(start)
    })
}
