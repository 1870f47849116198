//! Everything but BINDER_WRITE_READ.

use binder::protocol::{Command, br, ioctl, object};
use binder::{Errno, Ioctl, Profile};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

/// covers: B042, B033, B034
#[test]
fn versions_and_unknown_numbers() {
    let mut w = World::new();
    let th = w.process(10);
    assert_eq!(w.ioctl(th, ioctl::VERSION, &[0; 4]), (0, 8i32.to_le_bytes().to_vec()));
    for cmd in [0x5401, 0xc018_6201, 0xc008_6209, 0x4008_6203, 0x4004_6206, 0] {
        assert_eq!(w.ioctl(th, cmd, &[0; 48]).0, Errno::EINVAL.0, "{cmd:#x}");
    }
    w.finish();
}

/// covers: B041, B042, B043, B045, B053, B054, B057, B058
#[test]
fn bad_pointers() {
    let mut w = World::new();
    let th = w.process(10);
    for (cmd, errno) in [
        (ioctl::VERSION, Errno::EINVAL),
        (ioctl::SET_MAX_THREADS, Errno::EINVAL),
        (ioctl::SET_CONTEXT_MGR_EXT, Errno::EINVAL),
        (ioctl::WRITE_READ, Errno::EFAULT),
        (ioctl::GET_NODE_DEBUG_INFO, Errno::EFAULT),
        (ioctl::GET_NODE_INFO_FOR_REF, Errno::EFAULT),
        (ioctl::ENABLE_ONEWAY_SPAM_DETECTION, Errno::EFAULT),
        (ioctl::FREEZE, Errno::EFAULT),
        (ioctl::GET_FROZEN_INFO, Errno::EFAULT),
        (ioctl::GET_EXTENDED_ERROR, Errno::EFAULT),
    ] {
        let body = Ioctl { cmd, arg_error: Errno::EFAULT, ..Ioctl::default() };
        assert_eq!(w.ioctl_as(th, body).0, errno.0, "{cmd:#x}");
    }
    w.finish();
}

/// covers: B058
#[test]
fn a_bad_pointer_loses_the_extended_error() {
    let mut w = World::new();
    let th = w.process(10);
    w.call(th, 0, b"", &[]);
    let body = Ioctl { cmd: ioctl::GET_EXTENDED_ERROR, arg_error: Errno::EFAULT, ..Ioctl::default() };
    w.ioctl_as(th, body);
    assert_eq!(w.extended_error(th), (br::OK, 0));
    w.finish();
}

/// covers: B044, B046, B048, B051
#[test]
fn the_manager_is_one_and_its_uid_is_pinned() {
    let mut w = World::new();
    let first = w.process(10);
    let second = w.process(11);
    w.euid.extend([(first, 1000), (second, 1001)]);
    assert_eq!(w.ioctl(first, ioctl::SET_CONTEXT_MGR, &[]).0, 0);
    assert_eq!(w.ioctl(first, ioctl::SET_CONTEXT_MGR, &[]).0, Errno::EBUSY.0);
    assert_eq!(w.ioctl(second, ioctl::SET_CONTEXT_MGR, &[]).0, Errno::EBUSY.0);
    w.release(first.proc);
    assert_eq!(w.ioctl(second, ioctl::SET_CONTEXT_MGR, &[]).0, Errno::EPERM.0);
    w.euid.insert(second, 1000);
    assert_eq!(w.ioctl(second, ioctl::SET_CONTEXT_MGR, &[]).0, 0);
    w.finish();
}

/// covers: B047, B048
#[test]
fn the_lsm_may_refuse_the_manager_without_pinning() {
    let mut w = World::new();
    let th = w.process(10);
    let body = Ioctl { cmd: ioctl::SET_CONTEXT_MGR, lsm_error: Errno(-13), ..Ioctl::default() };
    assert_eq!(w.ioctl_as(th, body).0, -13);
    w.euid.insert(th, 77);
    assert_eq!(w.ioctl(th, ioctl::SET_CONTEXT_MGR, &[]).0, 0);
    w.finish();
}

/// covers: B006
#[test]
fn contexts_are_separate_worlds() {
    let mut w = World::new();
    let manager = w.process(10);
    w.become_manager(manager);
    let other = w.open_device("hwbinder", 20);
    let other = w.thread(other, 20);
    assert_eq!(w.call(other, 0, b"", &[]).returns[1].code(), br::DEAD_REPLY);
    assert_eq!(w.ioctl(other, ioctl::SET_CONTEXT_MGR, &[]).0, 0);
    w.finish();
}

/// covers: B050
#[test]
fn an_existing_node_can_become_the_manager() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.release(manager.proc);
    assert_eq!(w.ioctl(owner, ioctl::SET_CONTEXT_MGR_EXT, &flat_object(0, 0, PTR, PTR + 1)).0, 0);
    assert!(w.call(client, 0, b"a", &[]).parked);
    assert_eq!(w.read(owner).data().target, PTR);
    w.reply_now(owner, b"", &[]);
    w.woken(client);
    assert!(w.call(client, handle, b"b", &[]).parked, "the old number still names the node");
    assert_eq!(w.read(owner).data().target, PTR);
    w.finish();
}

/// covers: B053
#[test]
fn node_debug_info_walks_the_nodes() {
    let Trio { mut w, manager, owner, .. } = trio();
    let (errno, bytes) = w.ioctl(owner, ioctl::GET_NODE_DEBUG_INFO, &[0; 24]);
    assert_eq!(
        (errno, long(&bytes, 0), long(&bytes, 8), word(&bytes, 16), word(&bytes, 20)),
        (0, PTR, PTR + 1, 1, 1)
    );
    let mut after = [0; 24];
    after[..8].copy_from_slice(&PTR.to_le_bytes());
    assert_eq!(w.ioctl(owner, ioctl::GET_NODE_DEBUG_INFO, &after), (0, vec![0; 24]));
    assert_eq!(
        w.ioctl(manager, ioctl::GET_NODE_DEBUG_INFO, &[0; 24]),
        (0, vec![0; 24]),
        "pointer 0 is never told"
    );
    w.finish();
}

/// covers: B054
#[test]
fn node_info_for_ref_is_for_the_manager() {
    let Trio { mut w, manager, client, .. } = trio();
    let ask = |handle: u32, reserved: u32| {
        [handle, 0, reserved, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>()
    };
    assert_eq!(w.ioctl(manager, ioctl::GET_NODE_INFO_FOR_REF, &ask(1, 1)).0, Errno::EINVAL.0);
    assert_eq!(w.ioctl(client, ioctl::GET_NODE_INFO_FOR_REF, &ask(1, 0)).0, Errno::EPERM.0);
    assert_eq!(w.ioctl(manager, ioctl::GET_NODE_INFO_FOR_REF, &ask(9, 0)).0, Errno::EINVAL.0);
    let (errno, bytes) = w.ioctl(manager, ioctl::GET_NODE_INFO_FOR_REF, &ask(1, 0));
    // The refs of manager and client contribute one strong count each.
    assert_eq!((errno, word(&bytes, 4), word(&bytes, 8)), (0, 2, 0));
    w.finish();
}

/// covers: B052, B098
#[test]
fn thread_exit_makes_a_new_thread_of_the_next_ioctl() {
    let mut w = World::new();
    let th = w.process(10);
    w.write(th, &[Command::EnterLooper]);
    assert_eq!(w.ioctl(th, ioctl::THREAD_EXIT, &[]).0, 0);
    assert_eq!(w.census().threads, 0);
    assert_eq!(w.read(th).returns.len(), 1, "need-return is set again");
    w.finish();
}

/// covers: B114, B280
#[test]
fn freeze_notifications_are_unknown_to_6_1() {
    for (profile, errno, wc) in [(Profile::Linux6_1, -22, 4), (Profile::Linux7_2, -22, 4)] {
        let mut w = World::with(Default::default(), profile);
        let th = w.process(10);
        let commands = [Command::EnterLooper, Command::FreezeNotificationDone { cookie: 1 }];
        let out = w.write(th, &commands);
        assert_eq!((out.errno, out.wc), (errno, wc));
        w.finish();
    }
    let Trio { mut w, client, handle, .. } = trio_with(World::with(Default::default(), Profile::Linux6_1), 0);
    let out = w.write(client, &[Command::RequestFreezeNotification { handle, cookie: 1 }]);
    assert_eq!(out.errno, -22);
    let _ = object::FD;
    w.finish();
}
