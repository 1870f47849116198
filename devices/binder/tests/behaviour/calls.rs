//! Synchronous calls and replies.

use binder::protocol::{Command, Return, TransactionData, br, tf};
use binder::{Errno, Kuid, Limits, Pid, Profile};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

const TC: Return = Return::TransactionComplete;

/// covers: B092, B104, B130, B132, B298 (none), B330
#[test]
fn a_call_is_delivered_and_answered() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    assert!(w.read(owner).parked);
    assert!(w.call(client, handle, b"hello", &[]).parked);
    let got = w.woken(owner);
    let data = got.data();
    assert_eq!(got.returns[0], Return::Noop);
    assert_eq!((got.rc, got.creds), (72, Some(client.proc)));
    assert_eq!((data.target, data.cookie, data.code, data.sender_pid), (PTR, PTR + 1, 7, Pid(30)));
    assert_eq!(w.look(owner.proc, data.data, data.data_size), b"hello");
    w.free(owner, data.data);
    assert_eq!(w.reply(owner, b"world!", &[]).returns, [Return::Noop, TC]);
    let back = w.woken(client);
    assert!(matches!(back.returns[..], [Return::Noop, Return::TransactionComplete, Return::Reply(_)]));
    assert_eq!(back.rc, 76);
    assert_eq!(w.look(client.proc, back.data().data, 6), b"world!");
    assert_eq!((back.data().sender_pid, back.data().target, back.creds), (Pid(0), 0, None));
    w.finish();
}

/// covers: B013, B174, B345, B346
#[test]
fn payloads_are_packed_and_padding_is_zero() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, &[0xff; 13], &[]);
    let first = w.read(owner).data();
    assert_eq!(w.look(owner.proc, first.data, 16), [[0xff; 13].as_slice(), &[0; 3]].concat());
    assert_eq!(first.offsets, first.data + 16);
    let second_client = w.thread(client.proc, 31);
    w.call(second_client, handle, b"", &[]);
    let other = w.looper(owner.proc, 21);
    let second = w.read(other).data();
    assert_eq!(second.data, first.data + 16);
    assert!(!w.procs[&owner.proc].slots.contains_key(&1), "only touched pages are filled");
    w.finish();
}

/// covers: B077, B087, B130
#[test]
fn without_blocking_a_call_ends_with_eagain_and_the_completion_waits() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.nonblock = true;
    let out = w.call(client, handle, b"x", &[]);
    assert_eq!((out.errno, out.wc, out.rc), (Errno::EAGAIN.0, 68, 0));
    assert_eq!(out.bytes, Return::Noop.code().to_le_bytes());
    assert_eq!(w.read(client).errno, Errno::EAGAIN.0);
    w.read(owner);
    w.reply_now(owner, b"", &[]);
    let back = w.read(client);
    assert!(matches!(back.returns[..], [Return::Noop, Return::TransactionComplete, Return::Reply(_)]));
    w.finish();
}

/// covers: B121, B122, B127, B065
#[test]
fn calls_to_handle_0_need_a_manager_of_another_process() {
    let mut w = World::new();
    let client = w.process(30);
    let command = w.call_command(client, 0, 0, b"", &[]);
    let out = w.write_read(client, &[command, Command::EnterLooper], READ_SIZE);
    assert_eq!(out.returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(out.wc, 68, "the rest of the buffer is not executed");
    assert_eq!(w.extended_error(client), (br::DEAD_REPLY, -22));
    assert_eq!(w.extended_error(client), (br::OK, 0));
    let manager = w.process(10);
    w.become_manager(manager);
    let twin = w.process(10);
    for th in [manager, twin] {
        assert_eq!(w.call(th, 0, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
        assert_eq!(w.extended_error(th), (br::FAILED_REPLY, -22));
    }
    w.finish();
}

/// covers: B065
#[test]
fn after_a_failure_nothing_is_executed_until_it_is_read() {
    let mut w = World::new();
    let client = w.process(30);
    let command = w.call_command(client, 0, 0, b"", &[]);
    assert_eq!(w.write(client, &[command]).wc, 68);
    let out = w.write(client, &[Command::EnterLooper]);
    assert_eq!((out.errno, out.wc), (0, 0));
    assert_eq!(w.read(client).returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(w.write(client, &[Command::EnterLooper]).wc, 4);
    w.finish();
}

/// covers: B119
#[test]
fn unknown_and_weak_handles_are_no_targets() {
    let Trio { mut w, client, handle, .. } = trio();
    for target in [handle + 1, 99] {
        assert_eq!(w.call(client, target, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
        assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -22));
    }
    w.write(client, &[Command::Increfs { handle }, Command::Release { handle }]);
    assert_eq!(w.call(client, handle, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    w.finish();
}

/// covers: B123, B311
#[test]
fn a_dead_owner_is_a_dead_reply() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.release(owner.proc);
    assert_eq!(w.call(client, handle, b"", &[]).returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(w.extended_error(client), (br::DEAD_REPLY, -22));
    w.finish();
}

/// covers: B032, B134, B311
#[test]
fn the_death_of_the_server_ends_delivered_and_queued_calls() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let second = w.thread(client.proc, 31);
    assert!(w.call(client, handle, b"", &[]).parked);
    assert!(w.call(second, handle, b"", &[]).parked);
    w.read(owner).data();
    w.release(owner.proc);
    w.events();
    for th in [client, second] {
        assert_eq!(w.woken(th).returns, [Return::Noop, TC, Return::DeadReply]);
        assert_eq!(w.extended_error(th), (br::OK, 0));
    }
    w.finish();
}

/// covers: B126, B297
#[test]
fn a_second_call_while_one_is_outstanding_fails() {
    let Trio { mut w, client, handle, .. } = trio();
    w.nonblock = true;
    w.call(client, handle, b"", &[]);
    let out = w.call(client, handle, b"", &[]);
    assert_eq!(out.returns, [Return::Noop, TC, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -71));
    assert_eq!(w.oneway(client, handle, b"").returns, [Return::Noop, TC], "oneways are allowed");
    w.finish();
}

/// covers: B125
#[test]
fn no_call_while_an_undelivered_one_is_at_the_head_of_the_own_queue() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let callback = flat_object(binder::protocol::object::BINDER, 0x7f, 0x60, 0x61);
    w.nonblock = true;
    w.call(client, handle, &callback, &[0]);
    let got = w.read(owner).data();
    let back = word(&w.look(owner.proc, got.data, 24), 8);
    // The nested call waits in the client's own queue while the client is busy elsewhere.
    w.call(owner, back, b"", &[]);
    let call = w.call_command(client, handle, 0, b"", &[]);
    let oneway = w.call_command(client, handle, tf::ONE_WAY, b"", &[]);
    w.write(client, &[oneway, call]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -71));
    let returns = w.read(client).returns;
    assert!(matches!(returns[4], Return::Transaction(_)), "{returns:?}");
    assert_eq!(w.read(client).returns, [Return::Noop, TC, Return::FailedReply]);
    w.finish();
}

/// covers: B293, B294, B295, B296, B319
#[test]
fn only_the_receiving_thread_may_reply() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    assert_eq!(w.reply(owner, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(owner), (br::FAILED_REPLY, -71));
    w.call(client, handle, b"", &[]);
    w.read(owner).data();
    let other = w.looper(owner.proc, 21);
    assert_eq!(w.reply(other, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    w.reply_now(owner, b"", &[]);
    assert!(matches!(w.woken(client).returns[..], [_, _, Return::Reply(_)]));
    w.oneway(client, handle, b"");
    w.read(owner).data();
    assert_eq!(w.reply(owner, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    w.finish();
}

/// covers: B133, B313
#[test]
fn a_reply_too_large_fails_at_the_caller() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"", &[]);
    w.read(owner).data();
    w.reply_now(owner, &vec![0; 17 * PAGE as usize], &[]);
    assert_eq!(w.extended_error(owner), (br::OK, 0));
    assert_eq!(w.woken(client).returns, [Return::Noop, TC, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -28));
    w.finish();
}

/// covers: B015, B016
#[test]
fn a_process_without_mapping_may_call_but_not_receive() {
    let Trio { mut w, owner, handle, manager, .. } = trio();
    let bare = w.open_device("binder", 40);
    let bare = w.thread(bare, 40);
    assert!(w.call(bare, 0, b"", &[]).parked);
    w.read(manager).data();
    w.reply_now(manager, b"", &[]);
    assert_eq!(w.woken(bare).returns, [Return::Noop, TC, Return::DeadReply]);
    assert_eq!(w.extended_error(bare), (br::DEAD_REPLY, -3));
    let bare_node = flat_object(binder::protocol::object::BINDER, 0, 0x50, 0x51);
    w.call(bare, 0, &bare_node, &[0]);
    let got = w.read(manager).data();
    let node = word(&w.look(manager.proc, got.data, 24), 8);
    w.reply_now(manager, b"", &[]);
    assert_eq!(w.call(manager, node, b"", &[]).returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(w.extended_error(manager), (br::DEAD_REPLY, -3));
    let _ = (owner, handle);
    w.finish();
}

/// covers: B014
#[test]
fn after_munmap_nothing_arrives() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.note(owner.proc, binder::Body::Unmap);
    assert_eq!(w.call(client, handle, b"", &[]).returns, [Return::Noop, Return::DeadReply]);
    assert_eq!(w.extended_error(client), (br::DEAD_REPLY, -3));
    w.finish();
}

/// covers: B298, B299, B301, B312
#[test]
fn a_nested_call_goes_to_the_thread_that_waits_in_the_chain() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    // The client exports a callback with its call; its pool has an idle looper.
    let idle = w.looper(client.proc, 31);
    assert!(w.read(idle).parked);
    let callback = flat_object(binder::protocol::object::BINDER, 0x7f, 0x60, 0x61);
    assert!(w.call(client, handle, &callback, &[0]).parked);
    let got = w.read(owner).data();
    let back = word(&w.look(owner.proc, got.data, 24), 8);
    assert!(w.call(owner, back, b"nested", &[]).parked);
    assert!(w.sleeps(idle));
    let nested = w.woken(client);
    let told = [Return::Increfs { ptr: 0x60, cookie: 0x61 }, Return::Acquire { ptr: 0x60, cookie: 0x61 }];
    assert_eq!(nested.returns[..4], [Return::Noop, told[0], told[1], TC]);
    assert_eq!(nested.data().target, 0x60);
    // Replies unwind last in, first out.
    w.reply_now(client, b"", &[]);
    assert!(matches!(w.woken(owner).returns[..], [_, TC, Return::Reply(_)]));
    assert!(w.read(client).parked);
    w.reply_now(owner, b"", &[]);
    assert!(matches!(w.woken(client).returns[..], [_, Return::Reply(_)]));
    let _ = manager;
    w.finish();
}

/// covers: B305, B306
#[test]
fn a_server_thread_that_exits_fails_its_call() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"", &[]);
    w.read(owner).data();
    assert_eq!(w.ioctl(owner, binder::protocol::ioctl::THREAD_EXIT, &[0; 4]).0, 0);
    assert_eq!(w.woken(client).returns, [Return::Noop, TC, Return::DeadReply]);
    assert_eq!(w.extended_error(client), (br::OK, 0));
    assert_eq!(w.reply(owner, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    w.finish();
}

/// covers: B308, B309
#[test]
fn a_caller_that_exits_is_not_missed() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.nonblock = true;
    w.call(client, handle, b"", &[]);
    w.ioctl(client, binder::protocol::ioctl::THREAD_EXIT, &[0; 4]);
    let got = w.read(owner);
    assert_eq!((got.data().sender_pid, got.creds), (Pid(0), None));
    assert_eq!(w.reply(owner, b"", &[]).returns, [Return::Noop, TC]);
    w.finish();
}

/// covers: B310
#[test]
fn the_caller_of_a_dead_middle_thread_hears_when_the_end_answers() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.call(client, handle, b"", &[]);
    w.read(owner).data();
    w.nonblock = true;
    w.call(owner, 0, b"", &[]);
    w.nonblock = false;
    w.read(manager).data();
    w.ioctl(owner, binder::protocol::ioctl::THREAD_EXIT, &[0; 4]);
    assert!(w.sleeps(client));
    w.reply_now(manager, b"", &[]);
    assert_eq!(w.woken(client).returns, [Return::Noop, TC, Return::DeadReply]);
    w.finish();
}

/// covers: B302, B495
#[test]
fn a_deep_chain_is_released_without_recursion() {
    let mut w = World::new();
    let a = w.process(10);
    w.become_manager(a);
    w.write(a, &[Command::EnterLooper]);
    let b = w.process(20);
    w.nonblock = true;
    let callback = flat_object(binder::protocol::object::BINDER, 0x7f, 0x60, 0x61);
    w.call(b, 0, &callback, &[0]);
    let got = w.read(a).data();
    let back = word(&w.look(a.proc, got.data, 24), 8);
    for _ in 0..300 {
        w.call(a, back, b"", &[]);
        w.read(b).data();
        w.call(b, 0, b"", &[]);
        w.read(a).data();
    }
    assert_eq!(w.census().transactions, 601);
    w.ioctl(a, binder::protocol::ioctl::THREAD_EXIT, &[0; 4]);
    w.finish();
}

/// covers: B111, B230, B307, B363
#[test]
fn the_buffer_may_be_freed_before_the_reply_and_only_once() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"12345678", &[]);
    let got = w.read(owner).data();
    let free = Command::FreeBuffer { data: got.data };
    let wrong = Command::FreeBuffer { data: got.data + 8 };
    assert_eq!(w.write(owner, &[wrong, Command::FreeBuffer { data: 0 }, free, free]).wc, 48);
    w.reply_now(owner, b"", &[]);
    assert!(matches!(w.woken(client).returns[..], [_, _, Return::Reply(_)]));
    w.finish();
}

/// covers: B359
#[test]
fn an_undelivered_buffer_cannot_be_freed() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"first", &[]);
    let next = w.procs[&owner.proc].slots.len();
    assert_eq!(next, 1);
    w.write(owner, &[Command::FreeBuffer { data: MAPPING }]);
    assert_eq!(w.census().buffers, 1);
    w.read(owner).data();
    w.free(owner, MAPPING);
    assert_eq!(w.census().buffers, 0);
    w.finish();
}

/// covers: B332
#[test]
fn the_euid_is_the_threads_or_the_leaders_by_profile() {
    for (profile, seen) in [(Profile::Linux7_2, 1000), (Profile::Linux6_1, 5)] {
        let Trio { mut w, owner, client, handle, .. } = trio_with(World::with(Limits::default(), profile), 0);
        w.euid.insert(client, 1000);
        w.leader_euid = 5;
        w.call(client, handle, b"", &[]);
        assert_eq!(w.read(owner).data().sender_euid, Kuid(seen));
        w.finish();
    }
}

/// covers: B320, B322, B323, B324
#[test]
fn nice_is_inherited_and_restored() {
    for (caller, minimum, during) in [(-5, 0, -5), (5, 10, 5), (15, 10, 10), (15, 0, 0), (-3, 0xec, -3)] {
        let Trio { mut w, owner, client, handle, .. } = trio_with(World::new(), minimum);
        w.nice.insert(owner, 3);
        w.nice.insert(client, caller);
        assert!(w.read(owner).parked);
        assert_eq!(w.nice[&owner], 0, "waiting for process work resets to the default");
        w.call(client, handle, b"", &[]);
        w.woken(owner);
        assert_eq!(w.nice[&owner], during);
        w.reply_now(owner, b"", &[]);
        assert_eq!(w.nice[&owner], 0);
        w.finish();
    }
}

/// covers: B321
#[test]
fn a_oneway_only_raises_to_the_minimum() {
    for (default, minimum, during) in [(10, 4, 4), (2, 4, 2)] {
        let mut w = World::new();
        let open = binder::Open {
            tgid: Pid(10),
            default_nice: default,
            context: b"binder".to_vec(),
            ..Default::default()
        };
        let manager = w.open_as(open).unwrap();
        w.note(manager, binder::Body::Mmap { address: MAPPING, length: 16 * PAGE });
        let manager = w.looper(manager, 10);
        assert_eq!(
            w.ioctl(manager, binder::protocol::ioctl::SET_CONTEXT_MGR_EXT, &flat_object(0, minimum, 0, 0)).0,
            0
        );
        assert!(w.read(manager).parked);
        assert_eq!(w.nice[&manager], default);
        let client = w.process(30);
        w.nice.insert(client, -20);
        w.oneway(client, 0, b"");
        w.woken(manager);
        assert_eq!(w.nice[&manager], during);
        w.finish();
    }
}

/// covers: B160, B327, B457
#[test]
fn the_aosp_profile_lends_real_time_where_the_node_says_so() {
    const FIFO: u32 = 1;
    const RR: u32 = 2;
    const INHERIT_RT: u32 = 0x800;
    // The caller's policy and priority, the node's flags, and what the callee runs with.
    for (caller, flags, during) in [
        ((0, -5), 0, (0, -5)),
        ((0, 5), 0, (0, 0)),
        ((FIFO, 10), 0, (0, 0)),
        ((FIFO, 10), INHERIT_RT, (FIFO, 10)),
        ((RR, 3), INHERIT_RT | RR << 9 | 7, (RR, 7)),
        ((0, 0), RR << 9 | 7, (RR, 7)),
        ((0, 0), 0xec, (0, -20)),
    ] {
        let Trio { mut w, owner, client, handle, .. } =
            trio_with(World::with(Limits::default(), Profile::Aosp), flags);
        assert!(w.read(owner).parked);
        w.policy.insert(client, caller.0);
        w.nice.insert(client, caller.1);
        w.call(client, handle, b"", &[]);
        w.woken(owner);
        assert_eq!(w.scheduling(owner), during, "{caller:?} {flags:#x}");
        w.reply_now(owner, b"", &[]);
        assert_eq!(w.scheduling(owner), (0, 0));
        w.finish();
    }
}

/// covers: B339
#[test]
fn without_a_security_context_a_node_that_wants_it_is_not_called() {
    let Trio { mut w, client, handle, .. } = trio_with(World::new(), 0x1000);
    assert_eq!(w.call(client, handle, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -95));
    w.finish();
}

/// covers: B335, B336
#[test]
fn a_manager_may_ask_for_security_contexts() {
    let mut w = World::new();
    let manager = w.process(10);
    let mut arg = flat_object(0, 0x1000, 0x70, 0x71);
    arg.resize(24, 0);
    assert_eq!(w.ioctl(manager, binder::protocol::ioctl::SET_CONTEXT_MGR_EXT, &arg).0, 0);
    w.write(manager, &[Command::EnterLooper]);
    let open = binder::Open {
        tgid: Pid(50),
        context: b"binder".to_vec(),
        secctx: b"u:r:su:s0".to_vec(),
        ..Default::default()
    };
    let client = w.open_as(open).unwrap();
    let client = w.thread(client, 50);
    w.call(client, 0, b"abc", &[]);
    let out = w.read(manager);
    let Some(Return::TransactionSecCtx(data, secctx)) = out.returns.get(1).copied() else {
        panic!("{out:?}")
    };
    assert_eq!((data.target, data.cookie, data.sender_pid), (0x70, 0x71, Pid(50)));
    assert_eq!((out.rc, secctx), (80, data.data + 8));
    assert_eq!(w.look(manager.proc, secctx, 16), b"u:r:su:s0\0\0\0\0\0\0\0");
    w.finish();
}

/// covers: B340
#[test]
fn a_default_security_context_can_be_configured() {
    let limits = Limits { default_secctx: Some(b"u:r:shell:s0".to_vec()), ..Limits::default() };
    let Trio { mut w, owner, client, handle, .. } =
        trio_with(World::with(limits, Profile::default()), 0x1000);
    w.call(client, handle, b"", &[]);
    let out = w.read(owner);
    let Some(Return::TransactionSecCtx(_, secctx)) = out.returns.get(1).copied() else { panic!("{out:?}") };
    assert_eq!(w.look(owner.proc, secctx, 13), b"u:r:shell:s0\0");
    w.finish();
}

/// covers: B143
#[test]
fn clear_buf_zeroes_the_buffer_when_it_is_freed() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let command = w.call_command(client, handle, tf::CLEAR_BUF, b"secret", &[]);
    w.write_read(client, &[command], READ_SIZE);
    let got = w.read(owner).data();
    assert_eq!(w.look(owner.proc, got.data, 6), b"secret");
    w.free(owner, got.data);
    assert_eq!(w.look(owner.proc, got.data, 6), [0; 6]);
    w.finish();
}

/// covers: B107, B139
#[test]
fn flags_are_passed_through_and_the_rest_is_ignored() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let data = TransactionData {
        target: u64::from(handle) | 0xdead_0000_0000,
        cookie: 9,
        flags: 0xff00_0008,
        sender_pid: Pid(1),
        sender_euid: Kuid(2),
        ..TransactionData::default()
    };
    assert!(w.write_read(client, &[Command::Transaction(data)], READ_SIZE).parked);
    let got = w.read(owner).data();
    assert_eq!(
        (got.flags, got.cookie, got.sender_pid, got.sender_euid),
        (0xff00_0008, PTR + 1, Pid(30), Kuid(0))
    );
    w.finish();
}
