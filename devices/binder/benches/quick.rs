//! CPU time of one call by payload, in a second: the least of some rounds, for comparing before and after.
//!
//! `cargo bench -p binder --bench quick [-- BYTES ...]`. Counted in instructions, whatever else the machine
//! does: `valgrind --tool=callgrind --toggle-collect='*Shim*round_trip*' target/release/deps/quick-* 128 count`
//! (without a clock: rustix's takes the vDSO, which valgrind hides).

use shim::{Pair, Shim};

mod rounds;
mod shim;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let sizes: Vec<usize> = args.iter().filter_map(|size| size.parse().ok()).collect();
    for size in if sizes.is_empty() { vec![4, 128, 4096] } else { sizes } {
        let mut pair = Pair::new(Shim::new(), size);
        if args.iter().any(|arg| arg == "count") {
            println!("{size} bytes: {} round trips", rounds::count(&mut pair));
        } else {
            println!("{size} bytes: {} ns a round trip", rounds::least(&mut pair));
        }
    }
}
