//! Death notifications.

use binder::protocol::{Command, Return, ioctl, object};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

fn request(handle: u32, cookie: u64) -> Command {
    Command::RequestDeathNotification { handle, cookie }
}

fn clear(handle: u32, cookie: u64) -> Command {
    Command::ClearDeathNotification { handle, cookie }
}

/// covers: B263, B265, B268, B273, B269
#[test]
fn a_death_is_told_acknowledged_and_cleared() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.write(client, &[Command::EnterLooper, request(handle, 0xc0)]);
    assert!(w.read(client).parked);
    w.release(owner.proc);
    w.events();
    let told = w.woken(client);
    assert_eq!(told.returns, [Return::Noop, Return::DeadBinder { cookie: 0xc0 }]);
    assert_eq!(told.rc, 16);
    let out =
        w.write_read(client, &[Command::DeadBinderDone { cookie: 0xc0 }, clear(handle, 0xc0)], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::ClearDeathNotificationDone { cookie: 0xc0 }]);
    w.finish();
}

/// covers: B263, B264, B270
#[test]
fn misuse_is_silent() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let commands = [
        request(handle, 1),
        request(handle, 2),
        request(99, 3),
        request(0, 4),
        clear(handle, 2),
        clear(99, 1),
    ];
    assert_eq!(w.write(client, &commands).wc, 16 * 6);
    assert_eq!(w.census().deaths, 1);
    w.release(owner.proc);
    assert_eq!(w.read(client).returns, [Return::Noop, Return::DeadBinder { cookie: 1 }]);
    assert_eq!(w.write(client, &[Command::DeadBinderDone { cookie: 2 }]).errno, 0);
    w.finish();
}

/// covers: B266, B265
#[test]
fn several_deaths_come_one_a_call_in_pointer_order() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    let second = w.publish(manager, owner, client, 0x800, 0);
    w.write(client, &[request(handle, 1), request(second, 2)]);
    w.release(owner.proc);
    assert_eq!(w.read(client).returns, [Return::Noop, Return::DeadBinder { cookie: 2 }]);
    assert_eq!(w.read(client).returns, [Return::Noop, Return::DeadBinder { cookie: 1 }]);
    w.finish();
}

/// covers: B267
#[test]
fn a_registration_on_a_dead_node_fires_at_once() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.release(owner.proc);
    let out = w.write_read(client, &[request(handle, 5)], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::DeadBinder { cookie: 5 }]);
    w.finish();
}

/// covers: B271
#[test]
fn a_clear_while_the_object_lives_is_confirmed() {
    let Trio { mut w, client, handle, .. } = trio();
    let other = w.looper(client.proc, 31);
    let out = w.write_read(other, &[request(handle, 5), clear(handle, 5)], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::ClearDeathNotificationDone { cookie: 5 }]);
    // Not a looper: it goes to the process queue, for any eligible thread.
    assert!(w.read(other).parked);
    w.write(client, &[request(handle, 6), clear(handle, 6)]);
    assert_eq!(w.woken(other).returns, [Return::Noop, Return::ClearDeathNotificationDone { cookie: 6 }]);
    w.finish();
}

/// covers: B272
#[test]
fn a_clear_after_the_death_waits_for_the_acknowledgement() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.write(client, &[Command::EnterLooper, request(handle, 5)]);
    w.release(owner.proc);
    let out = w.write_read(client, &[clear(handle, 5)], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::DeadBinder { cookie: 5 }]);
    assert_eq!(w.read_nonblock(client).errno, -11);
    let out = w.write_read(client, &[Command::DeadBinderDone { cookie: 5 }], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::ClearDeathNotificationDone { cookie: 5 }]);
    assert_eq!(w.census().deaths, 0);
    w.finish();
}

/// covers: B254, B274
#[test]
fn dropping_the_handle_cancels_silently() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.write(client, &[request(handle, 5)]);
    w.release(owner.proc);
    w.write(client, &[Command::Release { handle }]);
    assert_eq!(w.read_nonblock(client).errno, -11);
    assert_eq!(w.census().deaths, 0);
    w.finish();
}

/// covers: B274, B275
#[test]
fn a_delivered_death_goes_with_its_handle() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.write(client, &[request(handle, 5)]);
    w.release(owner.proc);
    w.read(client);
    assert_eq!(w.census().deaths, 1);
    w.write(client, &[Command::Release { handle }, Command::DeadBinderDone { cookie: 5 }]);
    assert_eq!(w.census().deaths, 0);
    w.finish();
}

/// covers: B276
#[test]
fn the_exit_of_a_thread_is_no_death() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.write(client, &[request(handle, 5)]);
    w.ioctl(owner, ioctl::THREAD_EXIT, &[0; 4]);
    assert_eq!(w.read_nonblock(client).errno, -11);
    w.finish();
}

/// covers: B051, B188, B256
#[test]
fn the_managers_death_is_told_on_handle_0() {
    let Trio { mut w, manager, client, .. } = trio();
    w.write(client, &[Command::Acquire { handle: 0 }, request(0, 9)]);
    w.release(manager.proc);
    assert_eq!(w.read(client).returns, [Return::Noop, Return::DeadBinder { cookie: 9 }]);
    assert_eq!(w.call(client, 0, b"", &[]).returns, [Return::Noop, Return::DeadReply]);
    w.finish();
}

/// covers: B188
#[test]
fn a_dead_nodes_handle_can_be_passed_on_and_watched() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.release(owner.proc);
    w.call(client, 0, &flat_object(object::HANDLE, 0, u64::from(handle), 0), &[0]);
    let got = w.read(manager).data();
    let theirs = word(&w.look(manager.proc, got.data, 24), 8);
    let out = w.write_read(manager, &[request(theirs, 7)], READ_SIZE);
    // The manager owes a reply: the notification is process work and waits.
    assert!(out.parked);
    w.signal(manager);
    w.reply_now(manager, b"", &[]);
    assert_eq!(w.read(manager).returns, [Return::Noop, Return::DeadBinder { cookie: 7 }]);
    w.finish();
}

/// covers: B277, B106
#[test]
fn confirmations_that_nobody_reads_are_bounded() {
    let limits = binder::Limits { max_refs: 8, ..Default::default() };
    let Trio { mut w, client, handle, .. } = trio_with(World::with(limits, Default::default()), 0);
    for cookie in 0..40 {
        w.write(client, &[request(handle, cookie), clear(handle, cookie)]);
    }
    assert_eq!(w.census().deaths, 16);
    assert_eq!(w.read(client).returns, [Return::Noop, Return::Error]);
    let read = w.read(client).returns;
    assert_eq!(read.len(), 17, "{read:?}");
    w.write(client, &[request(handle, 1)]);
    assert_eq!(w.census().deaths, 1);
    w.finish();
}

/// covers: B278
#[test]
fn of_equal_cookies_the_first_delivered_is_acknowledged() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    let second = w.publish(manager, owner, client, 0x800, 0);
    w.write(client, &[request(handle, 7), request(second, 7)]);
    w.release(owner.proc);
    for _ in 0..2 {
        assert_eq!(w.read(client).returns, [Return::Noop, Return::DeadBinder { cookie: 7 }]);
    }
    // The node with the lower pointer was told first.
    w.write(client, &[Command::DeadBinderDone { cookie: 7 }, Command::EnterLooper]);
    let out = w.write_read(client, &[clear(second, 7)], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::ClearDeathNotificationDone { cookie: 7 }]);
    w.finish();
}
