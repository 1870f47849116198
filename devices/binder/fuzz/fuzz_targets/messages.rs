//! A hostile shim: messages in any order with anything in them. Nothing panics, the domain stays
//! consistent, and a reset leaves nothing.

#![no_main]
#![allow(dead_code, unused_imports)]

use binder::{Census, Limits, Message, NoTrace};
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

use world::{GUEST, Rams, World};

/// The input's first byte chooses between messages that make some sense and any that can be encoded.
fn messages(input: &[u8]) -> Vec<Message> {
    let Some((choice, mut rest)) = input.split_first() else { return Vec::new() };
    if choice & 1 == 0 {
        return generated::list(hostile::message(), rest, 60);
    }
    let mut messages = Vec::new();
    while let Ok((message, left)) = postcard::take_from_bytes(rest) {
        messages.push(message);
        rest = left;
    }
    messages
}

fuzz_target!(|input: &[u8]| {
    let mut w = World::new();
    for message in messages(input) {
        w.domain.handle(&Rams(&w.ram), GUEST, &message, &mut NoTrace);
        w.domain.check(&Limits::default()).expect("a domain that no snapshot touched is consistent");
        if w.domain.has_events(GUEST) {
            w.domain.next_event(GUEST).expect("an event that was announced");
        }
    }
    w.domain.reset(GUEST, &mut NoTrace);
    assert_eq!(w.census(), Census::default());
});
