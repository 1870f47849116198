//! File descriptors on their way.

use binder::protocol::{Command, Return, br, object, tf};
use binder::{Errno, NeedKind, Status};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

const TC: Return = Return::TransactionComplete;

fn fd_object(fd: u32) -> Vec<u8> {
    flat_object(object::FD, 0x33, u64::from(fd) | 0xffff_0000_0000, 0x44)
}

/// A trio whose client has the files 500, 501, 502 as its descriptors 3, 4, 5.
fn with_files() -> Trio {
    let mut trio = trio();
    let fds = &mut trio.w.procs.get_mut(&trio.client.proc).unwrap().fds;
    fds.extend([(3, 500), (4, 501), (5, 502)]);
    trio
}

/// covers: B191, B192, B193, B194, B195
#[test]
fn a_descriptor_is_made_when_the_call_is_read() {
    let Trio { mut w, owner, client, handle, .. } = with_files();
    w.call(client, handle, &fd_object(3), &[0]);
    assert_eq!((w.tokens.len(), w.census().tokens), (1, 1));
    w.procs.get_mut(&client.proc).unwrap().fds.clear();
    let got = w.read(owner).data();
    assert_eq!(w.look(owner.proc, got.data, 24), flat_object(object::FD, 0x33, 0, 0x44));
    assert_eq!(w.procs[&owner.proc].fds, [(0, 500)].into());
    assert_eq!((w.tokens.len(), w.census().tokens), (0, 0));
    w.free(owner, got.data);
    assert_eq!(w.procs[&owner.proc].fds.len(), 1, "the receiver owns it");
    w.finish();
}

/// covers: B191
#[test]
fn a_sleeping_reader_makes_the_descriptors_itself() {
    let Trio { mut w, owner, client, handle, .. } = with_files();
    assert!(w.read(owner).parked);
    let data = [fd_object(3), fd_object(5)].concat();
    w.call(client, handle, &data, &[0, 24]);
    let got = w.woken(owner).data();
    assert_eq!(w.procs[&owner.proc].fds, [(0, 500), (1, 502)].into());
    assert_eq!(word(&w.look(owner.proc, got.data, 48), 32), 1);
    w.finish();
}

/// covers: B191
#[test]
fn more_tokens_than_an_event_holds_are_fetched() {
    let Trio { mut w, owner, client, handle, .. } = with_files();
    assert!(w.read(owner).parked);
    let data: Vec<u8> = (0..100).flat_map(|_| fd_object(3)).collect();
    let offsets: Vec<u64> = (0..100).map(|index| index * 24).collect();
    w.call(client, handle, &data, &offsets);
    w.woken(owner).data();
    assert_eq!(w.procs[&owner.proc].fds.len(), 100);
    w.finish();
}

/// covers: B142, B189
#[test]
fn the_node_or_the_call_must_accept_descriptors() {
    let Trio { mut w, owner, client, handle, .. } = trio_with(World::new(), 0);
    w.procs.get_mut(&client.proc).unwrap().fds.insert(3, 500);
    assert_eq!(w.call(client, handle, &fd_object(3), &[0]).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -1));
    assert!(!w.asked.contains(&NeedKind::Files), "refused before the file is looked up");
    w.procs.get_mut(&owner.proc).unwrap().fds.insert(7, 700);
    for (flags, accepted) in [(0, false), (tf::ACCEPT_FDS, true)] {
        let call = w.call_command(client, handle, flags, b"", &[]);
        w.write_read(client, &[call], READ_SIZE);
        w.read(owner).data();
        w.reply_now(owner, &fd_object(7), &[0]);
        let back = w.woken(client).returns;
        assert_eq!(matches!(back[2], Return::Reply(_)), accepted, "{back:?}");
    }
    assert!(w.procs[&client.proc].fds.values().any(|file| *file == 700));
    w.finish();
}

/// covers: B190, B225
#[test]
fn a_bad_descriptor_fails_the_call_and_lets_the_others_go() {
    let Trio { mut w, client, handle, .. } = with_files();
    let data = [fd_object(3), fd_object(99), fd_object(4)].concat();
    assert_eq!(w.call(client, handle, &data, &[0, 24, 48]).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -9));
    assert!(w.tokens.is_empty());
    w.file_error = Some(Errno(-13));
    assert_eq!(w.call(client, handle, &fd_object(3), &[0]).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -1));
    w.finish();
}

/// covers: B197, B198, B134
#[test]
fn a_full_receiver_fails_the_call_and_goes_on_waiting() {
    let Trio { mut w, owner, client, handle, .. } = with_files();
    w.procs.get_mut(&owner.proc).unwrap().max_fds = 1;
    let data = [fd_object(3), fd_object(4)].concat();
    assert!(w.read(owner).parked);
    assert!(w.call(client, handle, &data, &[0, 24]).parked);
    assert!(w.sleeps(owner));
    assert_eq!(w.woken(client).returns, [Return::Noop, TC, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::OK, 0));
    assert!(w.procs[&owner.proc].fds.is_empty());
    assert_eq!(w.census().buffers, 0);
    // It still gets the next call.
    assert!(w.call(client, handle, b"", &[]).parked);
    assert!(matches!(w.woken(owner).returns[..], [_, Return::Transaction(_)]));
    w.finish();
}

/// covers: B199
#[test]
fn a_oneway_whose_descriptors_fail_is_dropped_and_the_backlog_moves_on() {
    let Trio { mut w, owner, client, handle, .. } = with_files();
    w.procs.get_mut(&owner.proc).unwrap().max_fds = 0;
    let first = w.call_command(client, handle, tf::ONE_WAY, &fd_object(3), &[0]);
    let second = w.call_command(client, handle, tf::ONE_WAY, b"next", &[]);
    assert_eq!(w.write_read(client, &[first, second], READ_SIZE).returns, [Return::Noop, TC, TC]);
    let got = w.read(owner).data();
    assert_eq!(got.data_size, 4);
    w.finish();
}

/// covers: B200
#[test]
fn a_reply_whose_descriptors_fail_reads_as_a_failure() {
    let Trio { mut w, owner, client, handle, .. } = with_files();
    w.procs.get_mut(&owner.proc).unwrap().fds.insert(7, 700);
    w.procs.get_mut(&client.proc).unwrap().max_fds = 3;
    w.call(client, handle, b"", &[]);
    w.read(owner).data();
    w.reply_now(owner, &fd_object(7), &[0]);
    assert_eq!(w.woken(client).returns, [Return::Noop, TC, Return::FailedReply]);
    w.finish();
}

/// covers: B196
#[test]
fn files_of_an_undelivered_call_are_released() {
    let Trio { mut w, owner, client, handle, .. } = with_files();
    w.call(client, handle, &fd_object(3), &[0]);
    assert_eq!(w.tokens.len(), 1);
    w.release(owner.proc);
    assert!(w.tokens.is_empty());
    w.finish();
}

/// covers: B201 (bounds)
#[test]
fn the_number_of_files_is_bounded() {
    let limits = binder::Limits { max_files: 2, ..Default::default() };
    let Trio { mut w, client, handle, .. } = trio_with(World::with(limits, Default::default()), 0x100);
    w.procs.get_mut(&client.proc).unwrap().fds.insert(3, 500);
    let data: Vec<u8> = (0..3).flat_map(|_| fd_object(3)).collect();
    assert_eq!(w.call(client, handle, &data, &[0, 24, 48]).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -12));
    w.finish();
}

/// covers: B201 (bounds)
#[test]
fn no_limit_admits_more_files_than_an_answer_carries() {
    let limits = binder::Limits { max_files: u32::MAX, ..Default::default() };
    let Trio { mut w, owner, client, handle, .. } = trio_with(World::with(limits, Default::default()), 0x100);
    w.procs.get_mut(&client.proc).unwrap().fds.insert(3, 500);
    let max = u64::from(binder::MAX_INSTALL_FILES);
    let data: Vec<u8> = (0..=max).flat_map(|_| fd_object(3)).collect();
    let offsets: Vec<u64> = (0..=max).map(|index| index * 24).collect();
    assert_eq!(w.call(client, handle, &data, &offsets).returns, [Return::Noop, Return::FailedReply]);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -12));
    assert!(w.call(client, handle, &data[24..], &offsets[..max as usize]).parked);
    w.read(owner).data();
    assert_eq!(w.procs[&owner.proc].fds.len() as u64, max);
    w.finish();
}

/// Thread exit between INSTALL and its answer.
#[test]
fn a_process_that_dies_while_installing_fails_the_call() {
    let Trio { mut w, owner, client, handle, .. } = with_files();
    w.call(client, handle, &fd_object(3), &[0]);
    w.hold = true;
    w.read(owner);
    assert!(matches!(w.last.status, Status::Install(_)));
    w.hold = false;
    w.release(owner.proc);
    w.events();
    assert_eq!(w.woken(client).returns, [Return::Noop, TC, Return::DeadReply]);
    assert!(w.tokens.is_empty());
    let _ = Command::EnterLooper;
    w.finish();
}

/// covers: 2.12 (tokens must be gone at RELEASE)
#[test]
fn release_lets_every_file_go_before_it_is_over() {
    let Trio { mut w, manager, owner, client, handle } = with_files();
    let data: Vec<u8> = (0..200).flat_map(|_| fd_object(3)).collect();
    let offsets: Vec<u64> = (0..200).map(|index| index * 24).collect();
    w.call(client, handle, &data, &offsets);
    assert_eq!(w.tokens.len(), 200);
    assert_eq!(w.domain.expects(GUEST, owner.proc.0, binder::Tid(0)), binder::Expects::Nothing);
    let answer = w.note(owner.proc, binder::Body::Release);
    assert_eq!(answer.status, Status::More);
    assert_eq!(w.domain.expects(GUEST, owner.proc.0, binder::Tid(0)), binder::Expects::More);
    // Nobody looks at the answer of a note.
    assert!(w.note(manager.proc, binder::Body::Flush).actions.is_empty());
    let more = || binder::Body::Continue(binder::Continue::More(Default::default()));
    let statuses: Vec<Status> = (0..3).map(|_| w.note(owner.proc, more()).status).collect();
    assert_eq!(statuses, [Status::More, Status::More, Status::Done]);
    assert!(w.tokens.is_empty());
    w.procs.remove(&owner.proc);
    w.finish();
}
