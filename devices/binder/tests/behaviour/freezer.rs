//! The freezer and its notifications.

use binder::protocol::{Command, Return, br, ioctl};
use binder::{Body, Errno, Status};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

const TC: Return = Return::TransactionComplete;

impl World {
    pub fn frozen_info(&mut self, th: Th, pid: u32) -> (u32, u32) {
        let mut arg = pid.to_le_bytes().to_vec();
        arg.resize(12, 0);
        let (errno, bytes) = self.ioctl(th, ioctl::GET_FROZEN_INFO, &arg);
        assert_eq!((errno, word(&bytes, 0)), (0, pid));
        (word(&bytes, 4), word(&bytes, 8))
    }
}

/// covers: B055, B056
#[test]
fn unknown_pids() {
    let mut w = World::new();
    let th = w.process(10);
    assert_eq!(w.freeze(th, 99, 1), -22);
    assert_eq!(w.ioctl(th, ioctl::GET_FROZEN_INFO, &[99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).0, -22);
    w.finish();
}

/// covers: B136, B377, B378, B379, B380, B381, B373
#[test]
fn a_frozen_process_gets_no_calls_but_keeps_oneways() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    assert_eq!(w.freeze(manager, 20, 1), 0);
    assert_eq!(w.call(client, handle, b"", &[]).returns, [Return::Noop, Return::FrozenReply]);
    assert_eq!(w.extended_error(client), (br::FROZEN_REPLY, 0));
    assert_eq!(w.frozen_info(client, 20), (1, 0));
    assert_eq!(w.oneway(client, handle, b"x").returns, [Return::Noop, Return::TransactionPendingFrozen]);
    assert_eq!(w.frozen_info(client, 20), (3, 1));
    // It can still call, and be answered.
    assert!(w.call(owner, 0, b"", &[]).parked);
    w.read(manager).data();
    w.reply_now(manager, b"", &[]);
    assert!(matches!(w.woken(owner).returns[..], [_, TC, Return::Reply(_)]));
    assert_eq!(w.freeze(manager, 20, 0), 0);
    assert_eq!(w.frozen_info(client, 20), (2, 0));
    w.read(owner).data();
    assert_eq!(w.frozen_info(client, 20), (0, 0));
    w.finish();
}

/// covers: B369, B370, B374
#[test]
fn a_busy_process_is_not_frozen() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.call(client, handle, b"", &[]);
    assert_eq!(w.freeze(manager, 20, 1), Errno::EAGAIN.0);
    assert_eq!(w.freeze(manager, 30, 1), Errno::EAGAIN.0, "it waits for a reply");
    w.read(owner).data();
    assert_eq!(w.freeze(manager, 20, 1), Errno::EAGAIN.0);
    w.reply_now(owner, b"", &[]);
    w.woken(client);
    assert_eq!(w.freeze(manager, 20, 1), 0);
    w.oneway(client, handle, b"");
    assert_eq!(w.freeze(manager, 20, 1), Errno::EAGAIN.0);
    assert!(w.call(client, handle, b"", &[]).parked, "the failed attempt thawed it");
    w.finish();
}

/// covers: B368, B371, B376
#[test]
fn a_freeze_waits_for_the_last_reply() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.call(client, handle, b"", &[]);
    w.read(owner).data();
    w.freeze_for(manager, 20, 1, 1000);
    assert!(matches!(w.last.status, Status::Parked { park: binder::Park::Freeze, timeout_ms: 1000 }));
    let other = w.thread(client.proc, 31);
    assert_eq!(w.call(other, handle, b"", &[]).returns, [Return::Noop, Return::FrozenReply]);
    w.reply_now(owner, b"", &[]);
    assert_eq!(w.woken(manager).errno, 0);
    assert_eq!(w.frozen_info(client, 20).0 & 2, 0);
    w.finish();
}

/// covers: B368, B372
#[test]
fn a_freeze_ends_with_its_timeout_or_a_signal() {
    for (end, errno) in [(Body::Timeout, Errno::EAGAIN), (Body::Cancel, Errno::ERESTARTSYS)] {
        let Trio { mut w, manager, owner, client, handle } = trio();
        w.call(client, handle, b"", &[]);
        w.freeze_for(manager, 20, 1, 1000);
        let answer = w.send(manager, end);
        assert_eq!((answer.status, answer.errno), (Status::Done, errno));
        let other = w.thread(client.proc, 31);
        assert!(w.call(other, handle, b"", &[]).parked, "thawed again");
        let _ = owner;
        w.finish();
    }
}

/// covers: B383
#[test]
fn a_frozen_process_dies_as_any_other() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.freeze(manager, 20, 1);
    w.release(owner.proc);
    assert_eq!(w.call(client, handle, b"", &[]).returns, [Return::Noop, Return::DeadReply]);
    w.finish();
}

fn told(cookie: u64, is_frozen: bool) -> Vec<Return> {
    vec![Return::Noop, Return::FrozenBinder { cookie, is_frozen }]
}

/// covers: B282, B283, B284, B285, B286, B288
#[test]
fn freeze_notifications() {
    let Trio { mut w, manager, client, handle, .. } = trio();
    let request = Command::RequestFreezeNotification { handle, cookie: 5 };
    let done = Command::FreezeNotificationDone { cookie: 5 };
    let out = w.write_read(client, &[Command::EnterLooper, request], READ_SIZE);
    assert_eq!(out.returns, told(5, false));
    assert_eq!(w.write(client, &[request]).errno, -22);
    w.freeze(manager, 20, 1);
    assert_eq!(w.read_nonblock(client).errno, -11, "one at a time");
    assert_eq!(w.write_read(client, &[done], READ_SIZE).returns, told(5, true));
    w.freeze(manager, 20, 0);
    w.freeze(manager, 20, 1);
    assert_eq!(
        w.write_read(client, &[done], READ_SIZE).returns,
        told(5, true),
        "the latest state, even if equal"
    );
    let clear = Command::ClearFreezeNotification { handle, cookie: 5 };
    assert_eq!(w.write(client, &[clear]).errno, 0);
    assert_eq!(w.read_nonblock(client).errno, -11);
    let out = w.write_read(client, &[done], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::ClearFreezeNotificationDone { cookie: 5 }]);
    assert_eq!(w.census().deaths, 0);
    w.finish();
}

/// covers: B281, B288, B292
#[test]
fn misused_freeze_notifications_are_errors() {
    let Trio { mut w, client, handle, .. } = trio();
    let request = |handle| Command::RequestFreezeNotification { handle, cookie: 5 };
    let clear = |cookie| Command::ClearFreezeNotification { handle, cookie };
    for bad in [request(99), clear(5), Command::FreezeNotificationDone { cookie: 5 }] {
        let out = w.write(client, &[Command::EnterLooper, bad]);
        assert_eq!((out.errno, out.wc), (-22, 4), "{bad:?}");
    }
    assert_eq!(w.write(client, &[request(handle)]).errno, 0);
    assert_eq!(w.write(client, &[clear(6)]).errno, -22);
    // An undelivered message is replaced by the confirmation.
    let out = w.write_read(client, &[clear(5)], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::ClearFreezeNotificationDone { cookie: 5 }]);
    w.write(client, &[request(handle), Command::Release { handle }]);
    assert_eq!((w.read_nonblock(client).errno, w.census().deaths), (-11, 0));
    w.finish();
}
