//! A guest that writes anything to registers, rings and buffers: no device panics or hangs, and each
//! works again after a reset.

#![no_main]

use devices::virtio::hostile;
use libfuzzer_sys::fuzz_target;

#[path = "../../binder/fuzz/fuzz_targets/generated.rs"]
mod generated;

fuzz_target!(|input: &[u8]| {
    let steps = generated::list(hostile::step(), input, 50);
    hostile::survive(&steps);
});
