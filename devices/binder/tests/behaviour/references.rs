//! Counts: handles, and what owners are told.

use binder::protocol::{Command, Return, ioctl, object};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

const TOLD: u64 = PTR + 1;

fn released() -> Return {
    Return::Release { ptr: PTR, cookie: TOLD }
}

fn decrefs() -> Return {
    Return::Decrefs { ptr: PTR, cookie: TOLD }
}

/// The manager's handle on the object.
const MANAGERS: u32 = 1;

/// covers: B244, B237, B246, B262
#[test]
fn the_last_release_is_told_with_the_decrefs() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    assert!(w.read(owner).parked);
    w.write(manager, &[Command::Release { handle: MANAGERS }]);
    assert!(w.sleeps(owner));
    w.write(client, &[Command::Release { handle }]);
    let out = w.woken(owner);
    assert_eq!((out.rc, out.returns), (44, vec![Return::Noop, released(), decrefs()]));
    assert_eq!(w.census().nodes, 1, "only the manager's");
    w.finish();
}

/// covers: B242, 2.2
#[test]
fn a_gain_and_a_loss_in_one_message_cancel() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.write(manager, &[Command::Release { handle: MANAGERS }]);
    w.write(client, &[Command::Increfs { handle }]);
    assert!(w.read(owner).parked);
    w.write(client, &[Command::Release { handle }, Command::Decrefs { handle }]);
    assert_eq!(w.woken(owner).returns, [Return::Noop, released(), decrefs()], "one evaluation");
    w.finish();
}

/// covers: B243
#[test]
fn a_strong_count_may_go_and_come_back() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.write(manager, &[Command::Release { handle: MANAGERS }]);
    w.write(client, &[Command::Increfs { handle }, Command::Release { handle }]);
    assert_eq!(w.read(owner).returns, [Return::Noop, released()]);
    let object = flat_object(object::BINDER, 0, PTR, TOLD);
    let out = w.call(owner, 0, &object, &[0]);
    assert!(out.parked);
    w.read(manager).data();
    w.reply_now(manager, b"", &[]);
    let out = w.woken(owner).returns;
    assert_eq!(out[..2], [Return::Noop, Return::Acquire { ptr: PTR, cookie: TOLD }]);
    assert_eq!(out.len(), 4);
    let _ = client;
    w.finish();
}

/// covers: B238, B239, B240, B241
#[test]
fn without_the_done_nothing_is_released() {
    let Trio { mut w, manager, owner, client, .. } = trio();
    let (ptr, cookie) = (0x60, 0x61);
    w.call(owner, 0, &flat_object(object::BINDER, 0, ptr, cookie), &[0]);
    let got = w.read(manager).data();
    w.reply_now(manager, b"", &[]);
    w.woken(owner);
    w.free(manager, got.data);
    assert_eq!(w.read_nonblock(owner).errno, -11);
    let bad = [
        Command::AcquireDone { ptr: 0x99, cookie },
        Command::AcquireDone { ptr, cookie: 0 },
        Command::IncrefsDone { ptr: PTR, cookie: TOLD },
    ];
    assert_eq!(w.write(owner, &bad).errno, 0);
    let out = w.write_read(owner, &[Command::AcquireDone { ptr, cookie }], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::Release { ptr, cookie }]);
    let out = w.write_read(owner, &[Command::IncrefsDone { ptr, cookie }], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::Decrefs { ptr, cookie }]);
    let _ = client;
    w.finish();
}

/// covers: B234
#[test]
fn a_weak_object_is_told_weakly() {
    let Trio { mut w, manager, owner, .. } = trio();
    w.call(owner, 0, &flat_object(object::WEAK_BINDER, 0, 0x60, 0x61), &[0]);
    let got = w.read(manager).data();
    assert_eq!(w.look(manager.proc, got.data, 24), flat_object(object::WEAK_HANDLE, 0, 2, 0));
    w.reply_now(manager, b"", &[]);
    let out = w.woken(owner).returns;
    assert_eq!(out[..2], [Return::Noop, Return::Increfs { ptr: 0x60, cookie: 0x61 }]);
    assert_eq!(out.len(), 4);
    w.finish();
}

/// covers: B245
#[test]
fn an_unfreed_call_keeps_the_object() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.oneway(client, handle, b"");
    w.write(manager, &[Command::Release { handle: MANAGERS }]);
    w.write(client, &[Command::Release { handle }]);
    let got = w.read(owner).data();
    assert_eq!(w.read_nonblock(owner).errno, -11);
    let out = w.write_read(owner, &[Command::FreeBuffer { data: got.data }], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, released(), decrefs()]);
    w.finish();
}

/// covers: B049, B247
#[test]
fn the_managers_own_node_is_never_told() {
    let Trio { mut w, manager, client, .. } = trio();
    w.write(client, &[Command::Acquire { handle: 0 }, Command::Increfs { handle: 0 }]);
    w.write(client, &[Command::Release { handle: 0 }, Command::Decrefs { handle: 0 }]);
    assert_eq!(w.read_nonblock(manager).errno, -11);
    assert_eq!(w.census().nodes, 2);
    w.finish();
}

/// covers: B256, B257
#[test]
fn the_manager_cannot_hold_itself() {
    let Trio { mut w, manager, .. } = trio();
    for command in [Command::Acquire { handle: 0 }, Command::Increfs { handle: 0 }] {
        let out = w.write_read(manager, &[Command::EnterLooper, command], READ_SIZE);
        assert_eq!((out.errno, out.wc), (-22, 4));
    }
    assert_eq!(w.write(manager, &[Command::Release { handle: 0 }]).errno, 0);
    w.finish();
}

/// covers: B257, B258, B259, B497
#[test]
fn misuse_of_counts_is_silent() {
    let Trio { mut w, client, handle, .. } = trio();
    let refs = w.census().refs;
    w.write(
        client,
        &[Command::Acquire { handle: 77 }, Command::Release { handle: 77 }, Command::Decrefs { handle }],
    );
    assert_eq!(w.census().refs, refs);
    w.write(client, &[Command::Increfs { handle }, Command::Release { handle }, Command::Acquire { handle }]);
    assert_eq!(w.call(client, handle, b"", &[]).returns[1], Return::FailedReply, "no promotion");
    w.write(client, &[Command::Release { handle }, Command::Decrefs { handle }]);
    assert_eq!(w.census().refs, refs - 1);
    w.finish();
}

/// covers: B251, B499
#[test]
fn a_stale_0_and_a_new_manager() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.write(client, &[Command::Acquire { handle: 0 }]);
    w.release(manager.proc);
    w.become_manager(owner);
    // "Acquire 0" means the new manager, whose ref gets an ordinary number; HANDLE 0 is the stale one.
    w.write(client, &[Command::Acquire { handle: 0 }]);
    assert!(w.call(client, 2, b"", &[]).parked);
    assert_eq!(w.read(owner).data().target, 0);
    w.reply_now(owner, b"", &[]);
    w.woken(client);
    w.write(client, &[Command::Release { handle: 0 }]);
    assert!(
        w.call(client, 0, &flat_object(object::HANDLE, 0, 0, 0), &[0]).returns.contains(&Return::FailedReply)
    );
    let _ = handle;
    w.finish();
}

/// covers: B262, B237
#[test]
fn a_dying_client_drops_its_counts() {
    let Trio { mut w, manager, owner, client, .. } = trio();
    assert!(w.read(owner).parked);
    w.release(client.proc);
    w.events();
    assert!(w.sleeps(owner), "the manager still holds it");
    w.release(manager.proc);
    w.events();
    assert_eq!(w.woken(owner).returns, [Return::Noop, released(), decrefs()]);
    w.finish();
}

/// covers: B248, B501
#[test]
fn node_work_of_an_exiting_thread_goes_to_its_process() {
    let Trio { mut w, manager, owner, .. } = trio();
    w.nonblock = true;
    let other = w.thread(owner.proc, 21);
    let call = w.call_command(other, 0, 1, &flat_object(object::BINDER, 0, 0x60, 0x61), &[0]);
    w.write(other, &[call]);
    w.ioctl(other, ioctl::THREAD_EXIT, &[]);
    let told = [Return::Increfs { ptr: 0x60, cookie: 0x61 }, Return::Acquire { ptr: 0x60, cookie: 0x61 }];
    assert_eq!(w.read(owner).returns, [Return::Noop, told[0], told[1]]);
    let _ = manager;
    w.finish();
}

/// The owner dies before it was told of any count: whoever holds a handle may count it all the same.
/// covers: B255, B267
#[test]
fn a_handle_on_a_dead_node_whose_owner_was_never_told_can_be_counted_weakly() {
    let Trio { mut w, manager, .. } = trio();
    let fresh = w.process(50);
    let object = flat_object(object::BINDER, 0, 0x77, 0x78);
    assert!(w.call(fresh, 0, &object, &[0]).parked);
    let got = w.read(manager).data();
    let handle = word(&w.look(manager.proc, got.data, 24), 8);
    w.release(fresh.proc);
    let commands = [
        Command::Increfs { handle },
        Command::FreeBuffer { data: got.data },
        Command::RequestDeathNotification { handle, cookie: 0xc },
    ];
    w.write(manager, &commands);
    let idle = w.looper(manager.proc, 11);
    assert_eq!(w.read(idle).returns, [Return::Noop, Return::DeadBinder { cookie: 0xc }]);
    w.finish();
}

/// Debug ids are 32 bits and wrap: another handle on the node may have the same.
#[test]
fn handles_on_a_node_are_told_apart_when_debug_ids_wrap() {
    for before in 1..16 {
        let Trio { mut w, manager, owner, client, .. } = trio();
        let mut saved = serde_json::to_value(&w.domain).unwrap();
        let held = |slot: &&serde_json::Value| slot["value"]["proc"] == client.proc.0;
        let of_client = saved["refs"]["slots"].as_array().unwrap().iter().rfind(held).unwrap();
        let id = of_client["value"]["debug_id"].as_u64().unwrap() as u32;
        saved["last_debug_id"] = id.wrapping_sub(before).into();
        w.domain = serde_json::from_value(saved).unwrap();
        let third = w.process(40);
        w.publish(manager, owner, third, PTR, 0);
        w.finish();
    }
}
