//! Abuse that broke other drivers (BINDER.md 12), one test each.

use binder::protocol::{Command, Return, br, object, tf};
use binder::{Body, Errno, Limits, Profile};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

fn request(handle: u32, cookie: u64) -> Command {
    Command::RequestFreezeNotification { handle, cookie }
}

/// covers: B473
#[test]
fn a_buffer_is_freed_once_whoever_frees_it() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"x", &[]);
    let buffer = w.read(owner).data().data;
    let other = w.thread(owner.proc, 21);
    w.free(owner, buffer);
    w.free(other, buffer);
    assert_eq!(w.census().buffers, 0);
    // The address is in use again, and not yet delivered: it is not the old one's to free.
    w.reply_now(owner, b"", &[]);
    w.woken(client);
    w.call(client, handle, b"y", &[]);
    w.free(other, buffer);
    let again = w.read(owner).data();
    assert_eq!((again.data, w.look(owner.proc, again.data, 1)), (buffer, b"y".to_vec()));
    w.finish();
}

/// covers: B476, B477
#[test]
fn a_target_that_unmaps_while_pages_are_got_is_dead() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.page_error = Some(Errno::ESRCH);
    assert_eq!(w.call(client, handle, b"x", &[]).returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(w.extended_error(client), (br::DEAD_REPLY, -3));
    w.page_error = None;
    w.note(owner.proc, Body::Unmap);
    assert_eq!(w.call(client, handle, b"x", &[]).returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(w.census().buffers, 0);
    w.finish();
}

/// covers: B478, B493
#[test]
fn extra_space_and_a_security_context_do_not_overflow() {
    let limits = Limits { default_secctx: Some(b"u:r:any:s0".to_vec()), ..Limits::default() };
    let Trio { mut w, client, handle, .. } = trio_with(World::with(limits, Profile::default()), 0x1000);
    for extra in [!7, (u64::MAX - 16) & !7, 1 << 63, (1 << 63) - 8] {
        let data = w.payload(client, b"x", &[]);
        let target = binder::protocol::TransactionData { target: handle.into(), ..data };
        let out = w.write_read(client, &[Command::TransactionSg(target, extra)], READ_SIZE);
        assert_eq!(out.returns, [Return::Noop, Return::FailedReply], "{extra:#x}");
        let (code, errno) = w.extended_error(client);
        assert!(code == br::FAILED_REPLY && [-22, -28].contains(&errno), "{extra:#x}: {errno}");
    }
    assert_eq!(w.census().buffers, 0);
    w.finish();
}

/// covers: B480, B482
#[test]
fn work_of_a_node_does_not_outlive_its_owner() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    // The owner is to be told of the loss, and dies before it reads that.
    w.write(client, &[Command::Release { handle }, Command::Decrefs { handle }]);
    w.release(owner.proc);
    assert_eq!(w.call(client, handle, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    w.finish();
}

/// covers: B486, B292
#[test]
fn a_freeze_notification_ends_with_its_handle_node_and_process() {
    // The handle goes while a notification is delivered and not acknowledged, or cleared on top.
    for cleared in [false, true] {
        let Trio { mut w, client, handle, .. } = trio();
        let out = w.write_read(client, &[Command::EnterLooper, request(handle, 5)], READ_SIZE);
        assert_eq!(out.returns[1], Return::FrozenBinder { cookie: 5, is_frozen: false });
        if cleared {
            w.write(client, &[Command::ClearFreezeNotification { handle, cookie: 5 }]);
        }
        w.write(client, &[Command::Release { handle }]);
        w.write(client, &[Command::FreezeNotificationDone { cookie: 5 }]);
        w.read_nonblock(client);
        assert_eq!(w.census().deaths, 0, "cleared: {cleared}");
        w.finish();
    }
    // The watcher dies, then the watched.
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.write(client, &[request(handle, 5)]);
    w.freeze(manager, 20, 1);
    w.release(client.proc);
    w.freeze(manager, 20, 0);
    w.release(owner.proc);
    assert_eq!(w.census().deaths, 0);
    w.finish();
}

/// covers: B487
#[test]
fn watchers_and_watched_may_die_in_any_order() {
    for watcher_first in [true, false] {
        let Trio { mut w, owner, client, handle, .. } = trio();
        w.write(client, &[Command::RequestDeathNotification { handle, cookie: 1 }]);
        let (first, second) = if watcher_first { (client, owner) } else { (owner, client) };
        w.release(first.proc);
        w.release(second.proc);
        assert_eq!(w.census().deaths, 0);
        w.finish();
    }
}

/// covers: B488
#[test]
fn a_thread_that_is_no_looper_acknowledges_a_death() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.write(client, &[Command::RequestDeathNotification { handle, cookie: 1 }]);
    w.release(owner.proc);
    let other = w.thread(client.proc, 31);
    assert_eq!(w.read(other).returns, [Return::Noop, Return::DeadBinder { cookie: 1 }]);
    w.write(
        other,
        &[Command::ClearDeathNotification { handle, cookie: 1 }, Command::DeadBinderDone { cookie: 1 }],
    );
    assert_eq!(w.read(client).returns, [Return::Noop, Return::ClearDeathNotificationDone { cookie: 1 }]);
    assert_eq!(w.census().deaths, 0);
    w.finish();
}

/// covers: B489
#[test]
fn the_async_budget_comes_back_whole() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let fill = |w: &mut World| {
        let mut sent = 0;
        while w.oneway(client, handle, &[0; 4096]).returns[1] != Return::FailedReply {
            sent += 1;
        }
        sent
    };
    let all = fill(&mut w);
    assert_eq!(all, 8, "half of 64 KiB, in pages");
    for _ in 0..all {
        let buffer = w.read(owner).data().data;
        w.free(owner, buffer);
    }
    assert_eq!(fill(&mut w), all);
    w.release(owner.proc);
    w.finish();
}

/// covers: B492
#[test]
fn a_free_does_not_believe_what_the_receiver_could_have_written() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let object = flat_object(object::BINDER, 0, 0x77, 0x78);
    w.call(client, handle, &object, &[0]);
    let got = w.read(owner).data();
    let refs = w.census().refs;
    // The guest rewrites its page behind the read-only mapping: an array of descriptors where a handle was.
    w.scribble(owner.proc, got.data, &flat_object(object::FDA, 0, 1000, 0));
    w.free(owner, got.data);
    assert_eq!(w.census().refs, refs - 1, "the handle's count was given back all the same");
    w.finish();
}

/// covers: B171, B491
#[test]
fn data_is_judged_as_it_was_when_it_was_copied() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let object = flat_object(object::BINDER, 0, 0x77, 0x78);
    let data = w.payload(client, &object, &[0]);
    let target = binder::protocol::TransactionData { target: handle.into(), flags: tf::ONE_WAY, ..data };
    w.write(client, &[Command::Transaction(target)]);
    // Another thread of the sender rewrites it after the call was accepted.
    w.overwrite(client.proc, data.data, &flat_object(object::BINDER, 0, 0x99, 0x9a));
    let got = w.read(owner).data();
    let seen = w.look(owner.proc, got.data, 24);
    assert_eq!(word(&seen, 0), object::HANDLE);
    assert_eq!(w.census().nodes, 3, "manager, owner and 0x77");
    w.finish();
}

/// covers: B067, B137
#[test]
fn a_pending_oneway_does_not_stop_the_commands_after_it() {
    let Trio { mut w, manager, client, handle, .. } = trio();
    w.freeze(manager, 20, 1);
    let send = w.call_command(client, handle, tf::ONE_WAY, b"", &[]);
    let out = w.write_read(client, &[send, Command::EnterLooper], READ_SIZE);
    assert_eq!(out.wc, 68 + 4);
    assert_eq!(out.returns, [Return::Noop, Return::TransactionPendingFrozen]);
    w.freeze(manager, 20, 0);
    w.finish();
}

/// covers: B287, B291
#[test]
fn every_watcher_hears_of_every_freeze_even_of_a_frozen_one() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    let second = w.publish(manager, owner, client, 0x2000, 0);
    let told = |cookie, is_frozen| vec![Return::Noop, Return::FrozenBinder { cookie, is_frozen }];
    w.write(client, &[Command::EnterLooper, request(handle, 1), request(second, 2)]);
    assert_eq!(w.read(client).returns, told(1, false));
    assert_eq!(w.read(client).returns, told(2, false));
    let done = [Command::FreezeNotificationDone { cookie: 1 }, Command::FreezeNotificationDone { cookie: 2 }];
    w.write(client, &done);
    for is_frozen in [true, true, false] {
        assert_eq!(w.freeze(manager, 20, u32::from(is_frozen)), 0);
        let mut seen = vec![w.read(client).returns, w.read(client).returns];
        seen.sort_by_key(|returns| format!("{returns:?}"));
        assert_eq!(seen, [told(1, is_frozen), told(2, is_frozen)]);
        w.write(client, &done);
    }
    w.finish();
}

/// covers: B286, B287
#[test]
fn before_the_acknowledgement_only_a_change_counts() {
    let Trio { mut w, manager, client, handle, .. } = trio();
    let told = |is_frozen| vec![Return::Noop, Return::FrozenBinder { cookie: 1, is_frozen }];
    let done = Command::FreezeNotificationDone { cookie: 1 };
    w.freeze(manager, 20, 1);
    let out = w.write_read(client, &[Command::EnterLooper, request(handle, 1)], READ_SIZE);
    assert_eq!(out.returns, told(true));
    w.freeze(manager, 20, 1);
    w.write(client, &[done]);
    assert_eq!(w.read_nonblock(client).errno, Errno::EAGAIN.0, "frozen as before");
    w.freeze(manager, 20, 1);
    assert_eq!(w.read(client).returns, told(true), "after the acknowledgement it counts again");
    w.freeze(manager, 20, 0);
    w.freeze(manager, 20, 1);
    assert_eq!(w.write_read(client, &[done], READ_SIZE).returns, told(true), "there and back is a change");
    w.finish();
}

/// covers: B289
#[test]
fn the_death_of_the_watched_is_no_freeze_message() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.release(owner.proc);
    assert_eq!(w.write(client, &[Command::EnterLooper, request(handle, 1)]).errno, 0);
    assert_eq!(w.read_nonblock(client).errno, Errno::EAGAIN.0);
    w.finish();
}

/// covers: B290
#[test]
fn a_failed_freeze_tells_nobody() {
    let Trio { mut w, manager, client, handle, .. } = trio();
    let watcher = w.looper(client.proc, 31);
    let out = w.write_read(watcher, &[request(handle, 1)], READ_SIZE);
    assert_eq!(out.returns[1], Return::FrozenBinder { cookie: 1, is_frozen: false });
    w.write(watcher, &[Command::FreezeNotificationDone { cookie: 1 }]);
    w.call(client, handle, b"", &[]);
    assert_eq!(w.freeze(manager, 20, 1), Errno::EAGAIN.0);
    assert_eq!(w.read_nonblock(watcher).errno, Errno::EAGAIN.0);
    w.finish();
}
