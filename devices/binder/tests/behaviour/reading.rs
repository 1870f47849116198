//! The two halves of BINDER_WRITE_READ: consumption, room, queues, blocking, loopers.

use binder::protocol::{Command, Return, bc, ioctl, object};
use binder::{Body, ChunkEnd, Errno, Limits, Profile, Status, TraceEvent};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

const TC: Return = Return::TransactionComplete;

/// covers: B061, B062, B063
#[test]
fn an_error_points_at_its_command_and_nothing_is_read() {
    let mut w = World::new();
    let th = w.process(10);
    let mut bytes = Vec::new();
    Command::EnterLooper.encode(&mut bytes);
    bytes.extend(unknown_command());
    let size = bytes.len() as u64;
    let out = w.raw_write_read(th, &bytes, size, 256, 0);
    assert_eq!((out.errno, out.wc, out.rc), (-22, 4, 0));
    for command in [Command::AttemptAcquire { priority: 0, handle: 1 }, Command::AcquireResult(0)] {
        assert_eq!((w.write(th, &[command]).errno, w.write(th, &[command]).wc), (-22, 0));
    }
    w.finish();
}

/// covers: B060, B061
#[test]
fn a_consumed_buffer_is_not_parsed() {
    let mut w = World::new();
    let th = w.process(10);
    let fields: [u64; 6] = [4, 9, 0x1000, 0, 0, 0];
    let arg = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    let body = binder::Ioctl { cmd: ioctl::WRITE_READ, arg, ..Default::default() };
    assert_eq!(w.ioctl_as(th, body).0, 0);
    assert_eq!(w.last.write_consumed, 9);
    w.finish();
}

/// covers: B068
#[test]
fn a_payload_that_write_size_cuts_is_a_fault_and_a_short_tail_is_ignored() {
    let mut w = World::new();
    let th = w.process(10);
    let bytes = [bc::ENTER_LOOPER.to_le_bytes().as_slice(), &bc::ACQUIRE.to_le_bytes(), &[0, 0]].concat();
    let out = w.raw_write_read(th, &bytes, bytes.len() as u64, 0, 0);
    assert_eq!((out.errno, out.wc), (Errno::EFAULT.0, 4));
    let bytes = [bc::ENTER_LOOPER.to_le_bytes().as_slice(), &[1, 2, 3]].concat();
    let out = w.raw_write_read(th, &bytes, bytes.len() as u64, 0, 0);
    assert_eq!((out.errno, out.wc), (0, 4));
    w.finish();
}

/// covers: B063
#[test]
fn an_unreadable_byte_fails_where_it_is_reached() {
    let mut w = World::new();
    let th = w.process(10);
    let fields: [u64; 6] = [8, 0, 0x1000, 256, 0, 0x2000];
    let arg = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    let bytes = bc::ENTER_LOOPER.to_le_bytes().to_vec();
    let chunk = binder::Chunk { bytes, end: ChunkEnd::Unreadable, ..Default::default() };
    let body = binder::Ioctl { cmd: ioctl::WRITE_READ, arg, chunk, ..Default::default() };
    assert_eq!(w.ioctl_as(th, body).0, Errno::EFAULT.0);
    assert_eq!(w.last.write_consumed, 4);
    w.finish();
}

/// covers: B060, rule 7
#[test]
fn a_stream_in_chunks_is_one_stream() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.chunk_limit = 68;
    let commands: Vec<Command> = (0..4).map(|_| w.call_command(client, handle, 1, b"x", &[])).collect();
    let out = w.write_read(client, &commands, READ_SIZE);
    assert_eq!((out.wc, out.returns), (4 * 68, vec![Return::Noop, TC, TC, TC, TC]));
    w.read(owner).data();
    w.finish();
}

#[test]
fn a_chunk_out_of_place_ends_the_ioctl() {
    let Trio { mut w, client, .. } = trio();
    w.chunk_limit = 4;
    w.hold = true;
    w.write_read(client, &[Command::EnterLooper, Command::ExitLooper], READ_SIZE);
    assert_eq!(w.last.status, Status::More);
    let chunk = binder::Chunk { position: 8, ..Default::default() };
    let answer = w.send(client, Body::Continue(binder::Continue::More(chunk)));
    assert_eq!((answer.status, answer.errno), (Status::Done, Errno::EPROTO));
    w.finish();
}

/// covers: B072, B073, B074
#[test]
fn a_read_buffer_needs_room_for_the_longest_item() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.oneway(client, handle, b"x");
    for (size, rc) in [(4, 4), (79, 4), (3, 0), (1, 0)] {
        let out = w.raw_write_read(owner, &[], 0, size, 0);
        assert_eq!((out.errno, out.rc), (0, rc), "size {size}");
    }
    assert_eq!(w.raw_write_read(owner, &[], 0, 80, 0).rc, 72);
    w.finish();
}

/// covers: B071, B099
#[test]
fn reading_goes_on_after_what_is_there() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.oneway(client, handle, b"x");
    let out = w.raw_write_read(owner, &[], 0, 256, 8);
    assert_eq!(out.rc, 76);
    assert!(matches!(out.returns[..], [Return::Transaction(_)]));
    w.finish();
}

/// covers: B075
#[test]
fn an_unwritable_read_buffer_takes_nothing() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"x", &[]);
    w.read_bad = true;
    let out = w.write_read(owner, &[Command::EnterLooper], READ_SIZE);
    assert_eq!((out.errno, out.wc, out.rc), (Errno::EFAULT.0, 4, 0));
    w.read_bad = false;
    w.read(owner).data();
    w.finish();
}

/// covers: B075, B134
#[test]
fn a_fault_in_the_read_buffer_fails_the_call_back() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"x", &[]);
    w.read(owner).data();
    w.send(owner, Body::ReadFault { offset: 4 });
    w.events();
    assert_eq!(w.woken(client).returns, [Return::Noop, TC, Return::FailedReply]);
    assert_eq!(w.census().buffers, 0);
    assert_eq!(w.reply(owner, b"", &[]).returns, [Return::Noop, Return::FailedReply]);
    // A oneway's node is free for the next one.
    w.oneway(client, handle, b"1");
    w.oneway(client, handle, b"22");
    w.read(owner).data();
    w.send(owner, Body::ReadFault { offset: 4 });
    assert_eq!(w.read(owner).data().data_size, 2);
    w.finish();
}

/// covers: B077, B086, rule 17
#[test]
fn a_signal_ends_the_sleep_with_eintr() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    assert!(w.write_read(owner, &[Command::EnterLooper], READ_SIZE).parked);
    let answer = w.signal(owner);
    assert_eq!((answer.status, answer.errno, answer.write_consumed), (Status::Done, Errno::EINTR, 4));
    assert_eq!((answer.read_consumed, answer.result), (0, Return::Noop.code().to_le_bytes().to_vec()));
    assert!(w.call(client, handle, b"", &[]).parked, "nobody waits any more");
    w.read(owner).data();
    w.finish();
}

/// covers: B086, B511, rule 17
#[test]
fn a_signal_that_comes_after_the_work_is_too_late() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    assert!(w.read(owner).parked);
    // Nobody takes the event yet.
    let command = w.call_command(client, handle, 1, b"", &[]);
    let mut bytes = Vec::new();
    command.encode(&mut bytes);
    w.asked.clear();
    let fields: [u64; 6] = [bytes.len() as u64, 0, 0x1000, 0, 0, 0];
    let arg = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
    let chunk = binder::Chunk { bytes, ..Default::default() };
    let fresh = w.thread(client.proc, 40);
    let header =
        binder::Header { proc: fresh.proc.0, tid: fresh.tid, seq: binder::Seq(2), ..Default::default() };
    let ioctl = binder::Ioctl { cmd: ioctl::WRITE_READ, arg, chunk, ..Default::default() };
    let answer = w.message(header, Body::Ioctl(ioctl));
    let Status::Needs(needs) = answer.status else { panic!("{answer:?}") };
    let results = needs.iter().map(|need| w.supply(fresh, need)).collect();
    w.message(header, Body::Continue(binder::Continue::Needs(results)));
    assert_eq!(w.send(owner, Body::Cancel).status, Status::TooLate);
    w.events();
    w.woken(owner).data();
    assert_eq!(w.send(owner, Body::Cancel).status, Status::TooLate);
    w.finish();
}

/// covers: B315
#[test]
fn a_call_survives_the_signal_of_its_caller() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, b"", &[]);
    assert_eq!(w.signal(client).errno, Errno::EINTR);
    w.read(owner).data();
    w.reply_now(owner, b"", &[]);
    assert!(matches!(w.read(client).returns[..], [_, TC, Return::Reply(_)]));
    w.finish();
}

/// covers: B078, B079, B131
#[test]
fn a_thread_with_work_of_its_own_takes_no_process_work() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let oneway = w.call_command(owner, 0, 1, b"", &[]);
    w.write(owner, &[oneway]);
    w.oneway(client, handle, b"");
    assert_eq!(w.read(owner).returns, [Return::Noop, TC]);
    w.read(owner).data();
    w.finish();
}

/// covers: B083, B084, B090
#[test]
fn waiting_threads_are_taken_last_in_first_out() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let second = w.looper(owner.proc, 21);
    assert!(w.read(owner).parked);
    assert!(w.read(second).parked);
    let callers: Vec<Th> = (31..34).map(|tid| w.thread(client.proc, tid)).collect();
    for caller in &callers {
        w.call(*caller, handle, b"", &[]);
    }
    assert!(w.trace.iter().any(|event| matches!(event, binder::TraceEvent::Woken { .. })));
    w.woken(second).data();
    w.woken(owner).data();
    w.reply_now(owner, b"", &[]);
    w.read(owner).data();
    w.finish();
}

/// covers: B096, B097, B098, B100
#[test]
fn another_looper_is_asked_for() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.ioctl(owner, ioctl::SET_MAX_THREADS, &1u32.to_le_bytes());
    assert!(w.read(owner).parked);
    w.oneway(client, handle, b"1");
    let out = w.woken(owner);
    assert_eq!((out.returns[0], out.rc), (Return::SpawnLooper, 72));
    w.free(owner, out.data().data);
    w.oneway(client, handle, b"2");
    let out = w.read(owner);
    assert_eq!(out.returns[0], Return::Noop, "one request at a time");
    w.free(owner, out.data().data);
    let new = w.thread(owner.proc, 21);
    w.write(new, &[Command::RegisterLooper]);
    w.oneway(client, handle, b"3");
    assert_eq!(w.read(owner).returns[0], Return::Noop, "there are as many as wanted");
    w.finish();
}

/// covers: B097
#[test]
fn no_looper_is_asked_for_while_one_waits_or_by_others() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.ioctl(owner, ioctl::SET_MAX_THREADS, &5u32.to_le_bytes());
    let second = w.looper(owner.proc, 21);
    assert!(w.read(owner).parked);
    assert!(w.read(second).parked);
    w.oneway(client, handle, b"1");
    assert_eq!(w.woken(second).returns[0], Return::Noop);
    let plain = w.thread(owner.proc, 22);
    let oneway = w.call_command(plain, 0, 1, b"", &[]);
    assert_eq!(w.write_read(plain, &[oneway], READ_SIZE).returns, [Return::Noop, TC]);
    w.finish();
}

/// covers: B095
#[test]
fn looper_misuse_has_no_effect() {
    let mut w = World::new();
    let th = w.process(10);
    let commands =
        [Command::RegisterLooper, Command::EnterLooper, Command::RegisterLooper, Command::ExitLooper];
    assert_eq!(w.write(th, &commands).wc, 16);
    w.finish();
}

/// covers: B076
#[test]
fn a_thread_that_leaves_work_behind_wakes_another() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    let second = w.looper(owner.proc, 21);
    assert!(w.read(second).parked);
    assert!(w.raw_write_read(owner, &[], 0, 79, 0).parked);
    w.write(manager, &[Command::Release { handle: 1 }]);
    w.write(client, &[Command::Release { handle }]);
    assert_eq!(w.woken(owner).returns, [Return::Noop], "no room for the work");
    let told = [Return::Release { ptr: PTR, cookie: PTR + 1 }, Return::Decrefs { ptr: PTR, cookie: PTR + 1 }];
    assert_eq!(w.woken(second).returns[1..], told);
    w.finish();
}

/// covers: B114, B116
#[test]
fn what_is_refused_is_refused_before_its_payload_is_read() {
    let freeze =
        [bc::REQUEST_FREEZE_NOTIFICATION, bc::CLEAR_FREEZE_NOTIFICATION, bc::FREEZE_NOTIFICATION_DONE];
    for (profile, of_freeze) in [(Profile::Linux6_1, Errno::EINVAL), (Profile::Linux7_2, Errno::EFAULT)] {
        let mut w = World::with(Limits::default(), profile);
        let th = w.process(10);
        let refused = [bc::ATTEMPT_ACQUIRE, bc::ACQUIRE_RESULT].map(|word| (word, Errno::EINVAL));
        for (word, errno) in refused.into_iter().chain(freeze.map(|word| (word, of_freeze))) {
            let bytes = [bc::ENTER_LOOPER, word].map(u32::to_le_bytes).concat();
            let out = w.raw_write_read(th, &bytes, 8, 0, 0);
            assert_eq!((out.errno, out.wc), (errno.0, 4), "{word:#x} with {profile:?}");
        }
        w.domain.accept_attempts(GUEST, true);
        let bytes = bc::ACQUIRE_RESULT.to_le_bytes();
        assert_eq!(w.raw_write_read(th, &bytes, 4, 0, 0).errno, Errno::EFAULT.0);
        w.finish();
    }
}

/// covers: B091, rule 13
#[test]
fn a_long_read_comes_in_pages() {
    let Trio { mut w, client, handle, .. } = trio();
    let commands: Vec<Command> = (0..1000).map(|_| w.call_command(client, handle, 1, b"", &[])).collect();
    assert_eq!(w.write(client, &commands).wc, 68_000);
    let out = w.raw_write_read(client, &[], 0, 8192, 0);
    assert_eq!((out.rc, out.returns.len()), (4004, 1001));
    w.finish();
}

/// covers: B091, B496, rule 13
#[test]
fn a_long_read_keeps_nothing_of_what_was_taken_away() {
    let Trio { mut w, client, handle, .. } = trio();
    let commands: Vec<Command> = (0..2000).map(|_| w.call_command(client, handle, 1, b"", &[])).collect();
    w.write(client, &commands);
    let size = |w: &World| postcard::to_stdvec(&w.domain).unwrap().len();
    w.hold = true;
    w.raw_write_read(client, &[], 0, 8192, 0);
    let before = size(&w);
    let more = w.send(client, Body::Continue(binder::Continue::More(Default::default())));
    assert_eq!(more.status, Status::More);
    let (taken, less) = (more.result.len() / 4, before - size(&w));
    assert!(less > 3 * taken, "{taken} items gone make it only {less} bytes smaller");
    w.finish();
}

/// covers: B097, B098, rules 13, 35
#[test]
fn every_return_of_a_long_read_is_told_once() {
    for threads in [0u32, 1] {
        let Trio { mut w, client, handle, .. } = trio();
        w.ioctl(client, ioctl::SET_MAX_THREADS, &threads.to_le_bytes());
        let commands: Vec<Command> = (0..1000).map(|_| w.call_command(client, handle, 1, b"", &[])).collect();
        w.write(client, &commands);
        w.write(client, &[Command::EnterLooper]);
        w.trace.clear();
        let out = w.raw_write_read(client, &[], 0, 8192, 0);
        let first = [Return::Noop, Return::SpawnLooper][threads as usize];
        assert_eq!((out.returns[0], out.returns.len()), (first, 1001));
        let told = w.trace.iter().filter_map(|event| match event {
            TraceEvent::Return { item, .. } => Some(*item),
            _ => None,
        });
        // What the first word is was known at the end.
        let mut seen = out.returns.clone();
        seen.rotate_left(1);
        assert_eq!(told.collect::<Vec<_>>(), seen);
        w.finish();
    }
}

/// covers: rule 13
#[test]
fn a_long_result_of_a_sleeper_is_fetched() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    // Many handles go at once: the owner hears of all of them in one read.
    let nodes: Vec<u32> =
        (0..20).map(|index| w.publish(manager, owner, client, 0x8000 + index * 16, 0)).collect();
    let _ = handle;
    assert!(w.read(owner).parked);
    w.release(manager.proc);
    w.write(client, &nodes.iter().map(|handle| Command::Release { handle: *handle }).collect::<Vec<_>>());
    let out = w.woken(owner);
    assert_eq!(out.returns.len(), 1 + 2 * 20);
    w.finish();
}

#[test]
fn an_ioctl_of_a_busy_thread_is_a_protocol_error() {
    let Trio { mut w, owner, .. } = trio();
    assert!(w.read(owner).parked);
    assert_eq!(w.ioctl(owner, ioctl::VERSION, &[0; 4]).0, Errno::EPROTO.0);
    for body in [Body::Fetch, Body::Timeout, Body::Continue(binder::Continue::More(Default::default()))] {
        assert_eq!(w.send(owner, body).errno, Errno::EPROTO);
    }
    w.finish();
}

/// covers: B075, PROTOCOL.md (READ_FAULT ends the ioctl also where MORE was said)
#[test]
fn a_fault_in_the_first_page_of_a_long_read_ends_it() {
    let Trio { mut w, client, handle, .. } = trio();
    let data: Vec<u8> = (0..60).flat_map(|at| flat_object(object::BINDER, 0, 0x9000 + at * 8, 1)).collect();
    let offsets: Vec<u64> = (0..60).map(|at| at * 24).collect();
    let command = w.call_command(client, handle, 1, &data, &offsets);
    w.write(client, &[command]);
    w.hold = true;
    w.write_read(client, &[], 8192);
    assert_eq!(w.last.status, Status::More);
    assert_eq!(w.send(client, Body::ReadFault { offset: 0 }).status, Status::Done);
    w.hold = false;
    assert_eq!(w.census().suspended, 0);
    let rest = w.read(client);
    assert_eq!((rest.errno, rest.returns.last()), (0, Some(&TC)));
    w.finish();
}
