//! Reference counts against the executable model of the behaviour tests.

#![no_main]
#![allow(dead_code, unused_imports)]

use libfuzzer_sys::fuzz_target;

mod generated;
#[path = "../../tests/behaviour/model.rs"]
mod model;
#[path = "../../tests/behaviour/payloads.rs"]
mod payloads;
#[path = "../../tests/behaviour/trio.rs"]
mod trio;
#[path = "../../tests/behaviour/world/mod.rs"]
mod world;

fuzz_target!(|input: &[u8]| {
    model::played(generated::list(model::step(), input, 200)).finish();
});
