//! What recording adds to a synchronous call in the core: the least CPU time of some rounds, without and with a recording.
//!
//! `cargo bench -p binder-trace --bench record [-- BYTES ...]`. Counted in instructions, whatever else the machine does:
//! `valgrind --tool=callgrind --toggle-collect='*Shim*round_trip*' target/release/deps/record-* 4 count plain|traced`.

use std::fs::File;
use std::time::Duration;

use binder::trace::{TraceEvent, TraceSink};
use binder_trace::recording::{Block, Header, VERSION, Writer};
use criterion::measurement::Measurement;
use shim::cpu_time::CpuTime;
use shim::{GUEST, Pair, Round, Shim};

#[allow(dead_code)]
#[path = "../../binder/benches/shim/mod.rs"]
mod shim;

const ROUNDS: usize = 10;
const BATCHES: usize = 100;
const BATCH: usize = 32;

/// A recording as a run makes it: a block a message, in a file that forgets.
struct Recorded {
    writer: Writer<File>,
    block: Block,
    messages: u64,
}

impl Recorded {
    fn new() -> Recorded {
        let null = File::options().write(true).open("/dev/null").expect("/dev/null");
        let header = Header { version: VERSION, ..Header::default() };
        Recorded {
            writer: Writer::new(null, &header).expect("a header"),
            block: Block::default(),
            messages: 0,
        }
    }
}

impl TraceSink for Recorded {
    fn enabled(&self) -> bool {
        true
    }

    fn event(&mut self, event: &TraceEvent) {
        self.block.event(Duration::from_micros(self.messages), GUEST, event);
        if matches!(event, TraceEvent::Answered { .. }) {
            self.messages += 1;
            self.block.end(|bytes, _| self.writer.block(bytes));
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let sizes: Vec<usize> = args.iter().filter_map(|size| size.parse().ok()).collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    for size in if sizes.is_empty() { vec![4, 128] } else { sizes } {
        let mut pair = Pair::new(Shim::new(), size);
        if has("count") {
            if has("traced") {
                pair.shim.sink = Box::new(Recorded::new());
            }
            (0..BATCHES * BATCH - 4).for_each(|_| {
                let round = pair.requests.round();
                pair.shim.round_trip(round);
            });
            println!("{size} bytes: {} round trips", BATCHES * BATCH);
            continue;
        }
        let best = |pair: &mut Pair| (0..ROUNDS).map(|_| time(pair)).min().unwrap_or_default();
        let plain = best(&mut pair);
        pair.shim.sink = Box::new(Recorded::new());
        let traced = best(&mut pair);
        let [plain, traced] = [plain, traced].map(|time| time / (BATCHES * BATCH) as u64);
        println!("{size} bytes: {plain} ns a round trip, recorded {traced} ns");
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
