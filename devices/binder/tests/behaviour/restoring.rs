//! Snapshots: what was saved goes on as if nothing had been; what was damaged is refused, or harmless.
//!
//! That every behaviour survives saving and restoring is tested by all other tests: their world is
//! saved and restored before each message (`World::message`).

use binder::protocol::{Command, ioctl, object};
use binder::*;
use proptest::prelude::*;

use crate::hostile::{act, acted, message};
use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

/// Runs messages against a domain that was loaded from `bytes`, if it lets itself be loaded.
fn use_damaged(bytes: &[u8], ram: &vm_memory::GuestMemoryMmap, messages: Vec<Message>) -> Result<(), String> {
    let mut domain: Domain = postcard::from_bytes(bytes).map_err(|error| error.to_string())?;
    domain.check(&Limits::default()).map_err(|error| error.to_string())?;
    let rams = Rams(ram);
    for message in messages {
        domain.handle(&rams, GUEST, &message, &mut NoTrace);
        while domain.next_event(GUEST).is_some() {}
        domain.check(&Limits::default()).map_err(|error| format!("later: {error}"))?;
    }
    domain.reset(GUEST, &mut NoTrace);
    Ok(())
}

/// A world in which as much as possible is under way: a call being answered, one that waits, a
/// command that waits for pages, sleepers, a freezer, death and freeze registrations.
fn busy() -> World {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.write(
        client,
        &[
            Command::RequestDeathNotification { handle, cookie: 7 },
            Command::RequestFreezeNotification { handle, cookie: 8 },
        ],
    );
    assert!(w.call(client, handle, &[1; 100], &[]).parked);
    w.read(owner).data();
    let second = w.thread(client.proc, 31);
    assert!(w.call(second, handle, &[2; 100], &[]).parked);
    let third = w.thread(client.proc, 32);
    w.oneway(third, handle, &[3; 50]);
    w.oneway(third, handle, &[4; 50]);
    let other = w.process(40);
    let mut freeze = Vec::new();
    [20u32, 1, 1000].iter().for_each(|word| freeze.extend(word.to_le_bytes()));
    w.ioctl(other, ioctl::FREEZE, &freeze);
    let sleeper = w.looper(other.proc, 41);
    assert!(w.read(sleeper).parked);
    w.hold = true;
    let fourth = w.thread(client.proc, 33);
    let objects = [flat_object(object::BINDER, 0, 0x77, 0x78), vec![9; 9000]].concat();
    w.call(fourth, handle, &objects, &[0]);
    w.hold = false;
    w
}

#[test]
fn each_byte_of_a_busy_world_can_be_wrong() {
    let w = busy();
    let bytes = postcard::to_stdvec(&w.domain).unwrap();
    assert!(w.census().suspended > 0 && w.census().transactions > 2, "{:?}", w.census());
    const TIDS: [u32; 9] = [0, 10, 20, 30, 31, 32, 33, 40, 41];
    let read_all = |mut domain: Domain| {
        let arg = [0, 0, 0, 4096, 0, 0].iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        let read = Body::Ioctl(Ioctl { cmd: ioctl::WRITE_READ, arg, ..Ioctl::default() });
        for (proc, tid) in (0..8).flat_map(|proc| TIDS.map(|tid| (proc, tid))) {
            let header = Header { proc, tid: Tid(tid), seq: Seq(1), ..Header::default() };
            domain.handle(&Rams(&w.ram), GUEST, &Message { header, body: read.clone() }, &mut NoTrace);
        }
    };
    let all = |domain: &mut Domain| {
        let rams = Rams(&w.ram);
        for proc in 0..8u32 {
            for tid in TIDS {
                for body in [Body::Fetch, Body::Poll, Body::Cancel, Body::Timeout, Body::Flush] {
                    let seq = domain.expects(GUEST, proc, Tid(tid)) != Expects::Nothing;
                    let header =
                        Header { proc, tid: Tid(tid), seq: Seq(u64::from(seq) + 1), ..Header::default() };
                    domain.handle(&rams, GUEST, &Message { header, body }, &mut NoTrace);
                }
            }
        }
        for proc in 0..8u32 {
            let header = Header { proc, ..Header::default() };
            domain.handle(&rams, GUEST, &Message { header, body: Body::Release }, &mut NoTrace);
        }
        domain.reset(GUEST, &mut NoTrace);
    };
    let (mut refused, mut harmless) = (0, 0);
    for at in 0..bytes.len() {
        for change in [1u8, 2, 0x80] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            match postcard::from_bytes::<Domain>(&damaged)
                .ok()
                .filter(|it| it.check(&Limits::default()).is_ok())
            {
                None => refused += 1,
                Some(mut domain) => {
                    harmless += 1;
                    read_all(domain.clone());
                    all(&mut domain);
                }
            }
        }
    }
    println!("{} bytes: {refused} changes refused, {harmless} harmless", bytes.len());
    assert!(refused > harmless, "{refused} refused, {harmless} harmless");
    for length in 0..bytes.len() {
        assert!(postcard::from_bytes::<Domain>(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
}

#[test]
fn greater_quotas_than_allowed_are_refused() {
    let w = World::with(Limits { max_procs: 9, ..Limits::default() }, Profile::default());
    assert!(w.domain.check(&Limits { max_procs: 9, ..Limits::default() }).is_ok());
    let error = w.domain.check(&Limits { max_procs: 8, ..Limits::default() }).unwrap_err();
    assert_eq!(error.to_string(), "the binder world contradicts itself: its quotas are more than allowed");
}

proptest! {
    /// A world that careless programs made, with bytes changed, and any messages after that.
    #[test]
    fn a_damaged_world_is_refused_or_harmless(
        acts in prop::collection::vec(act(), 0..40),
        lazy in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        messages in prop::collection::vec(message(), 0..40),
    ) {
        let w = acted(acts, lazy, false);
        let mut bytes = postcard::to_stdvec(&w.domain).unwrap();
        for (at, byte) in changes {
            // Small numbers make sense more often.
            bytes[at.index(w_len(&w))] = byte & 0x1f;
        }
        if let Err(error) = use_damaged(&bytes, &w.ram, messages) {
            prop_assert!(!error.starts_with("later:"), "{}", error);
        }
    }
}

fn w_len(w: &World) -> usize {
    postcard::to_stdvec(&w.domain).unwrap().len()
}
