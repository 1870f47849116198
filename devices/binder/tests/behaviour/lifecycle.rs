//! Open, mmap, flush, release, reset; limits.

use binder::protocol::{Command, Return, br, ioctl};
use binder::*;

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

/// covers: B001
#[test]
fn every_open_is_its_own_process() {
    let mut w = World::new();
    let (a, b) = (w.process(10), w.process(10));
    assert_ne!(a.proc, b.proc);
    assert_ne!(a.proc.0, 0);
    w.release(a.proc);
    let c = w.process(10);
    assert!(c.proc > b.proc, "ids are not reused");
    w.finish();
}

/// covers: B007, B010
#[test]
fn one_mapping_a_process() {
    let mut w = World::new();
    let proc = w.open_device("binder", 10);
    assert_eq!(w.note(proc, Body::Mmap { address: 0x10_0001, length: PAGE }).errno, Errno::EINVAL);
    assert_eq!(w.note(proc, Body::Mmap { address: u64::MAX - 4095, length: PAGE }).errno, Errno::EINVAL);
    for length in [0, 1, PAGE - 1] {
        assert_eq!(w.note(proc, Body::Mmap { address: MAPPING, length }).errno, Errno::EINVAL, "{length}");
    }
    assert_eq!(w.note(proc, Body::Mmap { address: MAPPING, length: 64 << 20 }).errno, Errno::OK);
    assert_eq!(w.note(proc, Body::Mmap { address: MAPPING, length: PAGE }).errno, Errno::EBUSY);
    w.note(proc, Body::Unmap);
    assert_eq!(w.note(proc, Body::Mmap { address: MAPPING, length: PAGE }).errno, Errno::EBUSY);
    w.finish();
}

/// covers: B003, B036
#[test]
fn the_first_read_of_a_thread_returns_at_once() {
    let mut w = World::new();
    let proc = w.process(10).proc;
    for nonblock in [false, true] {
        w.nonblock = nonblock;
        let th = Th { proc, tid: Tid(50 + u32::from(nonblock)) };
        let out = w.read(th);
        assert_eq!((out.errno, out.rc, out.returns), (0, 4, vec![Return::Noop]));
    }
    assert_eq!(w.census().threads, 3);
    w.finish();
}

/// covers: B028, B029
#[test]
fn flush_lets_every_thread_return_once() {
    let mut w = World::new();
    let first = w.process(10);
    let second = w.looper(first.proc, 11);
    assert!(w.read(second).parked);
    w.note(first.proc, Body::Flush);
    w.events();
    assert_eq!(w.woken(second).returns, [Return::Noop]);
    assert!(w.read(second).parked);
    assert_eq!(w.read(first).returns, [Return::Noop]);
    assert_eq!(w.read_nonblock(first).errno, Errno::EAGAIN.0);
    w.finish();
}

/// covers: B089
#[test]
fn need_return_flushes_a_withheld_completion() {
    let Trio { mut w, client, handle, .. } = trio();
    assert!(w.call(client, handle, b"", &[]).parked);
    w.note(client.proc, Body::Flush);
    w.events();
    assert_eq!(w.woken(client).returns, [Return::Noop, Return::TransactionComplete]);
    w.finish();
}

/// covers: B030, B031
#[test]
fn a_reset_releases_everything_of_the_guest() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    assert!(w.read(owner).parked);
    w.call(client, handle, b"x", &[]);
    let other = w.thread(client.proc, 31);
    w.oneway(other, handle, b"y");
    w.domain.reset(GUEST, &mut w.trace);
    assert_eq!(w.census(), Census::default());
    assert!(w.domain.next_event(GUEST).is_none());
    assert_eq!(w.ioctl(client, ioctl::VERSION, &[0; 4]).0, Errno::EBADF.0);
}

#[test]
fn unknown_guests_and_processes_are_refused() {
    let mut w = World::new();
    let th = w.process(10);
    let stranger = Th { proc: ProcId(77), ..th };
    assert_eq!(w.ioctl(stranger, ioctl::VERSION, &[0; 4]).0, Errno::EBADF.0);
    let rams = Rams(&w.ram);
    let header = Header { proc: th.proc.0, tid: th.tid, ..Header::default() };
    let message = Message { header, body: Body::Poll };
    let mut other = |guest| w.domain.handle(&rams, guest, &message, &mut NoTrace).errno;
    assert_eq!(other(GuestId(9)), Errno::EBADF);
    w.domain.attach(GuestId(9));
    let rams = Rams(&w.ram);
    assert_eq!(w.domain.handle(&rams, GuestId(9), &message, &mut NoTrace).errno, Errno::EBADF);
    w.finish();
}

#[test]
fn quotas_end_in_enomem() {
    let limits = Limits { max_procs: 3, max_threads: 4, ..Limits::default() };
    let mut w = World::with(limits, Profile::default());
    let th = w.process(10);
    w.process(11);
    w.process(12);
    assert_eq!(w.open_as(Open::default()), Err(Errno::ENOMEM));
    w.thread(th.proc, 20);
    assert_eq!(w.ioctl(Th { proc: th.proc, tid: Tid(21) }, ioctl::VERSION, &[0; 4]).0, Errno::ENOMEM.0);
    assert_eq!(w.send(Th { proc: th.proc, tid: Tid(21) }, Body::Poll).poll_mask, 8);
    w.finish();
}

/// covers: B496
#[test]
fn quotas_of_transactions_are_failed_replies() {
    for limits in [
        Limits { max_transactions: 1, ..Limits::default() },
        Limits { max_buffers: 1, ..Limits::default() },
        Limits { max_objects: 1, ..Limits::default() },
        Limits { max_buffer_objects: 1, ..Limits::default() },
        Limits { max_nodes: 2, ..Limits::default() },
    ] {
        let mut w = World::with(limits, Profile::default());
        let manager = w.process(10);
        w.become_manager(manager);
        let client = w.process(30);
        w.nonblock = true;
        let node = |ptr: u64| flat_object(binder::protocol::object::BINDER, 0, ptr, 0);
        w.oneway(client, 0, b"");
        let data = [node(1), node(2)].concat();
        w.call(client, 0, &data, &[0, 24]);
        assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -12));
        w.finish();
    }
}

/// covers: B024, B101
#[test]
fn a_thread_that_is_no_looper_reads_process_work_too() {
    let mut w = World::new();
    let manager = w.process(10);
    w.become_manager(manager);
    let client = w.process(30);
    w.oneway(client, 0, b"");
    w.read(manager).data();
    assert!(w.trace.iter().any(|event| {
        matches!(event, TraceEvent::UserError { error: binder::trace::UserError::NotALooper, .. })
    }));
    w.finish();
}

/// covers: B356, B357, rule 24
#[test]
fn trim_gives_idle_pages_back_and_they_are_asked_for_again() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, &[1; 3 * PAGE as usize], &[]);
    assert_eq!(w.asked, [NeedKind::Pages]);
    let got = w.read(owner).data();
    let in_use = w.note(owner.proc, Body::Trim { max: 100 });
    assert!(in_use.slots.is_empty(), "{in_use:?}");
    w.free(owner, got.data);
    assert_eq!(w.idle_pages, 3);
    w.reply_now(owner, b"", &[]);
    w.woken(client);
    let answer = w.note(owner.proc, Body::Trim { max: 2 });
    assert_eq!(answer.slots, [2, 1]);
    assert_eq!(w.note(owner.proc, Body::Trim { max: 100 }).slots, [0]);
    assert!(w.note(owner.proc, Body::Trim { max: 100 }).slots.is_empty());
    w.procs.get_mut(&owner.proc).unwrap().slots.clear();
    w.asked.clear();
    w.call(client, handle, b"again", &[]);
    assert_eq!(w.asked, [NeedKind::Pages]);
    let got = w.read(owner).data();
    assert_eq!(w.look(owner.proc, got.data, 5), b"again");
    w.finish();
}

/// The whole state is plain data: a domain restored in the middle of everything goes on as before.
#[test]
fn a_saved_domain_goes_on() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    assert!(w.read(owner).parked);
    w.hold = true;
    w.write_read(client, &[Command::EnterLooper], 0);
    let call = w.call_command(client, handle, 0, &[9; 3 * PAGE as usize], &[]);
    w.write_read(client, &[call], READ_SIZE);
    let Status::Needs(needs) = w.last.status.clone() else { panic!("{:?}", w.last) };
    let saved = serde_json::to_vec(&w.domain).unwrap();
    w.domain = serde_json::from_slice(&saved).unwrap();
    assert_eq!(w.census().suspended, 1);
    w.hold = false;
    let results = needs.iter().map(|need| w.supply(client, need)).collect();
    w.send(client, Body::Continue(Continue::Needs(results)));
    w.events();
    let got = w.woken(owner).data();
    assert_eq!(w.look(owner.proc, got.data, 3 * PAGE), vec![9; 3 * PAGE as usize]);
    w.finish();
}

/// covers: B496
#[test]
fn completions_that_nobody_reads_are_bounded() {
    let limits = Limits { max_transactions: 3, ..Limits::default() };
    let mut w = World::with(limits, Profile::default());
    let manager = w.process(10);
    w.become_manager(manager);
    let client = w.process(30);
    for number in 0..5 {
        let oneway = w.call_command(client, 0, 1, b"", &[]);
        w.write(client, &[oneway]);
        let failed = w.extended_error(client) == (br::FAILED_REPLY, -12);
        assert_eq!(failed, number == 3, "#{number}: the fourth fails, the fifth is not executed");
        let got = w.read_nonblock(manager);
        if got.errno == 0 {
            w.free(manager, got.data().data);
        }
    }
    let tc = Return::TransactionComplete;
    assert_eq!(w.read(client).returns, [Return::Noop, tc, tc, tc, Return::FailedReply]);
    let oneway = w.call_command(client, 0, 1, b"", &[]);
    assert_eq!(w.write_read(client, &[oneway], READ_SIZE).returns, [Return::Noop, tc]);
    w.finish();
}

/// covers: B496, rule 36
#[test]
fn files_and_suspended_commands_are_bounded() {
    let limits = Limits { max_tokens: 1, ..Limits::default() };
    let Trio { mut w, client, handle, .. } = trio_with(World::with(limits, Profile::default()), 0x100);
    w.procs.get_mut(&client.proc).unwrap().fds.insert(3, 500);
    let file = flat_object(binder::protocol::object::FD, 0, 3, 0);
    w.call(client, handle, &[file.clone(), file].concat(), &[0, 24]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -12));
    w.finish();
    let limits = Limits { max_suspended_bytes: 100, ..Limits::default() };
    let mut w = World::with(limits, Profile::default());
    let manager = w.process(10);
    w.become_manager(manager);
    let client = w.process(30);
    let out = w.call(client, 0, b"x", &[]);
    assert_eq!(out.returns, [Return::Noop, Return::FailedReply]);
    assert_eq!((w.extended_error(client), out.wc), ((br::FAILED_REPLY, -12), 68));
    w.finish();
}

/// covers: rule 16
#[test]
fn a_message_that_copies_much_ends_early() {
    let mut w = World::new();
    let manager = w.process_with(10, 4 << 20);
    w.become_manager(manager);
    let client = w.process(30);
    let commands: Vec<Command> = (0..4).map(|_| w.call_command(client, 0, 1, &[5; 500_000], &[])).collect();
    w.trace.clear();
    let out = w.write_read(client, &commands, READ_SIZE);
    assert_eq!((out.wc, out.returns.len()), (4 * 68, 5));
    let more =
        |event: &&TraceEvent| matches!(event, TraceEvent::Answered { status: trace::StatusKind::More, .. });
    assert_eq!(w.trace.iter().filter(more).count(), 0, "NEEDS ended every message before");
    for _ in 0..4 {
        let got = w.read(manager).data();
        w.free(manager, got.data);
    }
    w.trace.clear();
    assert_eq!(w.write_read(client, &commands, READ_SIZE).wc, 4 * 68);
    assert_eq!(w.trace.iter().filter(more).count(), 1);
    w.finish();
}

/// covers: B031, B052 (events of threads that end)
#[test]
fn events_go_with_their_threads_alone() {
    let mut w = World::new();
    let first = w.process(10);
    w.become_manager(first);
    let sleepers: Vec<Th> = (11..14).map(|tid| w.looper(first.proc, tid)).collect();
    let other = w.process(20);
    for th in sleepers.iter().chain([&other]) {
        assert!(w.read(*th).parked);
    }
    // Nobody takes the events away.
    w.note(first.proc, Body::Flush);
    w.note(other.proc, Body::Flush);
    assert_eq!(w.census().events, 4);
    let exit = Ioctl { cmd: ioctl::THREAD_EXIT, arg: vec![0; 4], ..Ioctl::default() };
    w.message(Header { proc: first.proc.0, tid: first.tid, ..Header::default() }, Body::Ioctl(exit));
    assert_eq!(w.census().events, 4, "that one had none");
    w.release(first.proc);
    assert_eq!(w.census().events, 1);
    let event = w.domain.next_event(GUEST).unwrap();
    assert_eq!((event.proc, event.tid), (other.proc, other.tid));
    w.finish();
}
