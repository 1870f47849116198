//! Many round trips of a pair: timed, or for a profiler to count.

use criterion::measurement::Measurement;

use crate::shim::cpu_time::CpuTime;
use crate::shim::{Pair, Round};

const ROUNDS: usize = 10;
const BATCHES: usize = 100;
const BATCH: usize = 32;

/// The least CPU time that a round trip took, in nanoseconds: of some rounds of many.
pub fn least(pair: &mut Pair) -> u64 {
    let round = (0..ROUNDS).map(|_| time(pair)).min().unwrap_or_default();
    round / (BATCHES * BATCH) as u64
}

/// Round trips of a new pair without a look at the clock: how many there were, those included that made it.
pub fn count(pair: &mut Pair) -> usize {
    // Making it took four.
    (0..BATCHES * BATCH - 4).for_each(|_| {
        let round = pair.requests.round();
        pair.shim.round_trip(&round);
    });
    BATCHES * BATCH
}

/// Nanoseconds for all batches.
fn time(pair: &mut Pair) -> u64 {
    (0..BATCHES).fold(0, |sum, _| {
        let batch: Vec<Round> = (0..BATCH).map(|_| pair.requests.round()).collect();
        let start = CpuTime.start();
        batch.iter().for_each(|round| pair.shim.round_trip(round));
        sum + CpuTime.end(start)
    })
}
