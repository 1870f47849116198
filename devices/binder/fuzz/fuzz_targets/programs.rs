//! Guest programs that do anything with binder, through a shim that keeps to the protocol: nothing
//! panics, the domain can be saved at any moment, and nothing is left when they are gone.

#![no_main]
#![allow(dead_code, unused_imports)]

use libfuzzer_sys::fuzz_target;

mod generated;
#[path = "../../tests/behaviour/hostile.rs"]
mod hostile;
#[path = "../../tests/behaviour/payloads.rs"]
mod payloads;
#[path = "../../tests/behaviour/trio.rs"]
mod trio;
#[path = "../../tests/behaviour/world/mod.rs"]
mod world;

fuzz_target!(|input: &[u8]| {
    let Some((choices, rest)) = input.split_first() else { return };
    let acts = generated::list(hostile::act(), rest, 40);
    hostile::acted(acts, choices & 1 != 0, choices & 2 != 0).finish();
});
