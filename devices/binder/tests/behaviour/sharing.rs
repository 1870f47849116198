//! Two guests in one world: what crosses, what does not, and what is left when one goes.

use binder::protocol::{Command, Return, br, ioctl, object};
use binder::{Body, Census, Errno, Kuid, Limits, NeedKind, Open, Pid, Profile};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

const TC: Return = Return::TransactionComplete;

/// Manager and owner are of one guest, the client of the other.
pub fn across() -> Trio {
    let mut w = World::shared();
    let manager = w.process(10);
    w.become_manager(manager);
    w.write(manager, &[Command::EnterLooper]);
    let owner = w.process(20);
    w.write(owner, &[Command::EnterLooper]);
    w.here = OTHER;
    let client = w.process(30);
    let handle = w.publish(manager, owner, client, PTR, 0x100 | 0x7f);
    w.trace.clear();
    w.asked.clear();
    Trio { w, manager, owner, client, handle }
}

/// A payload of so many bytes that differ from page to page.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at ^ at >> 8) as u8).collect()
}

/// covers: B330, B331
#[test]
fn a_call_is_copied_from_guest_to_guest_and_its_sender_has_no_pid_there() {
    let Trio { mut w, owner, client, handle, .. } = across();
    w.euid.insert(client, 1234);
    let (there, back) = (pattern(20_000), pattern(9_000));
    assert!(w.call(client, handle, &there, &[]).parked);
    let out = w.read(owner);
    assert_eq!(out.creds, None, "no process of the reader's guest");
    let got = out.data();
    assert_eq!((got.sender_pid, got.sender_euid), (Pid(0), Kuid(1234)));
    assert_eq!(w.look(owner.proc, got.data, got.data_size), there);
    w.reply_now(owner, &back, &[]);
    let answer = w.woken(client).data();
    assert_eq!(w.look(client.proc, answer.data, answer.data_size), back);
    assert!(w.asked.iter().all(|kind| *kind == NeedKind::Data), "no pages of another guest: {:?}", w.asked);
    w.finish();
}

/// covers: B496
#[test]
fn a_guest_that_keeps_too_many_commands_waiting_goes_on_without_its_pages() {
    for (bytes, asked) in [(4, vec![NeedKind::Pages]), (3, vec![])] {
        let mut w =
            World::with(Limits { max_suspended_bytes: bytes, ..Limits::default() }, Profile::default());
        w.domain.attach(OTHER);
        let th = w.process(10);
        assert_eq!(w.write(th, &[Command::EnterLooper]).wc, 4);
        assert_eq!(w.asked, asked);
        w.finish();
    }
}

#[test]
fn mappings_are_filled_once_and_stay_so() {
    let mut w = World::shared();
    let th = w.process(10);
    assert!(w.asked.is_empty(), "nothing before the first write and read");
    w.write(th, &[Command::EnterLooper]);
    assert_eq!(w.asked, [NeedKind::Pages]);
    assert_eq!((w.procs[&th.proc].slots.len(), w.census().idle_pages), (16, 16));
    assert_eq!(w.idle_pages, 0, "nothing that a shrinker could have");
    w.trim(th.proc);
    assert_eq!(w.procs[&th.proc].slots.len(), 16);
    assert!(w.read(th).parked);
    assert_eq!(w.asked, [NeedKind::Pages]);
    w.finish();

    // A mapping larger than one message can ask for.
    let mut w = World::shared();
    let proc = w.open_device("binder", 20);
    assert_eq!(w.note(proc, Body::Mmap { address: MAPPING, length: 600 * PAGE }).errno, Errno::OK);
    let th = w.thread(proc, 20);
    w.write(th, &[Command::EnterLooper]);
    assert_eq!((w.asked.len(), w.procs[&proc].slots.len()), (3, 600));
    w.finish();
}

#[test]
fn a_guest_without_memory_goes_on_and_is_only_not_sent_to() {
    let mut w = World::shared();
    let manager = w.process(10);
    w.become_manager(manager);
    w.page_error = Some(Errno::ENOMEM);
    assert_eq!(w.write(manager, &[Command::EnterLooper]).errno, 0);
    w.page_error = None;
    w.here = OTHER;
    let client = w.process(30);
    assert_eq!(w.call(client, 0, b"x", &[]).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, Errno::ENOMEM.0));
    // It has memory again: its next ioctl says so.
    assert!(w.read(manager).parked);
    assert!(w.call(client, 0, b"x", &[]).parked);
    w.woken(manager).data();
    w.finish();
}

/// covers: B335
#[test]
fn a_security_context_is_the_text_that_it_is_in_the_senders_guest() {
    let mut w = World::shared();
    let manager = w.process(10);
    let mut wants_contexts = flat_object(0, 0x1000, 0x70, 0x71);
    wants_contexts.resize(24, 0);
    assert_eq!(w.ioctl(manager, ioctl::SET_CONTEXT_MGR_EXT, &wants_contexts).0, 0);
    w.write(manager, &[Command::EnterLooper]);
    w.here = OTHER;
    let secctx = b"u:r:shell:s0".to_vec();
    let open = Open { tgid: Pid(50), context: b"binder".to_vec(), secctx, ..Open::default() };
    let client = w.open_as(open).unwrap();
    let client = w.thread(client, 50);
    assert!(w.call(client, 0, b"abc", &[]).parked);
    let out = w.read(manager);
    let Some(Return::TransactionSecCtx(data, secctx)) = out.returns.get(1).copied() else {
        panic!("{out:?}")
    };
    assert_eq!((data.target, data.sender_pid), (0x70, Pid(0)));
    assert_eq!(w.look(manager.proc, secctx, 13), b"u:r:shell:s0\0");
    w.finish();
}

#[test]
fn files_do_not_cross() {
    let Trio { mut w, owner, client, handle, .. } = across();
    w.procs.get_mut(&client.proc).unwrap().fds.insert(3, 500);
    let fd = flat_object(object::FD, 0x33, 3, 0);
    assert_eq!(w.call(client, handle, &fd, &[0]).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, Errno::EPERM.0));
    assert!(w.tokens.is_empty() && !w.asked.contains(&NeedKind::Files));
    assert!(w.read(owner).parked, "nothing came");
    w.finish();
}

/// covers: B263
#[test]
fn the_end_of_a_guest_is_the_death_of_its_processes() {
    let Trio { mut w, manager, owner, client, handle } = across();
    let watch = Command::RequestDeathNotification { handle, cookie: 0xc0 };
    w.write(client, &[Command::EnterLooper, watch]);
    assert!(w.read(client).parked);
    let waits = w.thread(client.proc, 31);
    assert!(w.call(waits, handle, b"x", &[]).parked);
    w.domain.reset(GUEST, &mut w.trace);
    w.events();
    assert_eq!(w.woken(client).returns, [Return::Noop, Return::DeadBinder { cookie: 0xc0 }]);
    assert_eq!(w.woken(waits).returns, [Return::Noop, TC, Return::DeadReply]);
    assert_eq!(w.call(client, handle, b"x", &[]).returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(w.census(), Census { nodes: 1, ..Census::default() }, "the other one holds on to it");
    w.procs.remove(&manager.proc);
    w.procs.remove(&owner.proc);
    w.finish();
}

/// covers: B055, B056
#[test]
fn a_pid_is_of_its_own_guest() {
    let Trio { mut w, owner, client, handle, .. } = across();
    assert_eq!(w.freeze(client, 20, 1), -22, "its guest has no process 20");
    assert_eq!(w.freeze(owner, 20, 1), 0);
    assert_eq!(w.call(client, handle, b"", &[]).returns, [Return::Noop, Return::FrozenReply]);
    assert_eq!(w.freeze(owner, 20, 0), 0);
    assert!(w.call(client, handle, b"", &[]).parked);
    w.finish();
}
