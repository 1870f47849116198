//! What recording adds to a synchronous call in the core: the least CPU time of some rounds, without and with a recording.
//!
//! `cargo bench -p binder-trace --bench record [-- BYTES ...]`. Counted in instructions, whatever else the machine does:
//! `valgrind --tool=callgrind --toggle-collect='*Shim*round_trip*' target/release/deps/record-* 4 count plain|traced`.

use std::fs::File;
use std::time::Duration;

use binder::replay::Step;
use binder_trace::recording::{Block, Header, VERSION, Writer};
use shim::{GUEST, Pair, Recorder, Shim};

#[path = "../../binder/benches/rounds/mod.rs"]
mod rounds;
#[allow(dead_code)]
#[path = "../../binder/benches/shim/mod.rs"]
mod shim;

/// A recording as a run makes it: a block a message, in a file that forgets.
fn recorder() -> Recorder {
    let null = File::options().write(true).open("/dev/null").expect("/dev/null");
    let header = Header { version: VERSION, ..Header::default() };
    let mut writer = Writer::new(null, &header).expect("a header");
    let (mut block, mut messages) = (Block::default(), 0);
    Box::new(move |step| {
        block.step(Duration::from_micros(messages), GUEST, step);
        if matches!(step, Step::Answer { .. }) {
            messages += 1;
            block.end(|block| writer.block(&block));
        }
    })
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let sizes: Vec<usize> = args.iter().filter_map(|size| size.parse().ok()).collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    for size in if sizes.is_empty() { vec![4, 128] } else { sizes } {
        let mut pair = Pair::new(Shim::new(), size);
        if has("count") {
            if has("traced") {
                pair.shim.recorder = Some(recorder());
            }
            println!("{size} bytes: {} round trips", rounds::count(&mut pair));
            continue;
        }
        let plain = rounds::least(&mut pair);
        pair.shim.recorder = Some(recorder());
        let traced = rounds::least(&mut pair);
        println!("{size} bytes: {plain} ns a round trip, recorded {traced} ns");
    }
}
