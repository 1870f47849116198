//! A domain from a damaged snapshot: either it is refused, or it works without a panic. The input
//! changes bytes of a saved domain and then sends messages to it.

#![no_main]
#![allow(dead_code, unused_imports)]

use binder::{Domain, Limits, NoTrace};
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

use world::{GUEST, Rams};

fuzz_target!(|input: &[u8]| {
    let [count, at_and_rest @ ..] = input else { return };
    let changes = usize::from(count % 8);
    if at_and_rest.len() < changes * 3 {
        return;
    }
    let (changed, rest) = at_and_rest.split_at(changes * 3);
    let trio::Trio { mut w, client, handle, .. } = trio::trio();
    // Something in flight.
    let _ = w.call(client, handle, b"hello", &[]);
    let mut saved = postcard::to_stdvec(&w.domain).expect("a domain is plain data");
    for change in changed.chunks(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % saved.len();
        saved[at] ^= change[2];
    }
    let Ok(mut domain) = postcard::from_bytes::<Domain>(&saved) else { return };
    if domain.check(&Limits::default()).is_err() {
        return;
    }
    for message in generated::list(hostile::message(), rest, 30) {
        domain.handle(&Rams(&w.ram), GUEST, &message, &mut NoTrace);
        while domain.has_events(GUEST) && domain.next_event(GUEST).is_some() {}
    }
    domain.reset(GUEST, &mut NoTrace);
});
