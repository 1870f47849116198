//! BINDER and HANDLE objects, and the offsets array.

use binder::protocol::{Command, Return, TransactionData, br, object};

use crate::payloads::*;
use crate::trio::*;
use crate::world::*;

const TC: Return = Return::TransactionComplete;

/// A call that fails at once; returns its errno.
fn refused(w: &mut World, client: Th, handle: u32, data: &[u8], offsets: &[u64]) -> i32 {
    let out = w.call(client, handle, data, offsets);
    assert_eq!(out.returns, [Return::Noop, Return::FailedReply], "{data:x?} {offsets:?}");
    let (command, errno) = w.extended_error(client);
    assert_eq!(command, br::FAILED_REPLY);
    errno
}

/// covers: B175, B178, B179, B232, B092, B156
#[test]
fn an_exported_object_becomes_a_handle_and_its_owner_is_told() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let object = flat_object(object::BINDER, 0x123, 0x60, 0x61);
    w.call(client, handle, &object, &[0]);
    let got = w.read(owner).data();
    assert_eq!(w.look(owner.proc, got.data, 24), flat_object(object::HANDLE, 0x123, 1, 0));
    assert_eq!(w.look(owner.proc, got.offsets, 8), [0; 8]);
    w.reply_now(owner, b"", &[]);
    let back = w.woken(client);
    let told = [Return::Increfs { ptr: 0x60, cookie: 0x61 }, Return::Acquire { ptr: 0x60, cookie: 0x61 }];
    assert_eq!(back.returns[..4], [Return::Noop, told[0], told[1], TC]);
    assert_eq!(back.rc, 116);
    // The same node again: the same handle, and nothing is told.
    w.call(client, handle, &object, &[0]);
    let again = w.read(owner).data();
    assert_eq!(word(&w.look(owner.proc, again.data, 24), 8), 1);
    w.reply_now(owner, b"", &[]);
    assert!(matches!(w.woken(client).returns[..], [_, TC, Return::Reply(_)]));
    w.finish();
}

/// covers: B176, B226
#[test]
fn a_cookie_is_fixed_by_the_first_export() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, &flat_object(object::BINDER, 0, 0x60, 0x61), &[0]);
    w.read(owner).data();
    w.reply_now(owner, b"", &[]);
    w.woken(client);
    let nodes = w.census().nodes;
    let data = [flat_object(object::BINDER, 0, 0x80, 0), flat_object(object::BINDER, 0, 0x60, 0x62)].concat();
    assert_eq!(refused(&mut w, client, handle, &data, &[0, 24]), -22);
    assert_eq!(w.census().nodes, nodes, "the node of the failed call is gone");
    w.finish();
}

/// covers: B182, B183, B187
#[test]
fn only_held_handles_can_be_sent() {
    let Trio { mut w, client, handle, .. } = trio();
    for number in [0, 77] {
        assert_eq!(refused(&mut w, client, handle, &flat_object(object::HANDLE, 0, number, 0), &[0]), -22);
    }
    w.write(
        client,
        &[Command::Acquire { handle: 0 }, Command::Increfs { handle: 0 }, Command::Release { handle: 0 }],
    );
    assert_eq!(refused(&mut w, client, handle, &flat_object(object::HANDLE, 0, 0, 0), &[0]), -22);
    assert!(w.call(client, handle, &flat_object(object::WEAK_HANDLE, 0, 0, 0), &[0]).parked);
    w.finish();
}

/// covers: B184, B185
#[test]
fn a_handle_sent_home_is_the_object_itself() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    for (out, home) in [(object::HANDLE, object::BINDER), (object::WEAK_HANDLE, object::WEAK_BINDER)] {
        w.call(client, handle, &flat_object(out, 5, u64::from(handle) | 7 << 32, 9), &[0]);
        let got = w.read(owner).data();
        assert_eq!(w.look(owner.proc, got.data, 24), flat_object(home, 5, PTR, PTR + 1));
        w.free(owner, got.data);
        w.reply_now(owner, b"", &[]);
        w.woken(client);
    }
    assert_eq!(w.read_nonblock(owner).errno, -11, "nothing is told");
    w.finish();
}

/// covers: B186, B180
#[test]
fn a_handle_sent_to_a_third_process_gets_that_ones_number() {
    let Trio { mut w, manager, client, handle, .. } = trio();
    let third = w.process(40);
    w.write(manager, &[Command::Acquire { handle: 1 }]);
    assert!(w.call(third, 0, b"", &[]).parked);
    w.read(manager).data();
    w.reply_now(manager, &flat_object(object::HANDLE, 3, 1 | 5 << 32, 8), &[0]);
    let got = w.woken(third).data();
    assert_eq!(w.look(third.proc, got.data, 24), flat_object(object::HANDLE, 3, 1, 0));
    assert!(w.call(third, 1, b"", &[]).parked);
    let _ = (client, handle);
    w.finish();
}

/// covers: B180
#[test]
fn the_buffer_holds_the_handle() {
    let Trio { mut w, manager, owner, client, handle } = trio();
    w.call(client, handle, &flat_object(object::BINDER, 0, 0x60, 0x61), &[0]);
    let got = w.read(owner).data();
    let refs = w.census().refs;
    w.free(owner, got.data);
    assert_eq!(w.census().refs, refs - 1);
    let _ = manager;
    w.finish();
}

/// covers: B177
#[test]
fn pointer_0_is_a_pointer() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    w.call(client, handle, &flat_object(object::BINDER, 0, 0, 0), &[0]);
    let got = w.read(owner).data();
    assert_eq!(word(&w.look(owner.proc, got.data, 24), 8), 1);
    w.finish();
}

/// covers: B161, B162, B163, B164, B165, B167, B168
#[test]
fn bad_offsets() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let node = |ptr: u64| flat_object(object::BINDER, 0, ptr, 0);
    let two = [node(1), node(2)].concat();
    let mut unknown = node(1);
    unknown[0] = 0x86;
    for (data, offsets, errno) in [
        (two.clone(), vec![1], -22),
        (two.clone(), vec![2], -22),
        (two.clone(), vec![48], -22),
        (two.clone(), vec![28], -22),
        (two.clone(), vec![49], -14),
        (two.clone(), vec![1 << 63], -14),
        (two.clone(), vec![u64::MAX - 7], -14),
        (two.clone(), vec![0, 0], -14),
        (two.clone(), vec![24, 0], -14),
        (two.clone(), vec![0, 20], -14),
        (vec![], vec![0], -22),
        (unknown, vec![0], -22),
        (node(1)[..20].to_vec(), vec![0], -22),
    ] {
        assert_eq!(refused(&mut w, client, handle, &data, &offsets), errno, "{offsets:?}");
    }
    let payload = w.payload(client, &two, &[0]);
    for (command, errno) in [
        (Command::Transaction(TransactionData { target: 1, offsets_size: 4, ..payload }), -22),
        (Command::TransactionSg(TransactionData { target: 1, ..payload }, 4), -22),
        (Command::Transaction(TransactionData { target: 1, data_size: u64::MAX, ..payload }), -22),
        (
            Command::Transaction(TransactionData {
                target: 1,
                data_size: u64::MAX - 7,
                offsets_size: 0,
                ..payload
            }),
            -28,
        ),
        (Command::TransactionSg(TransactionData { target: 1, ..payload }, u64::MAX - 7), -22),
    ] {
        w.write_read(client, &[command], READ_SIZE);
        assert_eq!(w.extended_error(client), (br::FAILED_REPLY, errno), "{command:?}");
    }
    assert_eq!(w.census().buffers, 0);
    assert_eq!(w.read_nonblock(owner).errno, -11);
    w.finish();
}

/// covers: B163, B166, B172
#[test]
fn objects_may_be_sparse_and_4_aligned() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let data = [b"abcd".as_slice(), &flat_object(object::BINDER, 0, 1, 2), b"efgh", b"ij"].concat();
    w.call(client, handle, &data, &[4]);
    let got = w.read(owner).data();
    let seen = w.look(owner.proc, got.data, got.data_size);
    assert_eq!((&seen[..4], &seen[28..]), (b"abcd".as_slice(), b"efghij".as_slice()));
    assert_eq!(seen[4..28], flat_object(object::HANDLE, 0, 1, 0));
    assert_eq!(got.offsets, got.data + 40);
    assert_eq!(long(&w.look(owner.proc, got.offsets, 8), 0), 4);
    w.finish();
}

/// covers: B169
#[test]
fn unreadable_memory_fails_by_its_place() {
    let Trio { mut w, client, handle, .. } = trio();
    let nowhere = 0x9_0000_0000;
    let good = w.payload(client, &flat_object(object::BINDER, 0, 1, 2), &[0]);
    for (data, errno) in [
        (TransactionData { data: nowhere, data_size: 8, ..Default::default() }, -14),
        (TransactionData { data: nowhere, ..good }, -22),
        (TransactionData { offsets: nowhere, ..good }, -14),
        // The object is readable, the tail is not.
        (TransactionData { data_size: 32, ..good }, -22),
    ] {
        for lazy in [false, true] {
            w.lazy = lazy;
            let command = Command::Transaction(TransactionData { target: u64::from(handle), ..data });
            w.write_read(client, &[command], READ_SIZE);
            assert_eq!(w.extended_error(client), (br::FAILED_REPLY, errno), "{data:?}");
        }
    }
    w.finish();
}

/// covers: B169
#[test]
fn an_unreadable_tail_is_a_fault() {
    let Trio { mut w, client, handle, .. } = trio();
    let data = [flat_object(object::BINDER, 0, 1, 2), vec![0; 20]].concat();
    let good = w.payload(client, &data, &[0]);
    let data = TransactionData { target: u64::from(handle), data_size: 200, ..good };
    w.write_read(client, &[Command::Transaction(data)], READ_SIZE);
    assert_eq!(w.extended_error(client), (br::FAILED_REPLY, -14));
    w.finish();
}

/// covers: B225, B227
#[test]
fn a_failure_undoes_the_objects_before_it() {
    let Trio { mut w, owner, client, handle, .. } = trio();
    let before = w.census();
    let data = [flat_object(object::BINDER, 0, 1, 2), flat_object(object::HANDLE, 0, 55, 0)].concat();
    assert_eq!(refused(&mut w, client, handle, &data, &[0, 24]), -22);
    assert_eq!(binder::Census { idle_pages: 0, ..w.census() }, before);
    w.call(client, handle, &flat_object(object::BINDER, 0, 3, 4), &[0]);
    let got = w.read(owner).data();
    assert_eq!(word(&w.look(owner.proc, got.data, 24), 8), 1, "the number is reused");
    w.finish();
}
