//! What recording adds to a synchronous call in the core: the least CPU time of some rounds, without and with a recording.
//!
//! `cargo bench -p binder-trace --bench record [-- BYTES ...]`. Counted in instructions, whatever else the machine does:
//! `valgrind --tool=callgrind --toggle-collect='*Shim*round_trip*' target/release/deps/record-* 4 count plain|traced`.

use std::fs::File;
use std::time::Duration;

use binder::trace::{TraceEvent, TraceSink};
use binder_trace::recording::{Block, Header, VERSION, Writer};
use shim::{GUEST, Pair, Shim};

#[path = "../../binder/benches/rounds/mod.rs"]
mod rounds;
#[allow(dead_code)]
#[path = "../../binder/benches/shim/mod.rs"]
mod shim;

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
            println!("{size} bytes: {} round trips", rounds::count(&mut pair));
            continue;
        }
        let plain = rounds::least(&mut pair);
        pair.shim.sink = Box::new(Recorded::new());
        let traced = rounds::least(&mut pair);
        println!("{size} bytes: {plain} ns a round trip, recorded {traced} ns");
    }
}
