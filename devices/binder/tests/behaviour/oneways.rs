//! Oneway calls: completions, order, budget, spam.

use binder::protocol::{Command, Return, br, ioctl};
use binder::{Limits, Pid, Profile};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

const TC: Return = Return::TransactionComplete;

/// covers: B093, B129, B150
#[test]
fn completions_come_in_the_same_ioctl() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let five: Vec<Command> = (0..5).map(|_| w.call_command(client, handle, 1, b"x", &[])).collect();
    let out = w.write_read(client, &five, READ_SIZE);
    assert_eq!((out.rc, out.returns), (24, vec![Return::Noop, TC, TC, TC, TC, TC]));
    let got = w.read(owner);
    assert_eq!((got.data().sender_pid, got.creds), (Pid(0), None));
    w.finish();
}

/// covers: B146, B229
#[test]
fn oneways_of_a_node_are_serialised_by_the_free() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let other = w.looper(owner.proc, 21);
    for text in [b"1", b"2", b"3"] {
        w.oneway(client, handle, text);
    }
    let first = w.read(owner).data();
    assert_eq!(w.look(owner.proc, first.data, 1), b"1");
    assert!(w.read(other).parked);
    w.free(owner, first.data);
    let second = w.woken(other).data();
    assert_eq!(w.look(owner.proc, second.data, 1), b"2");
    w.free(other, second.data);
    let third = w.read(owner).data();
    assert_eq!(w.look(owner.proc, third.data, 1), b"3");
    w.finish();
}

/// covers: B147
#[test]
fn calls_and_other_nodes_pass_the_backlog() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    let second = w.publish(manager, owner, client, 0x2000, 0);
    w.oneway(client, handle, b"1");
    w.oneway(client, handle, b"2");
    w.oneway(client, second, b"other");
    w.call(client, handle, b"sync", &[]);
    let sizes: Vec<u64> = (0..2).map(|_| w.read(owner).data().data_size).collect();
    assert_eq!(sizes, [1, 5]);
    assert_eq!(w.read(owner).data().data_size, 4);
    w.finish();
}

/// covers: B148, B349, B350, B351, B502
#[test]
fn oneways_fill_half_of_the_mapping() {
    let Trio { mut w, client, handle, .. } = trio();
    for _ in 0..8 {
        assert_eq!(w.oneway(client, handle, &[0; PAGE as usize]).returns, [Return::Noop, TC]);
    }
    assert_eq!(w.oneway(client, handle, b"").returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -28));
    assert!(w.call(client, handle, &[0; 8 * PAGE as usize], &[]).parked);
    w.finish();
}

/// covers: B138, B152, B153, B154, B057
#[test]
fn spam_is_reported_to_senders_that_want_to_know() {
    let Trio { mut w, client, handle, .. } = trio();
    assert_eq!(w.ioctl(client, ioctl::ENABLE_ONEWAY_SPAM_DETECTION, &1u32.to_le_bytes()).0, 0);
    for number in 1..=17 {
        let out = w.oneway(client, handle, &[0; 2048]);
        let expected = match number {
            13 => Return::OnewaySpamSuspect,
            17 => Return::FailedReply,
            _ => TC,
        };
        assert_eq!(out.returns, [Return::Noop, expected], "#{number}");
    }
    w.finish();
}

/// covers: B153
#[test]
fn the_oneway_itself_counts_as_spam_in_old_kernels() {
    for (profile, ninth) in [
        (Profile::Linux6_1, Return::OnewaySpamSuspect),
        (Profile::Aosp, Return::OnewaySpamSuspect),
        (Profile::Linux6_12, TC),
        (Profile::Linux7_2, TC),
    ] {
        let Trio { mut w, manager, owner, client, handle } =
            trio_with(World::with(Limits::default(), profile), 0);
        let other = w.process(40);
        let others = w.publish(manager, owner, other, 0x9000, 0);
        w.ioctl(client, ioctl::ENABLE_ONEWAY_SPAM_DETECTION, &1u32.to_le_bytes());
        // A quarter of the mapping, and no more; another sender makes the space low.
        let mut send = |th, handle| w.oneway(th, handle, &[0; 2048]).returns[1];
        assert!((0..8).all(|_| send(client, handle) == TC));
        assert!((0..5).all(|_| send(other, others) == TC));
        assert_eq!(send(client, handle), ninth, "{profile:?}");
        w.finish();
    }
}

/// covers: B300
#[test]
fn oneways_are_never_nested() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let callback = flat_object(binder::protocol::object::BINDER, 0, 0x60, 0x61);
    w.call(client, handle, &callback, &[0]);
    let got = w.read(owner).data();
    let back = word(&w.look(owner.proc, got.data, 24), 8);
    w.oneway(owner, back, b"");
    assert!(w.sleeps(client));
    let idle = w.looper(client.proc, 31);
    assert_eq!(w.read(idle).data().target, 0x60);
    w.finish();
}

/// covers: B031, B307
#[test]
fn pending_oneways_go_with_their_target() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.oneway(client, handle, b"1");
    w.oneway(client, handle, b"2");
    assert_eq!(w.census().transactions, 2);
    w.release(owner.proc);
    assert_eq!((w.census().transactions, w.census().buffers), (0, 0));
    w.finish();
}

/// covers: B144, B145, B378, B137
#[test]
fn frozen_targets_collect_the_latest_update_only() {
    for (profile, code) in [(Profile::Linux7_2, Return::TransactionPendingFrozen), (Profile::Linux6_1, TC)] {
        let Trio { mut w, manager, owner, client, handle } =
            trio_with(World::with(Limits::default(), profile), 0);
        assert_eq!(w.freeze(manager, 20, 1), 0);
        for text in [b"1", b"2", b"3"] {
            let update = w.call_command(client, handle, 0x41, text, &[]);
            assert_eq!(w.write_read(client, &[update], READ_SIZE).returns, [Return::Noop, code]);
        }
        assert_eq!(w.freeze(manager, 20, 0), 0);
        let first = w.read(owner).data();
        assert_eq!(w.look(owner.proc, first.data, 1), b"1", "the one in the process queue stays");
        w.free(owner, first.data);
        let second = w.read(owner).data();
        assert_eq!(w.look(owner.proc, second.data, 1), b"3");
        w.free(owner, second.data);
        assert_eq!(w.read_nonblock(owner).errno, -11);
        w.finish();
    }
}

impl World {
    /// BINDER_FREEZE without a wait.
    pub fn freeze(&mut self, th: Th, pid: u32, enable: u32) -> i32 {
        self.freeze_for(th, pid, enable, 0)
    }

    pub fn freeze_for(&mut self, th: Th, pid: u32, enable: u32, timeout: u32) -> i32 {
        let arg: Vec<u8> = [pid, enable, timeout].iter().flat_map(|word| word.to_le_bytes()).collect();
        self.ioctl(th, ioctl::FREEZE, &arg).0
    }
}
